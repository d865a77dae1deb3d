"""Finds words that go with a high score at equal gold: selected on one half, estimated on the other.

A coefficient is a correlation and names nothing by itself; an edit must agree (`effects`).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from text_gym.episode import FloatArray
from text_gym.utils.interval import Interval

from .parts import tokens

_FEWEST_TEXTS = 5  # texts that must contain a word for it to count


@dataclass(frozen=True)
class WordWeight:
    """The association of a word, word pair or mark with the score at equal gold and length.

    Args:
        name: The word, in small letters; `first word: …` for an opening.
        texts: How many texts have it.
        weight: Difference of score between texts with and without it, everything else selected being
            equal, in standard deviations of the score; the interval is corrected for the words selected.
    """

    name: str
    texts: int
    weight: Interval


def word_features(texts: Sequence[str]) -> tuple[list[str], FloatArray]:
    """Return names and presence `(n, F)` of words, word pairs, marks and first words that five texts have."""
    having = []
    for text in texts:
        found = [t.lower() for t in tokens(text)]
        pairs = [f"{a} {b}" for a, b in itertools.pairwise(found)]
        marks = {c for c in text if not c.isalnum() and not c.isspace()}
        first = [f"first word: {found[0]}"] if found else []
        having.append({*found, *pairs, *marks, *first})
    counts = Counter(name for own in having for name in own)
    most = len(texts) - _FEWEST_TEXTS
    names = sorted(name for name, n in counts.items() if _FEWEST_TEXTS <= n <= most)
    return names, np.array([[name in own for name in names] for own in having], dtype=np.float64)


def associations(features: FloatArray, scores: FloatArray, controls: FloatArray) -> FloatArray:
    """Return partial correlations of score and feature given the controls, `(F,)`.

    Args:
        features: `(n, F)`.
        scores: `(n,)`.
        controls: `(n, k)`.
    """
    x, y = _without(features, controls), _without(scores, controls)
    size = np.sqrt((x**2).sum(axis=0) * (y**2).sum())
    large = size > 1e-9 * np.sqrt(max(1e-300, float((scores**2).sum())))
    result: FloatArray = np.where(large, x.T @ y / np.where(large, size, 1.0), 0.0)
    return result


def word_weights(
    texts: Sequence[str], scores: FloatArray, controls: FloatArray, most: int = 8, seed: int = 0
) -> tuple[WordWeight, ...]:
    """Select words by forward selection on one half, and estimate them by least squares on the other.

    The next word is the one that correlates most with what is left of the scores (orthogonal matching
    pursuit, Pati et al. 1993); it ends at `most` words, or when none explains 2 % of what is left. Intervals
    are Student's at 1 − 0.05 / (number of words selected).

    Args:
        texts: The texts.
        scores: `(n,)`, any unit.
        controls: `(n, k)` what is accounted for: gold, its terms, length.
        most: Words selected at most.
        seed: Decides the halves.
    """
    names, features = word_features(texts)
    order = np.random.default_rng(seed).permutation(len(texts))
    one, two = order[: len(texts) // 2], order[len(texts) // 2 :]
    spread = float(scores.std())
    if not names or spread == 0 or len(two) < controls.shape[1] + most + 8:
        return ()
    chosen: list[int] = []
    for _ in range(most):
        held = np.concatenate([controls[one], features[one][:, chosen]], axis=1)
        found = associations(features[one], scores[one], held)
        found[chosen] = 0
        best = int(np.argmax(np.abs(found)))
        if found[best] ** 2 < 0.02:
            break
        chosen.append(best)
    if not chosen:
        return ()
    weights = _least_squares(features[two][:, chosen], scores[two] / spread, controls[two])
    counts = features.sum(axis=0).astype(int)
    return tuple(WordWeight(names[i], int(counts[i]), w) for i, w in zip(chosen, weights, strict=True))


def _least_squares(x: FloatArray, y: FloatArray, controls: FloatArray) -> list[Interval]:
    """Fit `x` beside the controls and return coefficients with corrected intervals; NaN if unidentified."""
    from scipy.stats import t as student  # slow to import

    x, y = _without(x, controls), _without(y, controls)
    degrees = len(y) - x.shape[1] - controls.shape[1] - 1
    inverse = np.linalg.pinv(x.T @ x, rcond=1e-9, hermitian=True)
    weights = inverse @ x.T @ y
    error = np.sqrt(np.diagonal(inverse) * ((y - x @ weights) ** 2).sum() / degrees)
    reach = student.ppf(1 - 0.025 / x.shape[1], degrees) * error
    return [
        Interval(float(w), float(w - r), float(w + r), len(y)) for w, r in zip(weights, reach, strict=True)
    ]


def _without(values: FloatArray, controls: FloatArray) -> FloatArray:
    """Return the residuals of the values after a linear fit on the controls."""
    design = np.concatenate([np.ones((len(controls), 1)), controls], axis=1)
    result: FloatArray = values - design @ np.linalg.lstsq(design, values, rcond=1e-9)[0]
    return result
