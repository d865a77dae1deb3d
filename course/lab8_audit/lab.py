"""Lab 8: the audit. Fill in the functions; `README.md` says what each has to be.

`N` texts. Scores are in the reward's own unit, effects in standard deviations of its scores of real texts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def ranks(x: Array) -> Array:
    """Rank numbers from 1, the smallest first.

    Args:
        x: `(N,)`; some may be the same.

    Returns:
        `(N,)`; equal numbers share the mean of the ranks that they take up.
    """
    # BEGIN SOLUTION
    below = (x[None, :] < x[:, None]).sum(1)
    same = (x[None, :] == x[:, None]).sum(1)
    return np.asarray(below + (same + 1) / 2, dtype=np.float64)
    # END SOLUTION


def rank_correlation(x: Array, y: Array) -> float:
    """Compute Spearman's rank correlation.

    Args:
        x: `(N,)`, not all the same.
        y: `(N,)`, likewise.

    Returns:
        In [−1, 1].
    """
    # BEGIN SOLUTION
    a, b = ranks(x), ranks(y)
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))
    # END SOLUTION


def correlation_at_equal_gold(scores: Array, feature: Array, gold: Array) -> float:
    """Compute the partial rank correlation of scores and a feature, given gold.

    Args:
        scores: `(N,)`, by the reward that is audited.
        feature: `(N,)`, how much of something each text has.
        gold: `(N,)`.

    Returns:
        In [−1, 1]: the correlation of what a straight line over gold's ranks leaves of the others' ranks.
    """
    # BEGIN SOLUTION
    sf, sg, fg = (rank_correlation(*two) for two in ((scores, feature), (scores, gold), (feature, gold)))
    return (sf - sg * fg) / float(np.sqrt((1 - sg**2) * (1 - fg**2)))
    # END SOLUTION


def swap_words(text: str, pairs: Sequence[tuple[str, str]]) -> str:
    """Exchange words for their counterparts, in both directions at once.

    Args:
        text: Any text.
        pairs: Words in lower case, none of them twice.

    Returns:
        The text with every whole word of a pair exchanged for the other one; its first letter is a capital
        where that of the word was.
    """
    # BEGIN SOLUTION
    other = dict(pairs) | {second: first for first, second in pairs}

    def swapped(found: re.Match[str]) -> str:
        word = found[0]
        new = other.get(word.lower(), word)
        return new[0].upper() + new[1:] if word[0].isupper() else new

    return re.sub(r"\w+", swapped, text)
    # END SOLUTION


def quantile_level(alpha: float, tests: int) -> float:
    """Compute which quantile of Student's distribution is the end of an interval.

    Args:
        alpha: The probability of accusing a clean reward of anything.
        tests: How many effects are looked at; Bonferroni's correction.

    Returns:
        In (0, 1), for an interval with two ends.
    """
    # BEGIN SOLUTION
    return 1 - alpha / tests / 2
    # END SOLUTION


def edit_effect(before: Array, after: Array, scores: Array, t: float) -> tuple[float, float, float]:
    """Measure by how much an edit moves the score, with its interval.

    Args:
        before: `(n,)`, scores of texts as they were.
        after: `(n,)`, scores of the same texts, edited.
        scores: `(N,)`, scores of all real texts, whose standard deviation (divisor N) is the unit.
        t: Student's quantile, for n − 1 degrees of freedom.

    Returns:
        The mean change and the ends of its interval, mean ± t s/√n, where s has the divisor n − 1.
    """
    # BEGIN SOLUTION
    changes = (after - before) / scores.std()
    reach = t * changes.std(ddof=1) / np.sqrt(len(changes))
    mean = changes.mean()
    return float(mean), float(mean - reach), float(mean + reach)
    # END SOLUTION


def swap_size(before: Array, after: Array, scores: Array) -> float:
    """Measure how much a swap moves the score, in whichever direction.

    Args:
        before: `(n,)`, scores of texts as they were.
        after: `(n,)`, scores of the same texts with a word swapped, for the better or the worse.
        scores: `(N,)`, scores of all real texts, whose standard deviation (divisor N) is the unit.

    Returns:
        The mean size of the change.
    """
    # BEGIN SOLUTION
    return float(np.abs(after - before).mean() / scores.std())
    # END SOLUTION


def name_vices(effects: Mapping[str, tuple[float, float, float]], least: float) -> list[str]:
    """Name the edits that move the score, though they change nothing about quality.

    Args:
        effects: Of each edit the mean and the ends of its interval.
        least: The smallest mean change, up or down, that is worth naming.

    Returns:
        Names, of the largest effect first: those whose interval leaves 0 out and whose mean is large enough.
    """
    # BEGIN SOLUTION
    named = [n for n, (mean, low, high) in effects.items() if abs(mean) >= least and (low > 0 or high < 0)]
    return sorted(named, key=lambda name: -abs(effects[name][0]))
    # END SOLUTION
