"""Measures of a reward against people's opinions: agreement, calibration, rank correlation, with intervals.

Numbers only: what a difference in reward does to a policy that is optimised for it is measured elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from text_gym.episode import FloatArray
from text_gym.errors import DataError
from text_gym.utils.interval import RESAMPLES, Interval


@dataclass(frozen=True)
class Calibration:
    """Calibration: are choices made with confidence `p` right in a share `p` of cases (Guo et al. 2017)?

    Args:
        confidence: `(bins,)` mean confidence in each bin that is not empty, in [0.5, 1].
        accuracy: `(bins,)` share of right choices in it.
        count: `(bins,)` choices in it.
    """

    confidence: FloatArray
    accuracy: FloatArray
    count: FloatArray

    @property
    def ece(self) -> float:
        """Expected calibration error: mean of |accuracy − confidence| over the choices, bin by bin."""
        gaps = np.abs(self.accuracy - self.confidence)
        return float((gaps * self.count).sum() / self.count.sum())

    def summary(self) -> dict[str, Any]:
        """As plain data."""
        names = ("confidence", "accuracy", "count")
        return {"ece": self.ece, **{name: getattr(self, name).tolist() for name in names}}

    def draw(self, file: str | Path, title: str = "Calibration") -> None:
        """Draw the reliability diagram into a PNG."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5, 5), layout="constrained")
        axes = figure.subplots()
        axes.plot([0.5, 1], [0.5, 1], color="0.6", linestyle="--", label="perfectly calibrated")
        sizes = 20 + 180 * self.count / self.count.max()
        axes.plot(self.confidence, self.accuracy, linewidth=1.2, color="C0")
        axes.scatter(self.confidence, self.accuracy, s=sizes, color="C0", label="pairs (area: their number)")
        axes.set(
            title=f"{title}: ECE {self.ece:.3f}",
            xlabel="confidence of the reward model",
            ylabel="share of pairs on which the rater agrees",
        )
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="upper left")
        figure.savefig(str(file), dpi=120)


def probability(ahead: FloatArray) -> FloatArray:
    """Return the Bradley–Terry probabilities `(n,)` that the first text wins, from reward differences.

    >>> probability(np.array([0.0, 1000.0]))
    array([0.5, 1. ])
    """
    result: FloatArray = 0.5 * (1 + np.tanh(np.asarray(ahead, dtype=np.float64) / 2))
    return result


def agreement(ahead: FloatArray, seed: int = 0) -> Interval:
    """Return the share of pairs whose chosen text has the larger reward; equal rewards count half.

    Args:
        ahead: `(n,)` reward of the chosen text minus that of the rejected one; leave ties out.
        seed: Decides the resamples.
    """
    right = (np.sign(_numbers("differences", ahead)) + 1) / 2
    return bootstrap_interval(lambda rows: float(right[rows].mean()), len(right), seed)


def calibration(ahead: FloatArray, bins: int = 10) -> Calibration:
    """Measure how far a reward's confidence in its choices can be trusted; ties are left out.

    Args:
        ahead: `(n,)` reward of the chosen text minus that of the rejected one.
        bins: Number of equally wide bins over [0.5, 1].
    """
    p = probability(_numbers("differences", ahead))
    confidence, right = np.maximum(p, 1 - p), (np.sign(p - 0.5) + 1) / 2
    index = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    used = np.unique(index)
    rows = [index == b for b in used]
    return Calibration(
        np.array([confidence[r].mean() for r in rows]),
        np.array([right[r].mean() for r in rows]),
        np.array([float(r.sum()) for r in rows]),
    )


def spearman(x: FloatArray, y: FloatArray, seed: int = 0) -> Interval:
    """Return Spearman's rank correlation of rewards with marks; ties get their mean rank.

    Args:
        x: `(n,)` rewards.
        y: `(n,)` marks.
        seed: Decides the resamples.
    """
    from scipy.stats import rankdata

    x, y = _numbers("rewards", x), _numbers("marks", y)
    if len(x) != len(y):
        raise DataError(f"{len(x)} rewards for {len(y)} marks")

    def correlation(rows: Any) -> float:
        a, b = rankdata(x[rows]), rankdata(y[rows])
        a, b = a - a.mean(), b - b.mean()
        size = math.sqrt(float(a @ a) * float(b @ b))
        return float(a @ b) / size if size else math.nan

    return bootstrap_interval(correlation, len(x), seed)


def bootstrap_interval(
    statistic: Callable[[Any], float], n: int, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Percentile interval of a statistic over `n` observations, resampled with replacement.

    Args:
        statistic: Gets row numbers `(n,)` and gives the estimate from these rows.
        n: Number of observations.
        seed: Decides the resamples.
        resamples: How many; those where the statistic is NaN do not count.
    """
    rng = np.random.default_rng(seed)
    drawn = np.array([statistic(rng.integers(n, size=n)) for _ in range(resamples)])
    drawn = drawn[~np.isnan(drawn)]
    value = statistic(np.arange(n))
    if not len(drawn):
        return Interval(value, math.nan, math.nan, n)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(value, float(low), float(high), n)


def _numbers(what: str, x: FloatArray | Sequence[float]) -> FloatArray:
    array = np.asarray(x, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise DataError(f"{what} must be a list of at least one finite number, not of shape {array.shape}")
    return array
