"""Statistics over few runs: interquartile means, cluster bootstrap, contrasts, probability of improvement.

Runs of one seed share their reward model and candidate texts, whatever their optimiser and KL coefficient: a
seed is a cluster, and only seeds are resampled, in all strata (designs, optimisers, coefficients, tasks)
together. Strata are fixed. Nothing here assumes that a few seeds are many: see `coverage`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from text_gym.episode import FloatArray
from text_gym.utils.interval import Interval, Rows, bootstrap

RESAMPLES = 4000  # all 5^5 resamples of five seeds are fewer
Runs = Mapping[Any, float]  # seed -> value


@dataclass(frozen=True)
class Estimate(Interval):
    """An interval of Student's, with what it rests on.

    Args:
        freedom: Degrees of freedom; NaN where there is no interval.
        p: Two-sided probability of an estimate as far from zero if the truth were zero; NaN likewise.
    """

    freedom: float = math.nan
    p: float = math.nan

    def summary(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return {**super().summary(), "p": self.p}


def coverage(n: int) -> float:
    """Probability that the range of `n` seeds holds the median of all seeds: 1 - 2^(1 - n).

    With two or three seeds a 95 % percentile bootstrap interval of a mean is their range, since drawing the
    lowest one every time has probability 1/4 or 1/27, more than 2.5 %. So little is such an interval worth.

    >>> [coverage(n) for n in (1, 2, 3, 6)]
    [0.0, 0.5, 0.75, 0.96875]
    """
    return 1 - 2.0 ** (1 - n)


def mean(values: Any) -> Any:
    """Mean along the last axis, NaN left out."""
    return _middle(values, 0.0)


def iqm(values: Any) -> Any:
    """Interquartile mean along the last axis, NaN left out: without the lowest and the highest quarter.

    Of fewer than four values it is the mean. It does not see failures that are fewer than a quarter: beside
    it belong the mean, the worst run, and how many failed.

    >>> float(iqm([0.0, 1.0, 2.0, 100.0]))
    1.5
    """
    return _middle(values, 0.25)


def aggregate(
    strata: Sequence[Runs],
    statistic: Callable[[Any], Any] = iqm,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """A statistic of all runs together, with its percentile bootstrap interval over seeds.

    Args:
        strata: Runs of each stratum; NaN is left out, and strata with nothing left.
        statistic: Of values along the last axis, NaN left out: `iqm` or `mean`.
        seed: Of the resamples.
        resamples: How many.

    Returns:
        The interval's ends are NaN if a stratum has a single seed: it says nothing about its spread.
    """
    values = _table(strata)
    if not values.size:
        return Interval(math.nan, math.nan, math.nan, 0)

    def of(rows: Rows) -> FloatArray:
        return np.asarray(statistic(values[rows].reshape(len(rows), -1)))

    ends = _bootstrap(values, of, seed, resamples)
    return Interval(float(statistic(values.ravel())), *ends, _count(values))


def contrast(samples: Sequence[Runs], weights: Sequence[float]) -> Estimate:
    """A weighted sum of the samples' means, with Student's interval over seeds.

    Where all samples have the same seeds, it is the interval of the weighted sums of single seeds (one of
    paired differences is the paired t interval), with a degree of freedom less than seeds. Samples without a
    common seed are Welch's (Welch 1947; Satterthwaite 1946). Where samples share some seeds only, deviations
    of one seed from the samples' means are added up first, and degrees of freedom are those of the smallest
    sample. It assumes nearly normal seeds, and in return is as wide as two or three of them demand.

    Args:
        samples: Runs of each sample, without NaN.
        weights: One for each sample.
    """
    values, factors = _table(samples), np.asarray(weights, dtype=np.float64)
    value, n = float(factors @ np.nanmean(values, axis=0)), _count(values)
    if _too_few(values):
        return Estimate(value, math.nan, math.nan, n)
    counts = np.isfinite(values).sum(axis=0)
    shares = factors * np.sqrt(counts / (counts - 1)) / counts
    deviations = np.nansum(shares * (values - np.nanmean(values, axis=0)), axis=1)  # (S,)
    groups = _groups(values)
    parts = [float(np.sum(deviations[g] ** 2)) for g in groups]
    least = [int(counts[np.isfinite(values[g]).any(axis=0)].min()) - 1 for g in groups]
    variance = sum(parts)
    if math.sqrt(variance) <= 1e-12 * float(np.nanmax(np.abs(values))):
        return Estimate(value, value, value, n, math.inf, 0.0 if value else 1.0)
    from scipy.stats import t  # takes longer to load than all the rest

    freedom = variance**2 / sum(p * p / d for p, d in zip(parts, least, strict=True))
    spread = math.sqrt(variance)
    half = float(t.ppf(0.975, freedom)) * spread
    chance = 2 * float(t.sf(abs(value) / spread, freedom))
    return Estimate(value, value - half, value + half, n, freedom, chance)


def resampled_contrast(
    samples: Sequence[Runs], weights: Sequence[float], seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Compute the same sum with its percentile bootstrap interval over seeds.

    Args:
        samples: Runs of each sample, without NaN.
        weights: One for each sample.
        seed: Of the resamples.
        resamples: How many.
    """
    values, factors = _table(samples), np.asarray(weights, dtype=np.float64)

    def of(rows: Rows) -> FloatArray:
        drawn = values[rows]  # (R, S, K)
        known = np.isfinite(drawn)
        with np.errstate(invalid="ignore"):  # a resample without a sample is left out
            means = np.where(known, drawn, 0).sum(axis=1) / known.sum(axis=1)
        return np.asarray(means @ factors)

    value = float(factors @ np.nanmean(values, axis=0))
    return Interval(value, *_bootstrap(values, of, seed, resamples), _count(values))


def mean_of_strata(strata: Iterable[Runs]) -> Estimate:
    """Mean over strata of the means of their runs, with Student's interval over seeds.

    Args:
        strata: Runs of each; NaN is left out, and strata with nothing left.
    """
    known = [own for runs in strata if (own := {s: v for s, v in runs.items() if math.isfinite(v)})]
    if not known:
        return Estimate(math.nan, math.nan, math.nan, 0)
    return contrast(known, [1 / len(known)] * len(known))


def improvement(strata: Sequence[tuple[Runs, Runs]], seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Probability that a run of B beats a run of A in the same stratum, ties counting half; mean over strata.

    Within a stratum it is the Mann-Whitney statistic U / (n m); the interval is a bootstrap over seeds.

    Args:
        strata: Runs `(A, B)` of each stratum; NaN is left out.
        seed: Of the resamples.
        resamples: How many.
    """
    known = [(a, b) for a, b in strata if _any(a) and _any(b)]
    if not known:
        return Interval(math.nan, math.nan, math.nan, 0)
    values = _table([runs for pair in known for runs in pair])  # (S, 2 K)

    def of(rows: Rows) -> FloatArray:
        total = np.zeros(len(rows))
        for k in range(0, values.shape[1], 2):
            a, b = values[rows, k], values[rows, k + 1]
            wins = np.sign(b[:, :, None] - a[:, None, :])
            known = np.isfinite(wins)
            with np.errstate(invalid="ignore"):
                total += np.where(known, wins, 0).sum(axis=(1, 2)) / known.sum(axis=(1, 2))
        return np.asarray((2 * total / values.shape[1] + 1) / 2)

    value = float(of(np.arange(len(values))[None])[0])
    return Interval(value, *_bootstrap(values, of, seed, resamples), _count(values))


def best_within(kl: FloatArray, gold: FloatArray, budget: float) -> int | None:
    """The point of highest mean gold among those whose mean KL keeps to a budget; None if there is none.

    The point is chosen by means over runs: the best point of each single run would be picked for its noise.

    Args:
        kl: `(R, K)` nats, of R runs at K points.
        gold: `(R, K)`.
        budget: Nats.
    """
    kl, gold = np.mean(kl, axis=0), np.mean(gold, axis=0)
    allowed = (kl <= budget) & np.isfinite(gold)
    return int(np.argmax(np.where(allowed, gold, -np.inf))) if allowed.any() else None


def episodes_until(
    episodes: FloatArray | Sequence[float], gold: FloatArray | Sequence[float], target: float
) -> float:
    """Episodes after which a curve first reaches a target, between points by a line; NaN if never.

    >>> episodes_until([0, 100, 200], [0.25, 0.5, 1.0], 0.75)
    150.0
    """
    for i, value in enumerate(gold):
        if value >= target:
            if i == 0:
                return float(episodes[0])
            share = (target - gold[i - 1]) / (value - gold[i - 1])
            return float(episodes[i - 1] + share * (episodes[i] - episodes[i - 1]))
    return math.nan


def slope(x: FloatArray | Sequence[float], y: FloatArray | Sequence[float]) -> float:
    """Slope of the least-squares line of `y` over `x`; NaN for fewer than two places of `x`."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    both = np.isfinite(a + b)
    if both.sum() < 2 or np.ptp(a[both]) == 0:
        return math.nan
    from scipy.stats import linregress

    return float(linregress(a[both], b[both]).slope)


def _bootstrap(
    values: FloatArray, of: Callable[[Rows], FloatArray], seed: int, resamples: int
) -> tuple[float, float]:
    """Ends of the percentile interval of a statistic of drawn seeds; NaN where a stratum has only one."""
    if _too_few(values):
        return math.nan, math.nan
    return bootstrap(of, _groups(values), seed, resamples, "inverted_cdf")


def _table(strata: Sequence[Runs]) -> FloatArray:
    """Tabulate the values of all seeds in all nonempty strata, `(S, K)`; NaN where a seed has no run."""
    known = [runs for runs in strata if _any(runs)]
    seeds = list(dict.fromkeys(s for runs in known for s, v in runs.items() if math.isfinite(v)))
    rows = [[runs.get(s, math.nan) for runs in known] for s in seeds]
    return np.array(rows, dtype=np.float64).reshape(len(seeds), len(known))


def _groups(values: FloatArray) -> list[Rows]:
    """Rows that are resampled together: seeds that a stratum has in common, directly or through others."""
    labels = np.arange(len(values))
    for known in np.isfinite(values).T:
        joined = np.unique(labels[known])
        labels[np.isin(labels, joined)] = joined[0]
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def _too_few(values: FloatArray) -> bool:
    """Return True if a stratum has fewer than two seeds."""
    return not values.size or int(np.isfinite(values).sum(axis=0).min()) < 2


def _count(values: FloatArray) -> int:
    return int(np.isfinite(values).sum())


def _any(runs: Runs) -> bool:
    return any(map(math.isfinite, runs.values()))


def _middle(values: Any, cut: float) -> Any:
    """Mean of what is left along the last axis without NaN and such a share at each end."""
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=-1)  # NaN last
    n = np.isfinite(ordered).sum(axis=-1, keepdims=True)
    left = (cut * n).astype(int)
    place = np.arange(ordered.shape[-1])
    inside = (place >= left) & (place < n - left)
    with np.errstate(invalid="ignore"):
        return np.where(inside, ordered, 0).sum(axis=-1) / inside.sum(axis=-1)
