"""Figures of an audit as SVG that takes its colours from the page, so that it fits light and dark.

Text stays text and is drawn in the page's font. What the figures mean is said by the page.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from text_gym.episode import FloatArray
from text_gym.utils.interval import Interval

# Colours that stand for the page's own, exchanged in the finished SVG.
_INK, _SOURCE, _GOLD, _GRID = "#010203", "#010204", "#010205", "#010206"
_PAGE = {_INK: "currentColor", _SOURCE: "var(--source)", _GOLD: "var(--gold)", _GRID: "var(--grid)"}
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "font.size": 9,
    "grid.color": _GRID,
    "svg.fonttype": "none",
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}
_WIDTH = 4.8  # inches; narrow enough to be read on a phone

Series = tuple[str, Sequence["Interval | None"]]


def intervals(
    labels: Sequence[str], series: Sequence[Series], unit: str, *, zero: float = 0.0, name: str = "figure"
) -> str:
    """Estimates with their 95 % intervals, a row a label; the first series in the source's colour.

    Args:
        labels: Of the rows, from above.
        series: Name and an interval (or None) for each row; two at most.
        unit: Label of the axis.
        zero: Where a line is drawn.
        name: A word of the figure's own.
    """
    figure, axes = _axes(0.75 + 0.3 * len(labels) + 0.15 * len(series), name)
    for number, ((title, rows), colour) in enumerate(zip(series, (_SOURCE, _GOLD), strict=False)):
        found = [(i, r) for i, r in enumerate(rows) if r is not None and not math.isnan(r.value)]
        y = np.array([i for i, _ in found]) + (number - (len(series) - 1) / 2) * 0.28
        x = np.array([r.value for _, r in found])
        ends = np.array([[r.value - r.low, r.high - r.value] for _, r in found]).reshape(-1, 2).T
        marker = "o" if number == 0 else "D"
        axes.errorbar(
            x, y, xerr=np.maximum(ends, 0), fmt=marker, markersize=5, linewidth=1.6, color=colour, label=title
        )
    axes.axvline(zero, color=_GRID, linewidth=1.2, zorder=0)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlabel(unit)
    axes.locator_params(axis="x", nbins=6)
    axes.grid(axis="x", alpha=0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    if len(series) > 1:
        axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2, frameon=False, labelcolor=_INK)
    return _svg(figure, name)


def scatter(x: FloatArray, y: FloatArray, x_label: str, y_label: str, name: str = "scatter") -> str:
    """One dot a text."""
    figure, axes = _axes(3.1, name)
    axes.scatter(x, y, s=14, alpha=0.55, linewidths=0, color=_SOURCE)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.5)
    return _svg(figure, name)


def _axes(height: float, name: str) -> tuple[Any, Any]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Any, name: str) -> str:
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):  # equal figures, equal bytes
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    for colour, ours in _PAGE.items():
        text = text.replace(colour, ours)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px var(--font)", text)
    # Ids are the figure's own, since the page holds several.
    return re.sub(r'(id="|url\(#|href="#)', rf"\1{name}-", text)
