"""Figures that are not drawn: most of a short run's time would go into curves that no test looks at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pytest
from matplotlib.figure import Figure

draw = Figure.savefig  # for a test that looks at a figure beside others that do not


def write_data(figure: Figure, target: str | TextIO, **settings: Any) -> None:
    """Stand in for `Figure.savefig`: write the points of all lines and scatters, and letters none."""
    lines = [line.get_xydata() for ax in figure.axes for line in ax.lines]
    clouds = [cloud.get_offsets() for ax in figure.axes for cloud in ax.collections]
    data = json.dumps([np.ma.filled(np.ma.asarray(points), np.nan).tolist() for points in lines + clouds])
    page = f'<svg viewBox="0 0 300 200"><g>{data}</g></svg>'
    if isinstance(target, str):
        Path(target).write_text(page, encoding="utf-8")
    else:
        target.write(page)


@contextmanager
def figures_as_data() -> Iterator[None]:
    """Write what figures are of, and draw none; `tests/plot` and the tests of reports draw."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", write_data)
        yield
