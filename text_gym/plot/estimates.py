"""Estimates with their intervals: rows of dots, calibration, agreement of raters, and every run as a dot.

An interval is drawn where there is one: an estimate without stands alone, and looks it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from text_gym.episode import FloatArray
from text_gym.errors import DataError
from text_gym.utils.interval import Interval

from .canvas import drawing
from .lines import numbers
from .style import COLOURS, INK, MARKERS, SOFT, colour_of, label, legend_below, legend_height, name_axes, note

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Estimate: TypeAlias = Interval | float | None
_Z = 1.959963984540054  # of the standard normal distribution, for 95 %


def intervals(
    labels: Sequence[str],
    series: Mapping[str, Sequence[Estimate]],
    *,
    worst: Mapping[str, Sequence[float]] | None = None,
    reference: float | None = None,
    reference_name: str = "",
    x_label: str = "",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw a row for each label, with a dot and its interval for each series.

    Args:
        labels: Of the rows, from above.
        series: Name -> an estimate for each row: an `Interval`, a number without one, or None.
        worst: Name -> the worst single run of each row, drawn as a ring where it is below the estimate.
        reference: Where a line stands, such as 0 or the start.
        reference_name: Its name in the legend.
        x_label: What is estimated, with its unit.
        title: Above the axes.
        ax: Where to draw; in a new figure if None.

    Raises:
        DataError: A series has more or fewer estimates than there are labels.
    """
    for name, values in [*series.items(), *(worst or {}).items()]:
        if len(values) != len(labels):
            raise DataError(f"{label(name)!r} has {len(values)} estimates for {len(labels)} labels")
    rows = np.arange(len(labels))
    step = min(0.26, 0.8 / max(len(series), 1))
    height = 0.75 + 0.3 * len(labels) + legend_height([*series, reference_name], 3.2)
    with drawing(ax, (4.8, height)) as ax:
        if reference is not None and math.isfinite(reference):
            ax.axvline(reference, color=SOFT, linewidth=1, linestyle="--", label=label(reference_name) or "_")
        drawn = False
        for n, (name, values) in enumerate(series.items()):
            y = rows + step * (n - (len(series) - 1) / 2)
            colour, marker = colour_of(None, n), MARKERS[n % len(MARKERS)]
            centre, low, high = _parts(values)
            drawn |= bool(np.isfinite(centre).any())
            ax.hlines(y, low, high, colors=colour, linewidth=1.8, zorder=2)
            ax.plot(centre, y, marker, color=colour, markersize=5, zorder=3, label=label(name) or "_")
            below = np.array((worst or {}).get(name, [math.nan] * len(rows)), dtype=np.float64)
            below[~(below < centre)] = math.nan
            if np.isfinite(below).any():
                ax.plot(below, y, marker, color=colour, markersize=4.5, fillstyle="none", label="_", zorder=3)
        if not drawn:
            note(ax, "nothing to draw: nothing is known")
        _rows(ax, labels)
        ax.locator_params(axis="x", nbins=6)
        name_axes(ax, x_label, title=title)
        legend_below(ax, least=1 if reference_name else 2)
    return ax


def agreement(alpha: Mapping[str, Estimate], *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw how far raters agree, Krippendorff's α by criterion, beside what is commonly asked of it.

    1 is perfect agreement, 0 is chance. Krippendorff (2004, "Content Analysis") asks for 0.8, and for 0.667
    where conclusions may be tentative.

    Args:
        alpha: Criterion -> α, with its interval where it is known.
        title: Above the axes.
        ax: Where to draw; in a new figure if None.
    """
    known = [e.low if isinstance(e, Interval) else e for e in alpha.values() if e is not None]
    lowest = min([0.0, *(v for v in known if math.isfinite(v))])
    with drawing(ax, (4.8, 1.2 + 0.3 * len(alpha))) as ax:
        for at, name, style in (
            (0.0, "chance", "-"),
            (0.667, "tentative, 0.667", ":"),
            (0.8, "asked for, 0.8", "--"),
        ):
            ax.axvline(at, color=SOFT, linewidth=1, linestyle=style, label=name, zorder=1)
        intervals(list(alpha), {"": list(alpha.values())}, x_label="Krippendorff's α", title=title, ax=ax)
        ax.set_xlim(1.05 * lowest - 0.04, 1.04)
    return ax


def calibration(
    predicted: npt.ArrayLike,
    observed: npt.ArrayLike,
    count: npt.ArrayLike,
    *,
    x_label: str = "predicted probability",
    y_label: str = "observed share",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw a reliability diagram: what was predicted, bin by bin, against how often it came true.

    Bars are Wilson's 95 % intervals of the shares (1927, "Probable inference, the law of succession"), which
    hold at few cases and at shares of 0 and 1 too; the area of a dot grows with its cases.

    Args:
        predicted: `(bins,)` mean prediction of each bin, in [0, 1].
        observed: `(bins,)` share of the bin's cases that came true.
        count: `(bins,)` cases in it; bins without any are left out.
        x_label: What was predicted.
        y_label: What was observed.
        title: Above the axes.
        ax: Where to draw; in a new figure if None.

    Raises:
        DataError: Lengths differ, a share is not in [0, 1], or a count is negative.
    """
    x, y, n = numbers(predicted, "predicted"), numbers(observed, "observed"), numbers(count, "count")
    if not len(x) == len(y) == len(n):
        raise DataError(
            f"{len(x)} predictions, {len(y)} shares and {len(n)} counts: there is one of each a bin"
        )
    if ((x < 0) | (x > 1) | (y < 0) | (y > 1)).any() or (n < 0).any():
        raise DataError("predictions and shares lie in [0, 1], and counts are not negative")
    x, y, n = (values[(n > 0) & np.isfinite(x + y)] for values in (x, y, n))
    with drawing(ax, (4.2, 4.2)) as ax:
        start = 0.5 if len(x) and x.min() >= 0.5 else 0.0
        ax.plot([start, 1], [start, 1], "--", color=SOFT, linewidth=1, label="perfectly calibrated")
        if len(x):
            low, high = wilson(y, n)
            ax.vlines(x, low, high, colors=COLOURS[0], linewidth=1.8, zorder=2)
            ax.scatter(x, y, s=16 + 110 * n / n.max(), color=COLOURS[0], zorder=3, linewidths=0,
                       label="cases (area: their number), 95 % intervals")  # fmt: skip
        else:
            note(ax, "nothing to draw: there are no cases")
        ax.set_xlim(start - 0.02, 1.02)
        name_axes(ax, x_label, y_label, title)
        legend_below(ax, columns=1)
    return ax


def spread(
    groups: Mapping[str, npt.ArrayLike],
    *,
    references: Mapping[str, float] | None = None,
    logarithmic: bool = False,
    colours: Sequence[int] | None = None,
    x_label: str = "",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw a row for each group, with a dot for every single value and a stroke at their median.

    Args:
        groups: Name -> `(n,)` values, such as the end of every run; what is not finite is left out.
        references: Name -> where a vertical line stands.
        logarithmic: Make the horizontal axis logarithmic.
        colours: Number of each group in the palette; all the same if None.
        x_label: What the values are, with their unit.
        title: Above the axes.
        ax: Where to draw; in a new figure if None.

    Raises:
        DataError: A group is no list of numbers.
    """
    height = 0.75 + 0.34 * len(groups) + legend_height([*(references or {}), "median"], 3.2)
    with drawing(ax, (4.8, height)) as ax:
        if logarithmic:
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter("{x:g}")  # its own would be formulas
            ax.xaxis.set_minor_formatter("")
        for i, (name, at) in enumerate((references or {}).items()):
            ax.axvline(at, color=SOFT, linewidth=1, linestyle=(":", "--", "-.")[i % 3], label=label(name))
        drawn, stroke = False, "median"  # what the next stroke is called in the legend: the first one alone
        for place, (name, given) in enumerate(groups.items()):
            values = numbers(given, repr(label(name)))
            values = values[np.isfinite(values) & ((values > 0) | (not logarithmic))]
            drawn |= bool(len(values))
            y = place + (np.linspace(-0.26, 0.26, len(values)) if len(values) > 1 else np.zeros(len(values)))
            colour = COLOURS[0] if colours is None else colour_of(colours[place], place)
            ax.plot(values, y, "o", markersize=4 if len(values) < 100 else 2.5, color=colour, alpha=0.7,
                    markeredgewidth=0, label="_")  # fmt: skip
            if len(values) > 1:
                middle = float(np.median(values))
                ends = [place - 0.36, place + 0.36]
                ax.plot([middle, middle], ends, "-", color=INK, linewidth=1.4, label=stroke)
                stroke = "_"
        if not drawn:
            note(ax, "nothing to draw: no number is finite")
        if not logarithmic:
            ax.locator_params(axis="x", nbins=6)
        _rows(ax, list(groups))
        name_axes(ax, x_label, title=title)
        legend_below(ax, least=1)
    return ax


def wilson(share: FloatArray, count: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the lower and upper ends of Wilson's 95 % interval of shares, `(n,)` each.

    >>> low, high = wilson(np.array([0.0]), np.array([10.0]))
    >>> round(float(low[0]), 4), round(float(high[0]), 4)
    (0.0, 0.2775)
    """
    scale = 1 + _Z**2 / count
    centre = (share + _Z**2 / (2 * count)) / scale
    half = _Z / scale * np.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


def _parts(values: Sequence[Estimate]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Estimates and the ends of their intervals, NaN for what is not known."""
    rows = [
        (v.value, v.low, v.high) if isinstance(v, Interval)
        else (math.nan if v is None else float(v), math.nan, math.nan)
        for v in values
    ]  # fmt: skip
    array = np.array(rows, dtype=np.float64).reshape(-1, 3)
    array[~np.isfinite(array)] = np.nan
    return array[:, 0], array[:, 1], array[:, 2]


def _rows(ax: Axes, labels: Sequence[str]) -> None:
    ax.set_yticks(range(len(labels)), [label(name, 44) for name in labels])
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
