"""Statistics over few runs: interquartile means, stratified bootstrap, contrasts, probability of improvement.

A run (one seed) is the observation; designs, optimisers, KL coefficients and tasks are strata, which are
fixed: only seeds are resampled (Agarwal et al. 2021). There are no p-values here, and no assumption that a
few seeds are many: see `coverage`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ..interval import Interval
from ..reward import FloatArray

RESAMPLES = 2000


def coverage(n: int) -> float:
    """Probability that the range of `n` runs holds the median of all runs: 1 - 2^(1 - n).

    With two or three runs a 95 % percentile bootstrap interval of a mean is their range, since drawing the
    lowest one every time has probability 1/4 or 1/27, more than 2.5 %. So little is such an interval worth.

    >>> [coverage(n) for n in (1, 2, 3, 6)]
    [0.0, 0.5, 0.75, 0.96875]
    """
    return 1 - 2.0 ** (1 - n)


def mean(values: Any, axis: int = -1) -> Any:
    """Mean along an axis."""
    return np.mean(values, axis=axis)


def iqm(values: Any, axis: int = -1) -> Any:
    """Interquartile mean: without the lowest and the highest quarter; of fewer than four values, the mean.

    >>> float(iqm([0.0, 1.0, 2.0, 100.0]))
    1.5
    """
    from scipy.stats import trim_mean  # takes longer to load than all the rest

    return trim_mean(np.asarray(values, dtype=np.float64), 0.25, axis=axis)


def aggregate(
    strata: Sequence[FloatArray],
    statistic: Callable[..., Any] = iqm,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """A statistic of all runs together, with its stratified percentile bootstrap interval.

    Args:
        strata: Runs of each stratum, `(n_i,)`; NaN is left out, and strata with nothing left.
        statistic: Of values along an axis: `iqm` or `mean`.
        seed: Of the resamples.
        resamples: How many.

    Returns:
        The interval's ends are NaN if a stratum has a single run: it says nothing about its spread.
    """
    known = _known(strata)
    n = sum(map(len, known))
    if not known:
        return Interval(math.nan, math.nan, math.nan, 0)

    def together(*samples: Any, axis: int = -1) -> Any:
        return statistic(np.concatenate(samples, axis=axis), axis=axis)

    return Interval(float(together(*known)), *_bootstrap(known, together, False, seed, resamples), n)


def contrast(samples: Sequence[FloatArray], weights: Sequence[float]) -> Interval:
    """A weighted sum of the samples' means, with Student's interval (Welch 1947; Satterthwaite 1946).

    One sample of paired differences with weight 1 is the paired t interval; two with -1 and 1 are Welch's;
    K with 1/K are the mean over K strata. It assumes nearly normal runs, and in return is as wide as two or
    three runs demand.

    Args:
        samples: Runs, `(n_i,)` each, without NaN.
        weights: One for each sample.
    """
    value = sum(w * float(np.mean(s)) for w, s in zip(weights, samples, strict=True))
    n = sum(map(len, samples))
    if any(len(s) < 2 for s in samples):
        return Interval(value, math.nan, math.nan, n)
    parts = [w * w * float(np.var(s, ddof=1)) / len(s) for w, s in zip(weights, samples, strict=True)]
    variance = sum(parts)
    if variance == 0:
        return Interval(value, value, value, n)
    from scipy.stats import t

    freedom = variance**2 / sum(p * p / (len(s) - 1) for p, s in zip(parts, samples, strict=True))
    half = float(t.ppf(0.975, freedom)) * math.sqrt(variance)
    return Interval(value, value - half, value + half, n)


def resampled_contrast(
    samples: Sequence[FloatArray], weights: Sequence[float], seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """The same sum with its stratified percentile bootstrap interval: each sample is resampled by itself.

    Args:
        samples: Runs, `(n_i,)` each, without NaN.
        weights: One for each sample.
        seed: Of the resamples.
        resamples: How many.
    """

    def statistic(*drawn: Any, axis: int = -1) -> Any:
        means = [w * np.mean(s, axis=axis) for w, s in zip(weights, drawn, strict=True)]
        return np.sum(means, axis=0)

    ends = _bootstrap(samples, statistic, False, seed, resamples)
    return Interval(float(statistic(*samples)), *ends, sum(map(len, samples)))


def mean_of_strata(strata: Iterable[FloatArray]) -> Interval:
    """Mean over strata of the means of their runs, with Student's interval.

    Args:
        strata: `(n_i,)` each; NaN is left out, and strata with nothing left.
    """
    known = _known(list(strata))
    if not known:
        return Interval(math.nan, math.nan, math.nan, 0)
    return contrast(known, [1 / len(known)] * len(known))


def improvement(
    strata: Sequence[tuple[FloatArray, FloatArray]], seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Probability that a run of B beats a run of A in the same stratum, ties counting half; mean over strata.

    Within a stratum it is the Mann-Whitney statistic U / (n m).

    Args:
        strata: Runs `(A, B)` of each stratum, `(n,)` and `(m,)`; NaN is left out.
        seed: Of the resamples.
        resamples: How many.
    """
    pairs = [(a, b) for a, b in ((_finite(a), _finite(b)) for a, b in strata) if len(a) and len(b)]
    known = [s for pair in pairs for s in pair]
    if not known:
        return Interval(math.nan, math.nan, math.nan, 0)

    def statistic(*samples: Any, axis: int = -1) -> Any:
        wins = [
            np.sign(b[..., :, None] - a[..., None, :]).mean(axis=(-2, -1))
            for a, b in zip(samples[::2], samples[1::2], strict=True)
        ]
        return (np.mean(wins, axis=0) + 1) / 2

    ends = _bootstrap(known, statistic, False, seed, resamples)
    return Interval(float(statistic(*known)), *ends, sum(map(len, known)))


def rank_correlation(x: FloatArray, y: FloatArray, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Spearman's correlation with its percentile bootstrap interval over the pairs; NaN is left out.

    NaN for fewer than three pairs or a constant; resamples that are constant do not count.

    Args:
        x: `(n,)`.
        y: `(n,)`.
        seed: Of the resamples.
        resamples: How many.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    both = np.isfinite(x + y)
    x, y = x[both], y[both]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Interval(math.nan, math.nan, math.nan, len(x))
    return Interval(float(_spearman(x, y)), *_bootstrap([x, y], _spearman, True, seed, resamples), len(x))


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
    samples: Sequence[FloatArray], statistic: Callable[..., Any], paired: bool, seed: int, resamples: int
) -> tuple[float, float]:
    """Ends of the percentile interval; each sample is resampled by itself, or all alike if paired.

    Where there are no more resamples than are asked for, each of them is taken once.
    """
    if any(len(s) < 2 for s in samples):
        return math.nan, math.nan
    if all(np.ptp(s) == 0 for s in samples):
        value = float(statistic(*samples))
        return value, value
    if math.prod(len(s) ** len(s) for s in samples[: 1 if paired else None]) <= resamples:
        drawn = statistic(*_every_resample(samples, paired))
    else:
        from scipy.stats import DegenerateDataWarning, bootstrap

        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DegenerateDataWarning
            )  # resamples that are NaN are left out below
            drawn = bootstrap(
                samples,
                statistic,
                n_resamples=resamples,
                method="percentile",
                vectorized=True,
                paired=paired,
                rng=np.random.default_rng(seed),
            ).bootstrap_distribution
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return math.nan, math.nan
    low, high = np.quantile(drawn, [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)


def _every_resample(samples: Sequence[FloatArray], paired: bool) -> list[FloatArray]:
    """`(R, n_i)` of each sample: all that can be drawn of it, beside all that can be drawn of the others."""
    choices = [np.indices([len(s)] * len(s)).reshape(len(s), -1).T for s in samples]  # (n_i^n_i, n_i)
    if paired:
        return [s[choices[0]] for s in samples]
    rows = np.indices([len(c) for c in choices]).reshape(len(choices), -1)  # (K, R)
    return [s[c[r]] for s, c, r in zip(samples, choices, rows, strict=True)]


def _spearman(x: Any, y: Any, axis: int = -1) -> Any:
    from scipy.stats import rankdata

    a, b = rankdata(x, axis=axis), rankdata(y, axis=axis)
    a, b = a - a.mean(axis=axis, keepdims=True), b - b.mean(axis=axis, keepdims=True)
    size = np.sqrt((a * a).sum(axis=axis) * (b * b).sum(axis=axis))
    with np.errstate(invalid="ignore"):
        return (a * b).sum(axis=axis) / np.where(size > 0, size, np.nan)


def _finite(values: Any) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    return array[np.isfinite(array)]


def _known(strata: Sequence[FloatArray]) -> list[FloatArray]:
    return [s for s in map(_finite, strata) if len(s)]
