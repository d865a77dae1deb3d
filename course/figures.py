"""Figures of the scripts of pictures: written into the folder `figures`, and shown in notebooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from text_gym import plot

ENDING = "png"  # of the files; or svg, for slides


def show(ax: Any, name: str) -> Path:
    """Save a figure in the folder `figures`, and show it if this is a notebook.

    Args:
        ax: Axes or a figure, as `text_gym.plot` gives them.
        name: Of the file, without its ending.
    """
    folder = Path("figures")
    folder.mkdir(exist_ok=True)
    file = plot.save(ax, folder / f"{name}.{ENDING}")
    try:
        from IPython import get_ipython  # type: ignore[import-not-found, unused-ignore]
        from IPython.display import Image, display  # type: ignore[import-not-found, unused-ignore]
    except ModuleNotFoundError:
        pass
    else:
        if get_ipython() is not None:
            display(Image(filename=str(file)))  # type: ignore[no-untyped-call, unused-ignore]
            return file
    print(f"see {file}")
    return file
