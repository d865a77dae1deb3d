"""Interval: an estimate with its uncertainty, as tables, figures and JSON files show it.

How it is estimated is for others to say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from text_gym.episode import FloatArray

RESAMPLES = 1000


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
        """As plain data."""
        return {"value": self.value, "ci95": [self.low, self.high], "n": self.n}


def shown(interval: Interval, digits: int = 2, sign: bool = False) -> str:
    """An interval in a sentence.

    >>> shown(Interval(-0.314, -0.4, -0.2, 3)), shown(Interval(0.5, float("nan"), float("nan"), 1), 1, True)
    ('−0.31 [−0.40, −0.20]', '+0.5 (no interval)')
    """
    if math.isnan(interval.value):
        return "not known"
    form = f"{{:{'+' if sign else ''}.{digits}f}}"
    centre, low, high = (form.format(x) for x in (interval.value, interval.low, interval.high))
    text = centre + (" (no interval)" if math.isnan(interval.low) else f" [{low}, {high}]")
    return re.sub(r"[-+](0\.?0*)(?![.\d])", r"\1", text).replace("-", "−")


def mean_interval(values: FloatArray, seed: int = 0) -> Interval:
    """Mean with its percentile interval; NaN is left out.

    Args:
        values: `(n,)`.
        seed: Of the resamples.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return Interval(math.nan, math.nan, math.nan, 0)
    return _interval(float(known.mean()), known[_rows(len(known), seed)].mean(axis=1), len(known))


def rank_correlation(
    x: FloatArray, y: FloatArray, controls: FloatArray | None = None, seed: int = 0
) -> Interval:
    """Spearman's correlation of `x` and `y`, with the controls accounted for if there are any.

    All are ranked. The parts of the ranks of `x` and `y` that a linear model of the controls' ranks leaves
    unexplained are correlated (partial rank correlation, Kendall 1942). NaN where a millionth or less is
    left: then there is nothing to correlate.

    Args:
        x: `(n,)`.
        y: `(n,)`.
        controls: `(n, k)`; they may depend on each other.
        seed: Of the resamples.
    """
    together = np.stack([x, y, *(() if controls is None else controls.T)])  # (2 + k, n)
    return RankCorrelations(together, seed).of(0, 1, range(2, len(together)))


class RankCorrelations:
    """Rank correlations of any two of several columns, as `rank_correlation` has them, all resampled once.

    Args:
        columns: `(m, n)`.
        seed: Of the resamples.
    """

    def __init__(self, columns: FloatArray, seed: int = 0) -> None:
        from scipy.stats import rankdata  # takes longer to load than all the rest

        self.n = columns.shape[1]
        rows = np.concatenate([np.arange(self.n)[None], _rows(self.n, seed)])  # the data themselves first
        ranks = rankdata(columns[:, rows], axis=-1)  # (m, 1 + R, n)
        ranks -= ranks.mean(axis=-1, keepdims=True)
        ranks = np.ascontiguousarray(ranks.transpose(1, 0, 2))
        self._products = ranks @ ranks.transpose(0, 2, 1)  # (1 + R, m, m)

    def of(self, x: int, y: int, controls: Sequence[int] = ()) -> Interval:
        """The correlation of two columns, with others accounted for."""
        own = [x, y, *controls]
        found = _partial(self._products[:, own][:, :, own])
        return _interval(float(found[0]), found[1:], self.n)


def _partial(products: Any) -> FloatArray:
    """`(R,)` correlations of the first two, from `(R, 2 + k, 2 + k)` sums of products."""
    pair, cross, rest = products[:, :2, :2], products[:, :2, 2:], products[:, 2:, 2:]
    left = pair
    if rest.shape[1]:
        left = pair - cross @ np.linalg.pinv(rest, rcond=1e-9, hermitian=True) @ cross.transpose(0, 2, 1)
    size, whole = np.diagonal(left, axis1=1, axis2=2), np.diagonal(pair, axis1=1, axis2=2)
    enough = np.all(size > 1e-6 * whole, axis=1)
    scale = np.sqrt(np.where(np.expand_dims(enough, 1), size, 1.0).prod(axis=1))
    return np.where(enough, left[:, 0, 1] / scale, np.nan)


def _rows(n: int, seed: int) -> Any:
    return np.random.default_rng(seed).integers(n, size=(RESAMPLES, n))


def _interval(value: float, drawn: FloatArray, n: int) -> Interval:
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return Interval(value, math.nan, math.nan, n)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(value, float(low), float(high), n)
