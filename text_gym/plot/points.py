"""Points in the plane, with names beside them that hide neither each other nor a point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from text_gym.errors import DataError

from .canvas import drawing
from .lines import Points, numbers
from .style import COLOURS, MARKERS, SOFT, label, legend_below, name_axes, note

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMED = 60  # points that can have names
Box = tuple[float, float, float, float]


def scatter(
    series: Mapping[str, Points],
    *,
    names: Sequence[str] | None = None,
    x_label: str = "",
    y_label: str = "",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw a dot for each pair of numbers.

    Args:
        series: Name -> `(n,)` positions and `(n,)` values.
        names: Of the points of a single series, written beside them; at most 60.
        x_label: What the horizontal axis shows, with its unit.
        y_label: What the vertical axis shows, with its unit.
        title: Above the axes.
        ax: Where to draw; in a new figure if None.

    Raises:
        DataError: Numbers of different lengths, or names that are too many or not one a point.
    """
    pairs = {
        name: (numbers(x, f"x of {label(name)!r}"), numbers(y, f"y of {label(name)!r}"))
        for name, (x, y) in series.items()
    }
    for name, (x, y) in pairs.items():
        if len(x) != len(y):
            raise DataError(f"{label(name)!r} has {len(x)} positions for {len(y)} values")
        if names is not None and (len(pairs) > 1 or len(names) != len(x) or len(x) > _NAMED):
            raise DataError(
                f"{len(names)} names for {len(x)} points of {len(pairs)} series; names are for one series of "
                f"at most {_NAMED} points, one a point"
            )
    with drawing(ax, (4.8, 3.4)) as ax:
        for n, (name, (x, y)) in enumerate(pairs.items()):
            many = len(x) > 30
            ax.plot(
                x, y, MARKERS[n % len(MARKERS)], color=COLOURS[n % len(COLOURS)], label=label(name) or "_",
                markersize=3.5 if many else 6, alpha=0.55 if many else 1.0, markeredgewidth=0,
            )  # fmt: skip
        if not any(np.isfinite(x + y).any() for x, y in pairs.values()):
            note(ax, "nothing to draw: no number is finite")
        name_axes(ax, x_label, y_label, title)
        legend_below(ax)
        if names is not None:
            ax.margins(0.14, 0.12)
            for x, y in pairs.values():
                known = np.isfinite(x + y)
                place_names(
                    ax, [(float(a), float(b), n) for a, b, n, k in zip(x, y, names, known, strict=True) if k]
                )
    return ax


def place_names(ax: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write names beside points so that they hide neither each other nor a point, where there is room."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = ax.get_figure(root=True)
    assert figure is not None
    canvas = figure.canvas
    own = FigureCanvasAgg(figure)
    own.draw()  # type: ignore[no-untyped-call]  # so that axes and letters have their places
    renderer = own.get_renderer()  # type: ignore[no-untyped-call]
    figure.set_canvas(canvas)
    at = [ax.transData.transform((x, y)) for x, y, _ in points]
    taken: list[Box] = [(px - 5, py - 5, px + 5, py + 5) for px, py in at]
    inside = ax.get_window_extent(renderer)
    scale = 72 / figure.dpi
    for (x, y, name), (px, py) in zip(points, at, strict=True):
        text = ax.annotate(label(name), (x, y), (0, 0), textcoords="offset points", fontsize=8)
        text.set_parse_math(False)
        size = text.get_window_extent(renderer)
        best: tuple[float, float, float, Box] | None = None
        for dx, dy in _around(size.width, size.height):
            box = (px + dx, py + dy, px + dx + size.width, py + dy + size.height)
            out = box[0] < inside.x0 or box[2] > inside.x1 or box[1] < inside.y0 or box[3] > inside.y1
            overlap = sum(_overlap(box, other) for other in taken) + 1e6 * out
            if best is None or overlap < best[0]:
                best = (overlap, dx, dy, box)
            if overlap == 0:
                break
        assert best is not None
        _, dx, dy, box = best
        taken.append(box)
        text.set_position((dx * scale, dy * scale))
        text.set_verticalalignment("bottom")
        if abs(dy) > 1.5 * size.height:
            ax.annotate(
                "", (x, y), ((dx + size.width / 2) * scale, (dy + size.height / 2) * scale),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": SOFT, "linewidth": 0.6, "shrinkB": 3, "shrinkA": 6},
            )  # fmt: skip


def _around(width: float, height: float) -> Iterator[tuple[float, float]]:
    """Places for a name, the nearest first: right, left, above, below, then further up and down."""
    for distance in (0.0, 1.0, 2.0, 3.0, 4.0):
        for side in (1, -1):
            for left in (8.0, -width - 8.0, -width / 2):
                if distance == 0 and left == -width / 2:
                    continue
                yield left, -height / 2 + side * distance * 1.1 * height


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
