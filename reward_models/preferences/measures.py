"""Measures of a reward against people's opinions: agreement, calibration, rank correlation, with intervals.

Numbers only: what a difference in reward does to a policy that is optimised for it is measured elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from text_gym.episode import FloatArray
from text_gym.errors import DataError
from text_gym.plot.canvas import save
from text_gym.plot.estimates import calibration
from text_gym.utils.interval import Interval, mean_interval, rank_correlation


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
        """Return plain data that JSON can hold."""
        names = ("confidence", "accuracy", "count")
        return {"ece": self.ece, **{name: getattr(self, name).tolist() for name in names}}

    def draw(self, file: str | Path, title: str = "Calibration") -> None:
        """Draw the reliability diagram into a PNG."""
        save(
            calibration(
                self.confidence,
                self.accuracy,
                self.count,
                x_label="confidence of the reward model",
                y_label="share of pairs on which the rater agrees",
                title=f"{title}: ECE {self.ece:.3f}",
            ),
            file,
        )


def probability(ahead: FloatArray) -> FloatArray:
    """Return the Bradley–Terry probabilities `(n,)` that the first text wins, from reward differences.

    >>> probability(np.array([0.0, 1000.0]))
    array([0.5, 1. ])
    """
    result: FloatArray = 0.5 * (1 + np.tanh(np.asarray(ahead, dtype=np.float64) / 2))
    return result


def pair_accuracy(ahead: FloatArray, seed: int = 0) -> Interval:
    """Return the share of pairs whose chosen text has the larger reward; equal rewards count half.

    Args:
        ahead: `(n,)` reward of the chosen text minus that of the rejected one; leave ties out.
        seed: Decides the resamples.
    """
    right = (np.sign(_numbers("differences", ahead)) + 1) / 2
    return mean_interval(right, seed)


def measure_calibration(ahead: FloatArray, bins: int = 10) -> Calibration:
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


def mark_correlation(rewards: FloatArray, marks: FloatArray, seed: int = 0) -> Interval:
    """Return Spearman's rank correlation of rewards with people's marks; ties get their mean rank.

    Args:
        rewards: `(n,)`.
        marks: `(n,)`.
        seed: Decides the resamples.

    Raises:
        DataError: There is none of them, their numbers differ, or one is not finite.
    """
    x, y = _numbers("rewards", rewards), _numbers("marks", marks)
    if len(x) != len(y):
        raise DataError(f"{len(x)} rewards for {len(y)} marks")
    return rank_correlation(x, y, seed=seed)


def _numbers(what: str, x: FloatArray | Sequence[float]) -> FloatArray:
    array = np.asarray(x, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise DataError(f"{what} must be a list of at least one finite number, not of shape {array.shape}")
    return array
