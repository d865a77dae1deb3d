"""Runs of one setting: measures that follow from a run's row and curve, mean curves, the best point of them.

No intervals here: see `statistics`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..interval import Interval
from ..reward import FloatArray
from .results import Cell, Setting, number, numbers
from .statistics import best_within, mean_of_strata, slope

RANKED_AT = 5.0  # nats per text: the KL by which designs are ranked

DERIVED: dict[str, Callable[[Cell], float]] = {
    "gold_change": lambda c: c["gold"] - c["gold_start"],
    "gold_gain": lambda c: _ratio(c["gold"] - c["gold_start"], c["gold_std_start"]),
    "proxy_gain": lambda c: _ratio(c["proxy"] - c["proxy_start"], c["proxy_std_start"]),
    "length_drift": lambda c: c["length"] - c["length_start"],
    "length_slope": lambda c: 1000 * slope(c.along("episodes"), c.along("length")),
}
MEASURES = (
    *("gold", "proxy", "kl_nats", "length", "diversity", "perfect", "terminated", "self_bleu"),
    *("over_optimisation", "gold_accuracy", "gold_clarity", "gold_persuasiveness"),
    *DERIVED,
)
_POINT = ("episodes", "gold", "proxy", "kl_nats", "length", "perfect")


def value(cell: Cell, measure: str) -> float:
    """A measure of a run: a column, or one that follows from columns and curve."""
    return DERIVED[measure](cell) if measure in DERIVED else cell[measure]


def best_point(
    settings: Mapping[Setting, Sequence[Cell]], budget: float
) -> tuple[Setting, Mapping[str, Any], FloatArray] | None:
    """The setting and point of the curve with the highest mean gold at a mean KL within a budget.

    Returns:
        Setting, point (means over runs), and gold of its runs `(R,)`; None if there is no such point.
    """
    found = []
    for setting, cells in settings.items():
        steps, curves = _common(cells)
        if not steps:
            continue
        i = best_within(curves["kl_nats"], curves["gold"], budget)
        if i is not None:
            point = {"step": steps[i], "kl_nats": float(curves["kl_nats"][:, i].mean())}
            found.append((setting, point, curves["gold"][:, i]))
    return max(found, key=lambda f: float(f[2].mean()), default=None)


def mean_curve(cells: Sequence[Cell]) -> list[dict[str, float]]:
    """A setting's curve: means over its runs at the steps they share, with gains in standard deviations."""
    steps, curves = _common(cells)
    for name in ("gold", "proxy"):
        scale = np.array([[c[f"{name}_std_start"]] for c in cells])
        scale = np.where(scale > 0, scale, np.nan)
        curves[f"{name}_gain"] = (curves[name] - curves[name][:, :1]) / scale
    return [
        {"step": step, **{name: mean_known(curve[:, i]) for name, curve in curves.items()}}
        for i, step in enumerate(steps)
    ]


def mean_of(
    strata: Sequence[Sequence[Cell]], measure: Callable[[Sequence[Cell]], Sequence[float]]
) -> Interval:
    """Mean over strata of a measure of runs."""
    return mean_of_strata([numbers(measure(cells)) for cells in strata])


def _common(cells: Sequence[Cell]) -> tuple[list[float], dict[str, FloatArray]]:
    """Steps that all runs measured, and the curves there, `(R, K)` each."""
    by_step = [{float(p["step"]): p for p in c.curve} for c in cells]
    steps = [s for s in by_step[0] if all(s in points for points in by_step)]
    return steps, {
        name: np.array([[number(points[s].get(name)) for s in steps] for points in by_step])
        for name in _POINT
    }


def mean_known(values: Any) -> float:
    """Without NaN; NaN of nothing."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else math.nan


def _ratio(value: float, unit: float) -> float:
    return value / unit if unit > 0 else math.nan
