"""Measures of the runs of one setting: values, mean curves, and the best point within a KL budget.

No intervals here: see `statistics`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from text_gym.episode import FloatArray

from .results import CellResult, Setting, json_number
from .statistics import Estimate, Runs, best_within, mean_of_strata, slope

RANKED_AT = 5.0  # nats per text: the KL by which designs are ranked

DERIVED: dict[str, Callable[[CellResult], float]] = {
    "gold_change": lambda c: c["gold"] - c["gold_start"],
    "gold_gain": lambda c: _ratio(c["gold"] - c["gold_start"], c["gold_std_start"]),
    "proxy_change": lambda c: c["proxy"] - c["proxy_start"],
    "proxy_gain": lambda c: _ratio(c["proxy"] - c["proxy_start"], c["proxy_std_start"]),
    "length_drift": lambda c: c["length"] - c["length_start"],
    "length_slope": lambda c: 1000 * slope(c.along("episodes"), c.along("length")),
}
MEASURES = (
    *("gold", "proxy", "kl_nats", "length", "diversity", "perfect", "terminated", "self_bleu", "repetitive"),
    *("over_optimisation", "gold_accuracy", "gold_clarity", "gold_persuasiveness"),
    *DERIVED,
)
_POINT = ("episodes", "tokens", "gold", "proxy", "kl_nats", "length", "perfect")


def value(cell: CellResult, measure: str) -> float:
    """Return a measure of a run: a column, or a value derived from columns and curve."""
    return DERIVED[measure](cell) if measure in DERIVED else cell[measure]


def best_point(
    settings: Mapping[Setting, Sequence[CellResult]], budget: float
) -> tuple[Setting, Mapping[str, Any], Runs] | None:
    """Find the setting and the point with the highest mean gold among those whose mean KL is within budget.

    Returns:
        Setting, point (means over runs), and gold of its runs by seed; None if there is no such point.
    """
    found: list[tuple[Setting, Mapping[str, Any], Runs]] = []
    for setting, cells in settings.items():
        steps, curves = _common(cells)
        if not steps:
            continue
        i = best_within(curves["kl_nats"], curves["gold"], budget)
        if i is not None:
            point = {"step": steps[i], "kl_nats": float(curves["kl_nats"][:, i].mean())}
            gold = [float(v) for v in curves["gold"][:, i]]
            found.append((setting, point, dict(zip(_seeds(cells), gold, strict=True))))
    return max(found, key=lambda f: mean_known(list(f[2].values())), default=None)


def mean_curve(cells: Sequence[CellResult]) -> list[dict[str, float]]:
    """Average a setting's curves at the steps its runs share, with gains in standard deviations."""
    steps, curves = _common(cells)
    for name in ("gold", "proxy"):
        scale = np.array([[c[f"{name}_std_start"]] for c in cells])
        scale = np.where(scale > 0, scale, np.nan)
        curves[f"{name}_gain"] = (curves[name] - curves[name][:, :1]) / scale
    return [
        {"step": step, **{name: mean_known(curve[:, i]) for name, curve in curves.items()}}
        for i, step in enumerate(steps)
    ]


def by_seed(cells: Sequence[CellResult], measure: str) -> Runs:
    """Return a measure of one setting's runs by seed."""
    return {c.row["seed"]: value(c, measure) for c in cells}


def falls(cells: Sequence[CellResult]) -> Runs:
    """Return each run's final gold minus its gold at the best point of the setting's mean curve."""
    curve = [p for p in mean_curve(cells) if math.isfinite(p["gold"])]
    if not curve:
        return {}
    best, last = max(curve, key=lambda p: p["gold"])["step"], curve[-1]["step"]
    by_step = [{float(p["step"]): json_number(p["gold"]) for p in c.curve} for c in cells]
    return {s: points[last] - points[best] for s, points in zip(_seeds(cells), by_step, strict=True)}


def mean_of(strata: Iterable[Sequence[CellResult]], measure: str) -> Estimate:
    """Average a measure over settings, with Student's interval over seeds."""
    return mean_of_strata(by_seed(cells, measure) for cells in strata)


def below_start(cells: Iterable[CellResult]) -> int:
    """Count the runs that ended with less gold than they began with."""
    return sum(c["gold"] < c["gold_start"] for c in cells)


def _seeds(cells: Sequence[CellResult]) -> list[Any]:
    return [c.row["seed"] for c in cells]


def _common(cells: Sequence[CellResult]) -> tuple[list[float], dict[str, FloatArray]]:
    """Return the steps that all runs measured, and the curves there, `(R, K)` each."""
    by_step = [{float(p["step"]): p for p in c.curve} for c in cells]
    steps = [s for s in by_step[0] if all(s in points for points in by_step)]
    return steps, {
        name: np.array([[json_number(points[s].get(name)) for s in steps] for points in by_step])
        for name in _POINT
    }


def mean_known(values: Any) -> float:
    """Return the mean without NaN; NaN if nothing is left."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else math.nan


def _ratio(value: float, unit: float) -> float:
    return value / unit if unit > 0 else math.nan
