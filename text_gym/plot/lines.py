"""Lines: learning curves, and reward and gold over the distance from the start.

Points that are not finite are left out, and a line is broken there: it does not cross what is not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from text_gym.episode import FloatArray
from text_gym.errors import DataError

from .canvas import drawing
from .style import COLOURS, FAINT, INK, MARKERS, SOFT, STYLES, colour_of, label, legend_below, name_axes, note

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FEW = 15  # points that are marked one by one, with a bar for each interval
KL_LABEL = "KL to the start, nats per text (root scale)"


@dataclass(frozen=True)
class Line:
    """Points of one name; a report that wants its own colours and dashes says so here.

    Args:
        x: `(n,)` positions.
        y: `(n,)` values; NaN for what is not known.
        name: For the legend; empty for a line that is not named.
        low: `(n,)` lower ends of intervals, or None.
        high: `(n,)` upper ends of intervals, or None.
        colour: Number in the palette, from 0; or `"soft"`, `"faint"`, `"ink"`; the next one if None.
        style: `"-"`, `"--"`, `":"`, `"-."`, or `"none"` for marks alone; the next one if None.
        width: In points.
        marks: Mark every point; by their number if None.
    """

    x: npt.ArrayLike
    y: npt.ArrayLike
    name: str = ""
    low: npt.ArrayLike | None = None
    high: npt.ArrayLike | None = None
    colour: int | str | None = None
    style: str | None = None
    width: float = 1.7
    marks: bool | None = None


Points: TypeAlias = tuple[npt.ArrayLike, npt.ArrayLike]


def curves(
    lines: Mapping[str, npt.ArrayLike] | Sequence[Line],
    *,
    x: npt.ArrayLike | None = None,
    intervals: Mapping[str, Points] | None = None,
    x_label: str = "",
    y_label: str = "",
    title: str = "",
    reach: Sequence[float] = (),
    ax: Axes | None = None,
) -> Axes:
    """Draw lines over a common axis, such as metrics over the iterations of a run.

    Args:
        lines: Name -> `(n,)` values; or `Line`s.
        x: `(n,)` positions of all of them; 1, 2, … if None. `Line`s have their own.
        intervals: Name -> lower and upper ends, `(n,)` each: bars at few points, a band at many.
        x_label: What the horizontal axis counts, with its unit.
        y_label: What the values are, with their unit.
        title: Above the axes.
        reach: Values that the vertical axis must show, such as 0 and 1.
        ax: Where to draw; in a new figure if None.

    Returns:
        The axes.

    Raises:
        DataError: Numbers of different lengths, or an interval whose lower end is above its upper end.
    """
    found = [lines_of_name(n, y, x, (intervals or {}).get(n)) for n, y in lines.items()] if isinstance(
        lines, Mapping
    ) else list(lines)  # fmt: skip
    if intervals and (unknown := set(intervals) - {line.name for line in found}):
        raise DataError(f"there are intervals for {sorted(unknown)} but no such line")
    with drawing(ax) as ax:
        known = [draw_line(ax, line, i) for i, line in enumerate(found)]
        if not any(known):
            note(ax, "nothing to draw: no number is finite")
        positions = np.concatenate([numbers(line.x, "x") for line in found] or [np.zeros(0)])
        positions = positions[np.isfinite(positions)]
        if any(known) and (positions == positions.round()).all() and ax.get_xscale() == "linear":
            ax.locator_params(axis="x", integer=True, nbins=8)
        if len(reach):
            low, high = ax.get_ylim() if any(known) else (reach[0], reach[0])
            ends = min(low, *reach), max(high, *reach)
            room = 0.05 * (ends[1] - ends[0])
            ax.set_ylim(ends[0] - room, ends[1] + room)
        name_axes(ax, x_label, y_label, title)
        legend_below(ax)
    return ax


def frontier(
    lines: Mapping[str, Points] | Sequence[Line],
    *,
    x_label: str = KL_LABEL,
    y_label: str = "gold",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw what is gained against the KL it costs; the horizontal axis is the root of KL.

    Over √KL gains are nearly straight at first (Gao et al. 2023, "Scaling laws for reward model
    overoptimization"). An estimate of KL below 0 stands at 0.

    Args:
        lines: Name -> KL in nats, `(n,)`, and gold, `(n,)`, such as the ends of runs over KL coefficients; or
            `Line`s.
        x_label: What the horizontal axis shows.
        y_label: What is gained.
        title: Above the axes.
        ax: Where to draw; in a new figure if None.

    Raises:
        DataError: Numbers of different lengths.
    """
    found = [Line(x, y, n) for n, (x, y) in lines.items()] if isinstance(lines, Mapping) else list(lines)
    with drawing(ax) as ax:
        found = [replace(line, x=np.maximum(numbers(line.x, "KL"), 0)) for line in found]
        curves(found, x_label=x_label, y_label=y_label, title=title, ax=ax)
        root_scale(ax, found)
    return ax


def reward_and_gold(
    reward: Points | Sequence[Line],
    gold: Points | Sequence[Line],
    *,
    fits: Mapping[str, Points] | None = None,
    others: Sequence[Line] = (),
    own_axis: bool = False,
    names: tuple[str, str] = ("reward that is optimised", "gold"),
    y_label: str = "",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw the reward that is optimised and gold over √KL: where gold turns down, it is over-optimised.

    Args:
        reward: KL in nats, `(n,)`, and the reward (the proxy), `(n,)`; or `Line`s.
        gold: KL in nats, `(m,)`, and gold, `(m,)`; or `Line`s.
        fits: Name -> KL and fitted gold, such as Gao et al.'s d (α − β log d) with d = √KL.
        others: More lines, in gold's unit.
        own_axis: Give gold a vertical axis of its own, on the right; for rewards in other units than gold.
        names: Of reward and gold.
        y_label: Of the vertical axis that they share.
        title: Above the axes.
        ax: Where to draw; in a new figure if None.

    Returns:
        The axes of the reward; those of gold are its twin where `own_axis` is set.

    Raises:
        DataError: Numbers of different lengths.
    """
    own = _as_lines(reward, names[0], 0, "-")
    golden = _as_lines(gold, names[1], 1, "--")
    fitted = [
        Line(x, y, name, colour="ink", style=STYLES[-1 - i % 3], width=1.0, marks=False)
        for i, (name, (x, y)) in enumerate((fits or {}).items())
    ]
    both = [own, [*golden, *others, *fitted]]
    both = [[replace(li, x=np.maximum(numbers(li.x, "KL"), 0)) for li in part] for part in both]
    with ExitStack() as stack:
        ax = stack.enter_context(drawing(ax))
        right = stack.enter_context(drawing(ax.twinx())) if own_axis else ax
        count = [draw_line(a, li, i) for a, part in zip((ax, right), both, strict=True)
                 for i, li in enumerate(part)]  # fmt: skip
        if not any(count):
            note(ax, "nothing to draw: no number is finite")
        root_scale(ax, [*both[0], *both[1]])
        name_axes(ax, KL_LABEL, names[0] if own_axis else y_label, title)
        if right is not ax:
            right.spines[["top", "left"]].set_visible(False)
            right.grid(visible=False)
            name_axes(right, y_label=names[1])
            right.yaxis.label.set_color(COLOURS[1])
            right.tick_params(axis="y", labelcolor=COLOURS[1])
            ax.yaxis.label.set_color(COLOURS[0])
            ax.tick_params(axis="y", labelcolor=COLOURS[0])
            legend_below(ax, right)
        else:
            legend_below(ax)
    return ax


def numbers(values: npt.ArrayLike, what: str) -> FloatArray:
    """Return values as `(n,)` float64; infinities become NaN.

    Raises:
        DataError: They are not a list of numbers.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} must be a list of numbers: {error}") from error
    if array.ndim != 1:
        raise DataError(f"{what} must be a list of numbers, not of shape {array.shape}")
    return np.where(np.isfinite(array), array, np.nan)


def lines_of_name(name: str, y: npt.ArrayLike, x: npt.ArrayLike | None, ends: Points | None) -> Line:
    """Make a line of what a caller gave under its name."""
    low, high = ends if ends is not None else (None, None)
    return Line(np.arange(1, len(numbers(y, name)) + 1) if x is None else x, y, name, low, high)


def draw_line(ax: Axes, line: Line, place: int) -> bool:
    """Draw one line, the `place`-th of its kind; return whether any of it is known."""
    what = repr(label(line.name)) if line.name else f"line {place + 1}"
    x, y = numbers(line.x, f"x of {what}"), numbers(line.y, f"y of {what}")
    if len(x) != len(y):
        raise DataError(f"{what} has {len(x)} positions for {len(y)} values")
    named = {"soft": SOFT, "faint": FAINT, "ink": INK}
    colour = named.get(str(line.colour)) or colour_of(line.colour, place)
    background = line.colour in named
    marker = MARKERS[(line.colour if isinstance(line.colour, int) else place) % len(MARKERS)]
    few = np.isfinite(x + y).sum() <= _FEW
    marks = few and not background if line.marks is None else line.marks
    style = line.style or STYLES[place % len(STYLES)]
    lonely = np.isfinite(x + y).sum() == 1  # a line of one point is no line
    ax.plot(
        x, y, linestyle=style, color=colour, linewidth=line.width, label=label(line.name) or "_",
        marker=marker if marks or lonely else "", zorder=1.5 if background else 3,
    )  # fmt: skip
    if line.low is not None and line.high is not None:
        low, high = numbers(line.low, f"lower ends of {what}"), numbers(line.high, f"upper ends of {what}")
        if not len(low) == len(high) == len(x):
            raise DataError(f"{what} has {len(low)} lower and {len(high)} upper ends for {len(x)} points")
        if (low > high).any():
            raise DataError(f"{what}: an interval's lower end is above its upper end")
        if few:
            ax.vlines(x, low, high, colors=colour, linewidth=1.6, zorder=2.5)
        else:
            ax.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0, zorder=2)
    return bool(np.isfinite(x + y).any())


def root_scale(ax: Axes, lines: Sequence[Line]) -> None:
    """Make the horizontal axis the root of KL, from 0, with ticks that do not touch."""
    positions = np.concatenate([numbers(line.x, "KL") for line in lines] or [np.zeros(0)])
    end = 1.08 * max(1.0, float(np.nanmax(positions)) if np.isfinite(positions).any() else 1.0)
    ax.set_xscale("function", functions=(lambda v: np.sqrt(np.maximum(v, 0)), np.square))
    ax.set_xlim(0, end)
    steps = [m * 10.0**e for e in range(-1, 7) for m in (1, 2, 5)][3:]
    places = [0.0]
    for tick in steps:
        letters = len(f"{tick:,.10g}{places[-1]:,.10g}") / 2
        apart = max(0.09, 0.03 + 0.024 * letters)  # of the axis
        if tick <= end and (tick / end) ** 0.5 - (places[-1] / end) ** 0.5 >= apart:
            places.append(tick)
    ax.set_xticks(places, [f"{p:,.10g}" for p in places])
    ax.minorticks_off()


def _as_lines(given: Points | Sequence[Line], name: str, colour: int, style: str) -> list[Line]:
    if all(isinstance(line, Line) for line in given):
        return [line for line in given if isinstance(line, Line)]
    x, y = given
    assert not isinstance(x, Line)
    assert not isinstance(y, Line)
    return [Line(x, y, name, colour=colour, style=style)]
