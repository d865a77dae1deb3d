"""Best-of-n probe: what happens to gold when the audited reward picks the best of n texts.

The expectation over all choices of n texts is exact; nothing is drawn but the bootstrap's resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from text_gym.episode import FloatArray
from text_gym.utils.interval import Interval, Rows, bootstrap


@dataclass(frozen=True)
class BestOfNProbe:
    """Gold of the best of n texts, beside gold of a random text.

    Args:
        n: Texts that one is taken from.
        mean: Mean gold of all texts.
        gold: Expected gold of the text with the largest score.
        change: The difference of the two.
        best: Expected gold of the text with the largest gold: nothing could do better.
        example: The text with the largest score.
    """

    n: int
    mean: float
    gold: Interval
    change: Interval
    best: float
    example: str


def expected_best(scores: FloatArray, values: FloatArray, n: int) -> float:
    """Return the expected value of the best-scored of n texts drawn with replacement; ties are shared.

    >>> expected_best(np.array([1.0, 2.0]), np.array([10.0, 20.0]), n=2)
    17.5
    """
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    upper = np.cumsum(counts) / len(scores)
    lower = np.concatenate([[0.0], upper[:-1]])
    return float(((upper**n - lower**n) / counts)[place] @ values)


def best_of_n_probe(
    scores: FloatArray, golds: FloatArray, texts: tuple[str, ...], n: int = 64, seed: int = 0
) -> BestOfNProbe:
    """Run best-of-n over the given texts, whatever their prompts, with bootstrap intervals.

    Args:
        scores: `(N,)` the audited reward's.
        golds: `(N,)` gold.
        texts: The texts.
        n: Texts that one is taken from.
        seed: Decides the resamples.
    """
    value, mean = expected_best(scores, golds, n), float(golds.mean())

    def best(rows: Rows) -> FloatArray:
        return np.array([expected_best(scores[r], golds[r], n) for r in rows])

    def change(rows: Rows) -> FloatArray:
        found: FloatArray = best(rows) - golds[rows].mean(axis=1)
        return found

    return BestOfNProbe(
        n,
        mean,
        Interval(value, *bootstrap(best, len(scores), seed), len(scores)),
        Interval(value - mean, *bootstrap(change, len(scores), seed), len(scores)),
        expected_best(golds, golds, n),
        texts[int(np.argmax(scores))],
    )
