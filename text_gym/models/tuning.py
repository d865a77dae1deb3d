"""Searches for the sizes that are fastest on this machine, one after another, by measuring.

Values take turns with what there is, so that whatever slows the machine down slows all of them. A few rounds
choose the most promising value; new rounds, by which it was not chosen, decide whether it is kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from text_gym.episode import FloatArray
from text_gym.utils.interval import Interval

from .sizes import Sizes

LEAST_GAIN = 0.03  # share of the time that a size has to save
SCREENING = 1, 3  # rounds of all values, at least and at most
DOUBTING = 3, 3  # rounds with the fastest alone, which mostly was lucky, before time is spent on …
DECIDING = 8, 24  # … those that decide

Work = Literal["rollout", "update", "iteration"]
Measure = Callable[[Sizes, Work], float]


@dataclass(frozen=True)
class Candidate:
    """A size, what it is measured on, and the values that are tried beside its default."""

    name: str
    work: Work
    values: tuple[float, ...]


@dataclass(frozen=True)
class Measured:
    """What was found of one size.

    Args:
        name: The size's.
        usual: What it was before.
        best: The fastest other value.
        ratio: Seconds with that value over seconds without.
        kept: It is worth it.
    """

    name: str
    usual: float
    best: float
    ratio: Interval
    kept: bool


@dataclass(frozen=True)
class Tuned:
    """What a search has found.

    Args:
        sizes: The fastest; the defaults unless others make a whole iteration faster.
        rows: Of each size that was measured.
        together: Seconds of an iteration with all that was kept over those with the defaults; None if nothing
            was kept.
        unmeasured: Sizes for which there was no time.
    """

    sizes: Sizes
    rows: tuple[Measured, ...]
    together: Interval | None
    unmeasured: tuple[str, ...]


# What is tried, in this order: what it is measured on, and factors of the default; of shares, values.
_HALF_AND_DOUBLE = (0.25, 0.5, 2, 4)
_TRIED: dict[str, tuple[Work, tuple[float, ...]]] = {
    "small_threads": ("iteration", _HALF_AND_DOUBLE),
    "min_rows_to_pack": ("update", _HALF_AND_DOUBLE),
    "whole_bytes": ("update", _HALF_AND_DOUBLE),
    "tile_rows": ("update", _HALF_AND_DOUBLE),
    "tile_ids": ("update", _HALF_AND_DOUBLE),
    "pass_overhead": ("update", _HALF_AND_DOUBLE),
    "pass_bytes": ("update", _HALF_AND_DOUBLE),
    "free_share": ("update", (0.25, 0.7)),
    "scored_rows": ("update", _HALF_AND_DOUBLE),
    "compact_below": ("rollout", (0.5, 0.75, 1.0)),
    "tell_every": ("rollout", _HALF_AND_DOUBLE),
    "recorded_steps": ("rollout", _HALF_AND_DOUBLE),
    "width_bucket": ("rollout", _HALF_AND_DOUBLE),
    "drawn_at_once": ("rollout", _HALF_AND_DOUBLE),
}
_OF_ACCELERATORS = {"free_share", "width_bucket"}
_OF_CPUS = {"small_threads", "min_rows_to_pack", "pass_bytes", "drawn_at_once"}


def candidates(usual: Sizes, *, cpu: bool, kernels: bool, threads: int) -> list[Candidate]:
    """Return the sizes that can make a difference, and values to try.

    Args:
        usual: The defaults.
        cpu: The device is a CPU.
        kernels: It has compiled kernels.
        threads: That a small model may use; 1 if their number is not ours to choose.
    """
    idle = _OF_ACCELERATORS if cpu else _OF_CPUS
    idle = idle | {"drawn_at_once" if kernels else "min_rows_to_pack"}
    found = []
    for name, (work, factors) in _TRIED.items():
        default = getattr(usual, name)
        whole = isinstance(default, int)
        values = sorted({max(1, int(default * f)) if whole else f for f in factors} - {default})
        if name == "small_threads":
            values = [value for value in values if value <= threads]
            values = values if threads > 1 else []
        if values and name not in idle:
            found.append(Candidate(name, work, tuple(values)))
    return found


def tune_sizes(
    measure: Measure,
    usual: Sizes,
    tried: Sequence[Candidate],
    seconds: float,
    *,
    clock: Callable[[], float] = time.perf_counter,
    tell: Callable[[str], None] = lambda _: None,
) -> Tuned:
    """Try the values of one size after another, each with the best sizes found so far.

    Args:
        measure: Returns the seconds that some work takes with some sizes.
        usual: The defaults.
        tried: What to try, in this order.
        seconds: No size is begun later than this.
        clock: Tells the time, in seconds.
        tell: Is told what is being done.
    """
    race = _Race(measure, clock)
    tell("warming up")
    measure(usual, "iteration")
    end, best, rows = clock() + seconds, usual, list[Measured]()
    for candidate in tried:
        if clock() >= end:
            break
        tell(f"measuring {candidate.name}")
        left = len(tried) - len(rows) + 1  # one is for all of them together
        found = _try(race, best, candidate, clock() + (end - clock()) / left)
        rows.append(found)
        if found.kept:
            best = changed(best, found.name, found.best)
    unmeasured = tuple(candidate.name for candidate in tried[len(rows) :])
    if best == usual:
        return Tuned(usual, tuple(rows), None, unmeasured)
    tell("measuring all of them together")
    together = ratio_of(race.run([usual, best], "iteration", end, DECIDING))
    return Tuned(best if together.high < 1 else usual, tuple(rows), together, unmeasured)


def _try(race: _Race, sizes: Sizes, candidate: Candidate, until: float) -> Measured:
    """Find the fastest other value of a size, and whether it is faster by more than noise."""
    name, work, usual = candidate.name, candidate.work, getattr(sizes, candidate.name)
    others = [changed(sizes, name, value) for value in candidate.values]
    halfway = (race.clock() + until) / 2
    screened = race.run([sizes, *others], work, halfway, SCREENING)
    ratios = [ratio_of(screened[:, [0, i]]) for i in range(1, len(others) + 1)]
    first = int(np.argmin([ratio.value for ratio in ratios]))
    ratio = ratios[first]
    for rounds in (DOUBTING, DECIDING):
        if ratio.value <= 1 - LEAST_GAIN:
            ratio = ratio_of(race.run([sizes, others[first]], work, until, rounds))
    kept = ratio.value <= 1 - LEAST_GAIN and ratio.high < 1  # of fewer than six rounds the end is NaN
    return Measured(name, usual, candidate.values[first], ratio, kept)


def changed(sizes: Sizes, name: str, value: float) -> Sizes:
    """Return sizes of which one has another value."""
    change: dict[str, Any] = {name: value}
    return replace(sizes, **change)


@dataclass(frozen=True)
class _Race:
    measure: Measure
    clock: Callable[[], float]

    def run(
        self, contestants: Sequence[Sizes], work: Work, until: float, rounds: tuple[int, int]
    ) -> FloatArray:
        """Return the seconds of each contestant in each round, `(rounds, contestants)`.

        Args:
            contestants: Who take turns, in every second round the other way round.
            work: What they do.
            until: When to end, on the clock.
            rounds: How many at least and at most.
        """
        least, most = rounds
        seconds: list[list[float]] = []
        while len(seconds) < least or (len(seconds) < most and self.clock() < until):
            order = range(len(contestants))[:: 1 if len(seconds) % 2 == 0 else -1]
            took = {i: self.measure(contestants[i], work) for i in order}
            seconds.append([took[i] for i in range(len(contestants))])
        return np.array(seconds)


def ratio_of(seconds: FloatArray) -> Interval:
    """Return the median of the second column over the first, with its 95 % interval.

    The ends are ratios that were measured: those between which the median lies by the sign test, whatever the
    distribution. Fewer than six pairs have none.

    Args:
        seconds: `(n, 2)`, of pairs measured one after the other.

    >>> ratio_of(np.array([[2.0, 1.0]] * 5 + [[1.0, 1.0]]))
    Interval(value=0.5, low=0.5, high=1.0, n=6)
    """
    ratios = np.sort(seconds[:, 1] / seconds[:, 0])
    n = len(ratios)
    chances = np.cumsum([math.comb(n, k) / 2**n for k in range(n + 1)])
    cut = int(np.count_nonzero(chances <= 0.025))  # so many smallest and largest ratios are left out
    ends = (ratios[cut - 1], ratios[n - cut]) if cut else (math.nan, math.nan)
    return Interval(float(np.median(ratios)), float(ends[0]), float(ends[1]), n)
