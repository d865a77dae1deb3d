"""Compares two leaderboard files: does B differ from A, design by design and overall?

Only rows of the same task, design, optimiser and KL coefficient are set against each other; whether two
benchmarks should be compared at all (the same episodes, prompts, machine) is not checked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from text_gym.errors import DataError
from text_gym.utils.interval import Interval

from .results import Setting, json_number, read_leaderboard, setting_of
from .statistics import Runs, contrast, improvement, resampled_contrast

_BETTER = ("gold", "perfect", "diversity", "distinct_1", "distinct_2", "static_accuracy")
SAME, UNKNOWN = "the same numbers", "no difference can be shown"
OVERALL = "all designs"


@dataclass(frozen=True)
class Difference:
    """The difference B − A, of one design or of all.

    Args:
        name: The design, or `OVERALL`.
        a: Mean of A over settings; where seeds match, of those seeds.
        b: Mean of B, likewise.
        difference: B - A, mean over settings, with its bootstrap interval; seeds are resampled in all
            settings together, since runs of one seed share their reward.
        student: The same with Student's interval, which is as wide as few runs demand.
        improvement: Probability that a run of B has more than one of A in the same setting.
        settings: Number of settings that both have.
        paired: Whether all of them were paired by seed.
        verdict: In words.
    """

    name: str
    a: float
    b: float
    difference: Interval
    student: Interval
    improvement: Interval
    settings: int
    paired: bool
    verdict: str

    def summary(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        intervals = {k: getattr(self, k).summary() for k in ("difference", "student", "improvement")}
        return asdict(self) | intervals


@dataclass(frozen=True)
class Comparison:
    """The comparison of two leaderboard files.

    Args:
        a: Path of A.
        b: Path of B.
        metric: Column that was compared.
        designs: A difference for each design, in A's order.
        overall: Over all settings.
        only_a: Rows of A that nothing was set against.
        only_b: Rows of B that nothing was set against.
    """

    a: str
    b: str
    metric: str
    designs: Sequence[Difference]
    overall: Difference
    only_a: int
    only_b: int

    def summary(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        designs = [d.summary() for d in self.designs]
        return asdict(self) | {"designs": designs, "overall": self.overall.summary()}


def compare(a: str | Path, b: str | Path, metric: str = "gold") -> Comparison:
    """Compare two benchmarks.

    B is better (or worse) if both intervals of the difference exclude zero: the bootstrap's, and Student's,
    since over two or three seeds the bootstrap's is but their range.

    Args:
        a: Folder of a benchmark, its `results.json` or `results.csv`.
        b: Another one.
        metric: Column to compare.

    Raises:
        DataError: One is no such file, lacks a column or a number, or they have no setting in common.
    """
    runs_a, runs_b = _runs(a, metric), _runs(b, metric)
    common = [s for s in runs_a if s in runs_b]
    if not common:
        first, other = next(iter(runs_a)), next(iter(runs_b))
        raise DataError(
            f"{a} and {b} have no task, design, optimiser and KL coefficient in common: nothing to compare "
            f"(A begins with {first.task}: {first}; B with {other.task}: {other})"
        )
    designs = list(dict.fromkeys(s.design for s in common))
    pairs = {s: (runs_a[s], runs_b[s]) for s in common}
    return Comparison(
        str(a),
        str(b),
        metric,
        [_difference(d, {s: p for s, p in pairs.items() if s.design == d}, metric) for d in designs],
        _difference(OVERALL, pairs, metric),
        sum(len(runs) for s, runs in runs_a.items() if s not in runs_b),
        sum(len(runs) for s, runs in runs_b.items() if s not in runs_a),
    )


def _runs(path: str | Path, metric: str) -> dict[Setting, dict[Any, float]]:
    found: dict[Setting, dict[Any, float]] = {}
    for row in read_leaderboard(path, metric):
        value = json_number(row[metric])
        if isinstance(row[metric], (str, dict, list)):
            raise DataError(
                f"{path}: {metric!r} holds {row[metric]!r}, not a number; choose another --metric"
            )
        if math.isfinite(value):
            found.setdefault(setting_of(row), {})[row["seed"]] = value
    if not found:
        raise DataError(f"{path}: no row has a number in {metric!r}")
    return found


def _difference(name: str, pairs: Mapping[Setting, tuple[Runs, Runs]], metric: str) -> Difference:
    samples: list[Runs] = []
    weights: list[float] = []
    share, paired = 1 / len(pairs), True
    used: list[tuple[Runs, Runs]] = []
    for a, b in pairs.values():
        seeds = [seed for seed in a if seed in b]
        first, second = ({s: runs[s] for s in seeds or runs} for runs in (a, b))
        used.append((first, second))
        paired = paired and bool(seeds)
        samples += [{s: second[s] - first[s] for s in seeds}] if seeds else [first, second]
        weights += [share] if seeds else [-share, share]
    difference, student = resampled_contrast(samples, weights), contrast(samples, weights)
    same = paired and not any(v for runs in samples for v in runs.values())
    return Difference(
        name,
        float(np.mean([np.mean(list(a.values())) for a, _ in used])),
        float(np.mean([np.mean(list(b.values())) for _, b in used])),
        difference,
        student,
        improvement(used),
        len(pairs),
        paired,
        SAME if same else _verdict(difference, student, metric),
    )


def _verdict(difference: Interval, student: Interval, metric: str) -> str:
    good = metric in _BETTER or metric.startswith("gold")
    if difference.low > 0 and student.low > 0:
        return "B is better" if good else "B is higher"
    if difference.high < 0 and student.high < 0:
        return "B is worse" if good else "B is lower"
    return UNKNOWN
