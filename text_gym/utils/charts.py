"""Figures that are drawn once and kept twice: SVG in the page's own colours, and PNG.

matplotlib draws; colours become the page's variables (`--ink`, `--c1` …), so that a figure is legible in
light and dark. What figures show is not said here: see `figures`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from markupsafe import Markup

INK, SOFT, FAINT, GRID, PAPER = "#1d2025", "#5c636e", "#c3c8cf", "#e4e6ea", "#fcfcfb"
COLOURS = ("#1f6fd0", "#b07a00", "#1f7a45", "#8e44ad", "#c0392b", "#00838f", "#7a5230", "#d1477d")
_VARIABLES = {INK: "ink", SOFT: "soft", FAINT: "faint", GRID: "grid", PAPER: "paper"} | {
    colour: f"c{n}" for n, colour in enumerate(COLOURS, 1)
}
STYLES = ("-", "--", ":", "-.")
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # names of users are no formulas
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.7,
    "lines.markersize": 4,
    **{f"{name}.color": INK for name in ("text", "xtick", "ytick")},
    **{f"axes.{name}color": INK for name in ("label", "title")},
    "axes.edgecolor": SOFT,
}


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Args:
        title: Above it; empty for none.
        draw: Draws into matplotlib's axes.
        size: Width and height in inches.
        legend: Where the names of its lines stand: below, inside, or nowhere.
    """

    title: str
    draw: Callable[[Any], None]
    size: tuple[float, float] = (3.9, 3.0)
    legend: Literal["below", "inside", "none"] = "below"


@dataclass(frozen=True)
class Plate:
    """Panels that belong together: an SVG each, and one PNG of all.

    Args:
        name: Of the PNG file.
        title: For people.
        panels: At least one.
        columns: Of panels in the PNG.
    """

    name: str
    title: str
    panels: Sequence[Panel]
    columns: int = 3

    def svgs(self) -> list[Markup]:
        """An SVG of each panel, to stand in a page that defines the colours."""
        return [self._svg(i, panel) for i, panel in enumerate(self.panels)]

    def write_png(self, folder: Path) -> Path:
        """Write `NAME.png`, the same bytes for the same panels; returns its path."""
        columns = min(self.columns, len(self.panels))
        rows = -(-len(self.panels) // columns)
        width, height = self.panels[0].size
        file = folder / f"{self.name}.png"
        with _drawing(columns * width, rows * height + 0.4) as (figure, save):
            figure.suptitle(self.title, x=0.01, ha="left")
            axes = list(figure.subplots(rows, columns, squeeze=False).flat)
            for panel, place in zip(self.panels, axes, strict=False):
                _draw(panel, place)
            for place in axes[len(self.panels) :]:
                place.axis("off")
            save(file, dpi=130, facecolor="white", metadata={"Software": None})
        return file

    def _svg(self, number: int, panel: Panel) -> Markup:
        from io import StringIO

        salt = f"{self.name}-{number}"
        stream = StringIO()
        with _drawing(*panel.size, {"svg.hashsalt": salt}) as (figure, save):
            _draw(panel, figure.subplots())
            nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            save(stream, format="svg", transparent=True, metadata=nothing)
        label = panel.title or self.title
        return Markup(_for_page(stream.getvalue(), label, salt))


def dots(
    name: str,
    title: str,
    rows: Sequence[tuple[str, Sequence[Mapping[str, Any] | None]]],
    series: Sequence[str],
    x_label: str,
    line: float,
    line_name: str,
) -> Plate | None:
    """A dot with its interval for each row and series, and a ring at the worst run where that is known.

    Args:
        name: Of the file.
        title: For people.
        rows: Label, and a value of each series.
        series: Their names.
        x_label: Of the axis.
        line: Where a dashed line stands; NaN for none.
        line_name: Its name.
    """
    if not rows:
        return None

    def draw(axes: Any) -> None:
        if math.isfinite(line):
            axes.axvline(line, color=SOFT, linewidth=1, linestyle="--", label=line_name or None)
        spread = 0.16 * min(1.0, 3 / len(series))
        for n, label in enumerate(series):
            for i, (_, values) in enumerate(rows):
                value = values[n]
                if value is None or not math.isfinite(value["value"]):
                    continue
                y = i + spread * (n - (len(series) - 1) / 2) * 1.6
                low, high = value["ci95"]
                if math.isfinite(low + high):
                    axes.plot([low, high], [y, y], color=COLOURS[n], linewidth=2, zorder=2)
                axes.plot([value["value"]], [y], "o", color=COLOURS[n], markersize=5, zorder=3)
                worst = value.get("worst", math.nan)
                if math.isfinite(worst) and worst < value["value"]:
                    axes.plot([worst], [y], "o", color=COLOURS[n], markersize=4, fillstyle="none", zorder=3)
            axes.plot([], [], "o", color=COLOURS[n], label=label if len(series) > 1 else None)
        axes.set_yticks(range(len(rows)), [label for label, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(x_label)
        axes.tick_params(axis="y", length=0)
        if len(series) > 1:
            axes.legend(
                loc="lower left", bbox_to_anchor=(0, 1), ncols=min(4, len(series) + 1), borderaxespad=0.2
            )

    return Plate(name, title, [Panel("", draw, (7.2, 0.9 + 0.3 * len(rows)), legend="none")], 1)


def root_scale(axes: Any, highest: float) -> None:
    """A horizontal axis of KL by its square root, from 0: so gains are nearly straight (Gao et al. 2023)."""
    import numpy as np

    axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
    end = 1.08 * max(highest, 1.0)
    axes.set_xlim(0, end)
    places = [0.0]
    for tick in (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0):
        if tick <= end and (tick / end) ** 0.5 - (places[-1] / end) ** 0.5 >= 0.09:
            places.append(tick)
    axes.set_xticks(places, [f"{p:g}" for p in places])
    axes.minorticks_off()


def place_names(axes: Any, points: Sequence[tuple[float, float, str]]) -> None:
    """Write names beside points so that they hide neither each other nor a point, where there is room."""
    figure = axes.figure
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    at = [axes.transData.transform((x, y)) for x, y, _ in points]
    taken = [(px - 5, py - 5, px + 5, py + 5) for px, py in at]
    inside = axes.get_window_extent(renderer)
    scale = 72 / figure.dpi
    for (x, y, name), (px, py) in zip(points, at, strict=True):
        text = axes.annotate(name, (x, y), (0, 0), textcoords="offset points", fontsize=8)
        box = text.get_window_extent(renderer)
        width, height = box.width, box.height
        best = None
        for dx, dy in _around(width, height):
            own = (px + dx, py + dy, px + dx + width, py + dy + height)
            out = own[0] < inside.x0 or own[2] > inside.x1 or own[1] < inside.y0 or own[3] > inside.y1
            overlap = sum(_overlap(own, other) for other in taken) + 1e6 * out
            if best is None or overlap < best[0]:
                best = (overlap, dx, dy, own)
            if overlap == 0:
                break
        assert best is not None
        _, dx, dy, own = best
        taken.append(own)
        text.set_position((dx * scale, dy * scale))
        text.set_verticalalignment("bottom")
        if abs(dy) > 1.5 * height:
            axes.annotate(
                "", (x, y), ((dx + width / 2) * scale, (dy + height / 2) * scale), textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": GRID, "shrinkB": 3, "shrinkA": 6},
            )  # fmt: skip


def _around(width: float, height: float) -> Iterator[tuple[float, float]]:
    """Places for a name, the nearest first: right, left, above, below, then further up and down."""
    for distance in (0.0, 1.0, 2.0, 3.0, 4.0):
        for side in (1, -1):
            for left in (8.0, -width - 8.0, -width / 2):
                if distance == 0 and left == -width / 2:
                    continue
                yield left, -height / 2 + side * distance * 1.1 * height


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


@contextmanager
def _drawing(width: float, height: float, more: Any = None) -> Iterator[tuple[Any, Any]]:
    """A figure and the function that saves it."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display needed

    with matplotlib.rc_context({**_SETTINGS, **(more or {})}):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, figure.savefig


def _draw(panel: Panel, axes: Any) -> None:
    panel.draw(axes)
    if panel.title:
        axes.set_title(panel.title)
    handles, names = axes.get_legend_handles_labels()
    if panel.legend == "inside" and handles:
        axes.legend(handles, names, loc="best")
    elif panel.legend == "below" and handles:
        axes.legend(
            handles, names, loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2, borderaxespad=0,
            handlelength=1.8, columnspacing=1.2,
        )  # fmt: skip


def _for_page(svg: str, label: str, salt: str) -> str:
    """Without a file's head and unused names; colours and fonts of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", svg)
    for colour, name in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 var(--font)", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", svg)  # as other versions write it
    head = re.match(r"<svg[^>]*>", svg)
    assert head is not None
    box = re.search(r'viewBox="[^"]*"', head[0])
    assert box is not None
    size = box[0].removeprefix('viewBox="').removesuffix('"').split()
    opening = Markup(
        '<svg xmlns:xlink="http://www.w3.org/1999/xlink" {} style="--w: {}" role="img" aria-label="{}">'
    ).format(Markup(box[0]), round(float(size[2])), label)  # the page makes all letters one size by --w
    return str(opening) + svg[head.end() :]
