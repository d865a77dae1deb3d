"""Small charts as SVG for reports: text stays text, colours are the page's own (`--c1` … `--c4`).

Lines over few points, and dots. For anything else there is matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 26, 38
Range = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """Points of one name and colour; those that are not finite are left out, and the line is broken there.

    Args:
        name: For the legend.
        x: Positions.
        y: Values.
        interval: Lower and upper ends of a bar at each point, if there are any.
        dots: Draw dots without a line.
        marks: Draw a dot on each point of the line.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    interval: Sequence[Range] | None = None
    dots: bool = False
    marks: bool = True


def chart(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    y_range: Range | None = None,
    x_ticks: Sequence[float] | None = None,
) -> Markup:
    """A chart with axes, grid and legend.

    Args:
        series: At most four.
        x_label: Label of the horizontal axis.
        y_label: Label of the vertical axis, written above it.
        y_range: Values that the vertical axis must reach; from the points if None.
        x_ticks: Where the horizontal axis has numbers; round ones if None.

    >>> "round" in chart([Series("gold", [0, 1], [0.7, 0.9])], "round", "reward")
    True
    """
    points = [(x, y) for s in series for x, y in zip(s.x, s.y, strict=True) if math.isfinite(x + y)]
    ends = [v for s in series for pair in s.interval or () for v in pair if math.isfinite(v)]
    ys = [*(y for _, y in points), *ends, *(y_range or ())] or [0.0, 1.0]
    xs = [*(x for x, _ in points), *(x_ticks or ())] or [0.0, 1.0]
    y_at = ticks(min(ys), max(ys))
    x_at = list(x_ticks) if x_ticks is not None else ticks(min(xs), max(xs))
    x = _scale((min([*xs, *x_at]), max([*xs, *x_at])), (_LEFT + 8, _WIDTH - _RIGHT - 8))
    y = _scale((y_at[0], y_at[-1]), (_HEIGHT - _BOTTOM, _TOP))
    parts = [
        Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{} over {}">').format(
            _WIDTH, _HEIGHT, y_label, x_label
        )
    ]
    parts += [_tick_y(value, y(value)) for value in y_at]
    parts += [_text(x(value), _HEIGHT - _BOTTOM + 15, number(value), "middle") for value in x_at]
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, x_label, "middle"))
    parts.append(_text(4, 12, y_label, "start"))
    parts += [_drawn(s, x, y, f"var(--c{n})") for n, s in enumerate(series, 1)]
    if len(series) > 1:
        parts.append(_legend(series))
    return Markup("").join([*parts, Markup("</svg>")])


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers that span from `low` to `high`.

    >>> ticks(0.71, 0.93)
    [0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    """
    if high <= low:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(s * unit for s in (1, 2, 2.5, 5, 10) if s * unit >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.10g}") for i in range(first, last + 1)]


def number(value: float) -> str:
    """A number as figures show it."""
    return f"{value:.4g}".replace("-", "−")


def _scale(values: Range, places: Range) -> _Scale:
    return _Scale(values, places)


@dataclass(frozen=True)
class _Scale:
    values: Range
    places: Range

    def __call__(self, value: float) -> float:
        (a, b), (p, q) = self.values, self.places
        return p + (q - p) * ((value - a) / (b - a) if b > a else 0.5)


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(
        round(x, 1), round(y, 1), anchor, escape(text)
    )


def _tick_y(value: float, y: float) -> Markup:
    line = Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
        _LEFT, _WIDTH - _RIGHT, round(y, 1), round(y, 1)
    )
    return line + _text(_LEFT - 6, y + 4, number(value), "end")


def _drawn(series: Series, x: _Scale, y: _Scale, colour: str) -> Markup:
    found = [
        (i, x(a), y(b))
        for i, (a, b) in enumerate(zip(series.x, series.y, strict=True))
        if math.isfinite(a + b)
    ]
    parts = []
    if series.interval is not None:
        for i, px, _ in found:
            low, high = series.interval[i]
            if math.isfinite(low + high):
                parts.append(
                    Markup(
                        '<line x1="{0}" x2="{0}" y1="{1}" y2="{2}" stroke="{3}" stroke-width="2"/>'
                    ).format(round(px, 1), round(y(low), 1), round(y(high), 1), colour)
                )
    if not series.dots:
        for stretch in _stretches(found):
            path = " ".join(f"{px:.1f},{py:.1f}" for _, px, py in stretch)
            parts.append(
                Markup('<polyline points="{}" fill="none" stroke="{}" stroke-width="1.8"/>').format(
                    path, colour
                )
            )
    if series.dots or series.marks:
        radius, opacity = (2.2, 0.5) if series.dots else (3.2, 1)
        parts += [
            Markup('<circle cx="{}" cy="{}" r="{}" fill="{}" opacity="{}"/>').format(
                round(px, 1), round(py, 1), radius, colour, opacity
            )
            for _, px, py in found
        ]
    return Markup("").join(parts)


def _stretches(found: Sequence[tuple[int, float, float]]) -> list[list[tuple[int, float, float]]]:
    """Runs of points without one missing between them: a line does not cross what is not known."""
    result: list[list[tuple[int, float, float]]] = []
    for point in found:
        if result and result[-1][-1][0] == point[0] - 1:
            result[-1].append(point)
        else:
            result.append([point])
    return result


def _legend(series: Sequence[Series]) -> Markup:
    """Names from the right, in the line above the plot."""
    parts, right = [], float(_WIDTH - _RIGHT)
    for n, s in reversed(list(enumerate(series, 1))):
        left = right - 6.2 * len(s.name)
        parts.append(_text(left, 12, s.name, "start"))
        parts.append(
            Markup('<circle cx="{}" cy="8.5" r="4" fill="var(--c{})"/>').format(round(left - 8, 1), n)
        )
        right = left - 22
    return Markup("").join(parts)
