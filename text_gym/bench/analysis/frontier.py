"""The frontier: gold over the distance d = √KL from the start, with the fits of Gao et al. 2022.

Best-of-n: R(d) = d (α − β d). Reinforcement learning: R(d) = d (α − β log d). Where runs end is another
matter: what a KL penalty changes may be the end alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from text_gym.episode import FloatArray
from text_gym.utils.interval import shown

from .results import CellResult, Results, Setting, is_reinforcement_learning
from .statistics import Runs, mean_of_strata
from .verdicts import EFFECT_MARGIN, Finding, judge_change, judge_increase

Form = Literal["best_of_n", "rl"]
FORMS: dict[Form, str] = {"best_of_n": "d (α − β d)", "rl": "d (α − β log d)"}
_POINTS, _SPREAD, _MOVED, _R2 = 4, 1.5, 0.1, 0.5  # the fewest points for a meaningful fit


def frontiers(results: Results, task: str, design: str) -> dict[str, Any]:
    """Fit a design's frontiers: best-of-n, and reinforcement learning at the smallest KL coefficient."""
    own = {s: c for s, c in results.settings.items() if (s.task, s.design) == (task, design)}
    least = min((s.kl_coefficient for s in own if s.kl_coefficient is not None), default=None)
    chosen = [c for s, cells in own.items() if s.kl_coefficient is None for c in cells]
    hardest = {s: cells for s, cells in own.items() if s.kl_coefficient == least is not None}
    trained = [c for s, cells in hardest.items() if is_reinforcement_learning(s) for c in cells]
    return {"best_of_n": fit(chosen, "best_of_n"), "rl": fit(trained, "rl")}


def fit(cells: Sequence[CellResult], form: Form) -> dict[str, Any] | None:
    """Fit the gain of gold (in standard deviations over the starting texts) over d, separately by seed.

    Args:
        cells: Runs; those of a seed are fitted together.
        form: Which form.

    Returns:
        None without points; else plain data: `alpha` and `beta` as means over seeds with Student's interval,
        `r2` of the mean curve, `d_max`, `peak` (d, nats, gain, whether within the points seen; None where
        the curve has none), `peak_nats` of each seed that has one, and `note`: why the fit is not
        meaningful, or "".
    """
    seeds = {s: _points([c for c in cells if c.row["seed"] == s]) for s in _seeds(cells)}
    seeds = {s: points for s, points in seeds.items() if len(points)}
    if not seeds:
        return None
    fits = {s: _least_squares(points, form) for s, points in seeds.items()}
    alpha, beta = (mean_of_strata([{s: f[i] for s, f in fits.items()}]) for i in (0, 1))
    every = np.concatenate(list(seeds.values()))
    reached = float(every[:, 0].max())
    residuals = every[:, 1] - curve(alpha.value, beta.value, every[:, 0], form)
    total = float(np.sum((every[:, 1] - every[:, 1].mean()) ** 2))
    r2 = 1 - float(np.sum(residuals**2)) / total if total > 0 else math.nan
    peak = _peak(alpha.value, beta.value, form)
    return {
        "form": FORMS[form],
        "alpha": alpha.summary(),
        "beta": beta.summary(),
        "r2": r2,
        "points": len(every),
        "seeds": len(seeds),
        "d_max": reached,
        "peak": None
        if peak is None
        else {
            "d": peak,
            "nats": peak**2,
            "gain": float(curve(alpha.value, beta.value, np.array([peak]), form)[0]),
            "within": peak <= reached,
        },
        "peak_nats": sorted(p**2 for a, b in fits.values() if (p := _peak(a, b, form)) is not None),
        "note": _note(list(seeds.values()), r2),
    }


def held_out_error(cells: Sequence[CellResult], form: Form, near: float = 1.0) -> Runs:
    """Measure how well a form predicts the runs of seeds that it was not fitted to.

    Args:
        cells: Runs of two seeds or more.
        form: Which form.
        near: Less than 1 asks for extrapolation: the form is fitted to the points no further away than this
            share of the largest distance, and judged by those beyond.

    Returns:
        Seed -> mean squared error of the gain, in variances of gold over the starting texts; seeds without
        points to judge by are left out.
    """
    seeds = {s: _points([c for c in cells if c.row["seed"] == s]) for s in _seeds(cells)}
    border = near * max((float(points[:, 0].max()) for points in seeds.values() if len(points)), default=0.0)
    errors = {}
    for seed, own in seeds.items():
        others = np.concatenate([np.zeros((0, 2)), *(p for s, p in seeds.items() if s != seed)])
        others = others[others[:, 0] <= border]
        judged = own if near >= 1 else own[own[:, 0] > border]
        if len(others) and len(judged):
            residuals = judged[:, 1] - curve(*_least_squares(others, form), judged[:, 0], form)
            errors[seed] = float(np.mean(residuals**2))
    return errors


def curve(alpha: float, beta: float, d: FloatArray, form: Form) -> FloatArray:
    """Return the fitted gain at distances, `(n,)`; d log d is 0 at 0."""
    return d * alpha - beta * d * _bend(d, form)


def _bend(d: FloatArray, form: Form) -> FloatArray:
    return np.log(np.maximum(d, 1e-300)) if form == "rl" else d


def _points(cells: Sequence[CellResult]) -> FloatArray:
    """Return the distances and gains of all points but the start, `(n, 2)`."""
    found = [np.zeros((0, 2))]
    for c in cells:
        d, gold = _path(c)
        scale = c["gold_std_start"]
        if len(gold) and scale > 0:
            points = np.stack([d, (gold - gold[0]) / scale], axis=1)
            found.append(points[(d > 0) & np.isfinite(points).all(axis=1)])
    return np.concatenate(found)


def _path(cell: CellResult) -> tuple[FloatArray, FloatArray]:
    """Return distances and gold along the curve; negative KL estimates count as missing."""
    return np.sqrt(np.maximum(cell.along("kl_nats"), 0.0)), cell.along("gold")


def _least_squares(points: FloatArray, form: Form) -> tuple[float, float]:
    from scipy.linalg import lstsq

    d = points[:, 0]
    columns = np.stack([d, -d * _bend(d, form)], axis=1)
    (alpha, beta), *_ = lstsq(columns, points[:, 1])
    return float(alpha), float(beta)


def _peak(alpha: float, beta: float, form: Form) -> float | None:
    """Find the curve's maximum, where its slope α − 2 β d, or α − β log d − β, is 0; None without one."""
    if beta <= 0:
        return None
    if form == "best_of_n":
        return max(0.0, alpha / (2 * beta))
    return math.exp(alpha / beta - 1) if alpha / beta < 50 else None


def _note(seeds: Sequence[FloatArray], r2: float) -> str:
    distances = [np.unique(points[:, 0].round(6)) for points in seeds]
    if min(map(len, distances)) < _POINTS:
        return f"too few points: fewer than {_POINTS} of a seed are away from the start"
    if min(d[-1] / d[0] for d in distances) < _SPREAD:
        return "no spread: all points are about as far from the start"
    if max(float(np.abs(points[:, 1]).max()) for points in seeds) < _MOVED:
        return "gold hardly moves"
    if not r2 >= _R2:
        return f"the form does not describe these points (R² = {r2:.2f})"
    return ""


def penalty_frontier(results: Results) -> Iterator[Finding]:
    """Does a KL penalty give more gold at the same KL?"""
    gaps: dict[Setting, Runs] = {}
    for setting, cells in results.settings.items():
        if setting.kl_coefficient is None:
            continue
        least = results.coefficients(setting.design)[0]
        free = {c.row["seed"]: c for c in results.settings.get(setting._replace(kl_coefficient=least), ())}
        if setting.kl_coefficient > least:
            gaps[setting] = _gaps(cells, free, from_start=False)
    gaps = {s: own for s, own in gaps.items() if own}
    if not gaps:
        return
    effect = mean_of_strata(gaps.values())
    by_beta: dict[float, list[Runs]] = {}
    for setting, runs in gaps.items():
        by_beta.setdefault(setting.kl_coefficient or 0.0, []).append(runs)
    designs = len({s.design for s in gaps})
    yield Finding(
        "penalty_frontier",
        "Does a KL penalty move the frontier, gold at the same KL?",
        judge_change(effect, EFFECT_MARGIN),
        f"At the same KL, gold with a penalty less gold with the smallest: {shown(effect, sign=True)}, mean "
        f"over {designs} {'design' if designs == 1 else 'designs'}. (Gao et al. 2022 found that it moves the "
        "end of a run, not its frontier.)",
        "Points of runs with a larger coefficient against the curve of the same design, optimiser and seed "
        "at the smallest, between points by a line over √KL, where both have points. Yes: the mean "
        f"difference is at least {EFFECT_MARGIN} and its interval excludes zero; no: the whole interval lies "
        "within that margin.",
        [("all coefficients", effect)]
        + [(f"β = {beta:g}", mean_of_strata(by_beta[beta])) for beta in sorted(by_beta)],
        p=effect.p,
    )


def spent_kl(results: Results) -> Iterator[Finding]:
    """Does reinforcement learning spend more KL than best-of-n for as much gold?"""
    gaps: dict[Setting, Runs] = {}
    for setting, cells in results.settings.items():
        other = setting._replace(optimiser="best_of_n", kl_coefficient=None)
        chosen = {c.row["seed"]: c for c in results.settings.get(other, ())}
        if is_reinforcement_learning(setting):
            gaps[setting] = _gaps(cells, chosen, from_start=True)
    gaps = {s: own for s, own in gaps.items() if own}
    if not gaps:
        return
    gaps = {s: {seed: -gap for seed, gap in own.items()} for s, own in gaps.items()}
    effect = mean_of_strata(gaps.values())
    by_design: dict[str, list[Runs]] = {}
    for setting, runs in gaps.items():
        by_design.setdefault(setting.design, []).append(runs)
    yield Finding(
        "spent_kl",
        "Does reinforcement learning spend more KL than best-of-n for as much gold?",
        judge_increase(effect, EFFECT_MARGIN),
        f"At the same KL, best-of-n has {shown(effect, sign=True)} more gold, mean over {len(by_design)} "
        f"{'design' if len(by_design) == 1 else 'designs'}. (Gao et al. 2022 found that reinforcement "
        "learning spends far more KL.)",
        "Every point of a run of reinforcement learning within the KL of best-of-n, against best-of-n by "
        f"the same design and seed, between its points by a line over √KL. Yes: at least {EFFECT_MARGIN} and "
        "above zero beyond its interval. The KL of best-of-n is a bound, so it spends rather less.",
        [("all designs", effect), *((d, mean_of_strata(runs)) for d, runs in by_design.items())],
        p=effect.p,
    )


def _gaps(cells: Sequence[CellResult], others: Mapping[Any, CellResult], from_start: bool) -> Runs:
    """Measure how far each run's points lie above the curve of its seed's other run, where they overlap."""
    pairs = [(c, others[c.row["seed"]]) for c in cells if c.row["seed"] in others]
    found = {c.row["seed"]: _above(c, other, from_start) for c, other in pairs}
    return {s: gap for s, gap in found.items() if math.isfinite(gap)}


def _above(run: CellResult, other: CellResult, from_start: bool) -> float:
    """Return a run's mean gold minus that of another's curve at the same d; NaN where they do not overlap.

    Args:
        run: Whose points.
        other: Whose curve; points that are no further away than an earlier one are left out.
        from_start: Whether the curve counts from its start on, or from its first point after it: before that
            there is a line only, which a concave curve lies above.
    """
    d, gold = _path(other)
    known = np.isfinite(d + gold)
    d, gold = d[known], gold[known]
    further = np.array([i == 0 or v > d[:i].max() for i, v in enumerate(d)], dtype=bool)
    d, gold = d[further], gold[further]
    if len(d) < 2:
        return math.nan
    first = 0.0 if from_start else d[1] if d[0] == 0 else d[0]
    own, own_gold = _path(run)
    inside = (own > 0) & (own >= first) & (own <= d[-1]) & np.isfinite(own_gold)
    if not inside.any():
        return math.nan
    return float(np.mean(own_gold[inside] - np.interp(own[inside], d, gold)))


def _seeds(cells: Sequence[CellResult]) -> list[Any]:
    return list(dict.fromkeys(c.row["seed"] for c in cells))
