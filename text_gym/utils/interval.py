"""Intervals: an estimate with its uncertainty, and the one bootstrap that gives it its ends.

Every interval of the package that is resampled comes from `bootstrap`; Student's are those of the benchmark.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from text_gym.episode import FloatArray

RESAMPLES = 1000
Rows = npt.NDArray[np.intp]
Quantiles = Literal["linear", "inverted_cdf"]
_BLOCK = 2**22  # rows held at a time


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its 95 % interval.

    Args:
        value: The estimate; NaN where it is not defined (a constant has no rank correlation).
        low: Lower end; NaN where there are too few observations to say anything of their spread.
        high: Upper end.
        n: Number of observations.

    >>> Interval(0.5, 0.25, 0.75, n=30).summary()
    {'value': 0.5, 'ci95': [0.25, 0.75], 'n': 30}
    """

    value: float
    low: float
    high: float
    n: int

    def summary(self) -> dict[str, Any]:
        """Return plain data."""
        return {"value": self.value, "ci95": [self.low, self.high], "n": self.n}


def shown(interval: Interval, digits: int = 2, sign: bool = False) -> str:
    """Format an interval for a sentence.

    >>> shown(Interval(-0.314, -0.4, -0.2, 3)), shown(Interval(0.5, float("nan"), float("nan"), 1), 1, True)
    ('−0.31 [−0.40, −0.20]', '+0.5 (no interval)')
    """
    if math.isnan(interval.value):
        return "not known"
    form = f"{{:{'+' if sign else ''}.{digits}f}}"
    centre, low, high = (form.format(x) for x in (interval.value, interval.low, interval.high))
    text = centre + (" (no interval)" if math.isnan(interval.low) else f" [{low}, {high}]")
    return re.sub(r"[-+](0\.?0*)(?![.\d])", r"\1", text).replace("-", "−")


def bootstrap(
    statistic: Callable[[Rows], FloatArray],
    observations: int | Sequence[Rows],
    seed: int = 0,
    resamples: int = RESAMPLES,
    quantiles: Quantiles = "linear",
) -> tuple[float, float]:
    """Return the ends of a statistic's 95 % percentile bootstrap interval (Efron 1979).

    Observations are drawn with replacement. Where there are no more resamples than are asked for (four
    observations have 256), each is taken once and nothing is left to chance.

    Args:
        statistic: Gets row numbers `(R, n)` and gives the estimate from each line of them, `(R,)`; an
            estimate that is not finite is left out.
        observations: Their number `n`; or the rows of each group that is drawn by itself.
        seed: Decides the resamples.
        resamples: How many.
        quantiles: NumPy's method. `inverted_cdf` gives ends that were drawn, which is what one wants of few
            observations; where each resample is taken once it is always used.

    Returns:
        Low and high end; NaN where there are no observations, or none gives a finite estimate.

    >>> x = np.array([1.0, 2.0, 4.0])
    >>> bootstrap(lambda rows: x[rows].mean(axis=1), len(x))  # 27 resamples; one of them is 1, 1, 1
    (1.0, 4.0)
    """
    groups = [np.arange(observations)] if isinstance(observations, int) else list(observations)
    if not sum(map(len, groups)):
        return math.nan, math.nan
    drawn = np.concatenate([statistic(rows) for rows in _resamples(groups, seed, resamples)])
    return _ends(drawn, "inverted_cdf" if _countable(groups, resamples) else quantiles)


def mean_interval(values: FloatArray, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Return the mean with its percentile interval; NaN is left out.

    Args:
        values: `(n,)`.
        seed: Decides the resamples.
        resamples: How many.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return Interval(math.nan, math.nan, math.nan, 0)
    ends = bootstrap(lambda rows: known[rows].mean(axis=1), len(known), seed, resamples)
    return Interval(float(known.mean()), *ends, len(known))


def spearman(x: FloatArray, y: FloatArray) -> float:
    """Return Spearman's rank correlation of `x` and `y`, both `(n,)`; pairs with a NaN are left out.

    NaN for fewer than three pairs, of which any two would correlate perfectly, and for constants.
    """
    from scipy.stats import spearmanr  # takes longer to load than all the rest

    both = ~np.isnan(x + y)
    x, y = x[both], y[both]
    return math.nan if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0 else float(spearmanr(x, y).statistic)


def rank_correlation(
    x: FloatArray,
    y: FloatArray,
    controls: FloatArray | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    quantiles: Quantiles = "linear",
) -> Interval:
    """Return Spearman's correlation of `x` and `y`, partial if there are controls, with its interval.

    All are ranked. The parts of the ranks of `x` and `y` that a linear model of the controls' ranks leaves
    unexplained are correlated (partial rank correlation, Kendall 1942). NaN where a millionth or less is
    left: then there is nothing to correlate. Observations with a NaN are left out.

    Args:
        x: `(n,)`.
        y: `(n,)`.
        controls: `(n, k)`; they may depend on each other.
        seed: Decides the resamples.
        resamples: How many.
        quantiles: As `bootstrap` takes it.
    """
    together = np.stack([x, y, *(() if controls is None else controls.T)])  # (2 + k, n)
    together = together[:, ~np.isnan(together).any(axis=0)]
    if together.shape[1] < 3:
        return Interval(math.nan, math.nan, math.nan, together.shape[1])
    return RankCorrelations(together, seed, resamples, quantiles).of(0, 1, range(2, len(together)))


class RankCorrelations:
    """Rank correlations of any two of several columns, as from `rank_correlation`, on shared resamples.

    Args:
        columns: `(m, n)`, without NaN.
        seed: Decides the resamples.
        resamples: How many.
        quantiles: As `bootstrap` takes it.
    """

    def __init__(
        self,
        columns: FloatArray,
        seed: int = 0,
        resamples: int = RESAMPLES,
        quantiles: Quantiles = "linear",
    ) -> None:
        self.n = columns.shape[1]
        groups = [np.arange(self.n)]
        self._quantiles: Quantiles = "inverted_cdf" if _countable(groups, resamples) else quantiles
        itself = _products(columns, groups[0][None])
        drawn = [_products(columns, rows) for rows in _resamples(groups, seed, resamples)]
        self._products = np.concatenate([itself, *drawn])  # (1 + R, m, m), the data themselves first

    def of(self, x: int, y: int, controls: Sequence[int] = ()) -> Interval:
        """Return the correlation of two columns, given the others as controls."""
        own = [x, y, *controls]
        found = _partial(self._products[:, own][:, :, own])
        return Interval(float(found[0]), *_ends(found[1:], self._quantiles), self.n)


def _products(columns: FloatArray, rows: Rows) -> FloatArray:
    """Return the sums of products of the columns' centred ranks in each resample, `(R, m, m)`."""
    from scipy.stats import rankdata  # takes longer to load than all the rest

    ranks = rankdata(columns[:, rows], axis=-1)  # (m, R, n)
    ranks -= ranks.mean(axis=-1, keepdims=True)
    ranks = np.ascontiguousarray(ranks.transpose(1, 0, 2))
    products: FloatArray = ranks @ ranks.transpose(0, 2, 1)
    return products


def _partial(products: Any) -> FloatArray:
    """Return the partial correlations of the first two, `(R,)`, from sums of products `(R, 2 + k, 2 + k)`."""
    pair, cross, rest = products[:, :2, :2], products[:, :2, 2:], products[:, 2:, 2:]
    left = pair
    if rest.shape[1]:
        left = pair - cross @ np.linalg.pinv(rest, rcond=1e-9, hermitian=True) @ cross.transpose(0, 2, 1)
    size, whole = np.diagonal(left, axis1=1, axis2=2), np.diagonal(pair, axis1=1, axis2=2)
    enough = np.all(size > 1e-6 * whole, axis=1)
    scale = np.sqrt(np.where(np.expand_dims(enough, 1), size, 1.0).prod(axis=1))
    return np.where(enough, left[:, 0, 1] / scale, np.nan)


def _countable(groups: Sequence[Rows], resamples: int) -> bool:
    """Return True if all distinct resamples are no more than asked for."""
    return sum(len(g) * math.log(len(g)) for g in groups) <= math.log(resamples) + 1e-9


def _resamples(groups: Sequence[Rows], seed: int, resamples: int) -> Iterator[Rows]:
    """Yield resampled rows, `(R, n)` in blocks, drawn within each group, or all where they are few."""
    if _countable(groups, resamples):
        yield _every_resample(groups)
        return
    rng = np.random.default_rng(seed)
    most = max(1, _BLOCK // len(groups[0])) if len(groups) == 1 else resamples
    for start in range(0, resamples, most):
        count = min(most, resamples - start)
        yield np.concatenate([g[rng.integers(len(g), size=(count, len(g)))] for g in groups], axis=1)


def _every_resample(groups: Sequence[Rows]) -> Rows:
    """Return all possible resamples, `(R, n)`: every draw of each group beside every draw of the others."""
    choices = [g[np.indices([len(g)] * len(g)).reshape(len(g), -1).T] for g in groups]  # (n^n, n) each
    places = np.indices([len(c) for c in choices]).reshape(len(choices), -1)
    return np.concatenate([c[p] for c, p in zip(choices, places, strict=True)], axis=1)


def _ends(drawn: FloatArray, quantiles: Quantiles) -> tuple[float, float]:
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return math.nan, math.nan
    low, high = np.quantile(drawn, [0.025, 0.975], method=quantiles)
    return float(low), float(high)
