"""Lab 5: people. Fill in the functions; `README.md` says what each has to be.

`R` raters, `Q` texts, `V` values that a mark can have. Marks are `(R, Q)`, NaN where a rater did not answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def agreement(marks: Floats) -> float:
    """Compute the share of pairs of raters, over all texts, who gave the same text the same mark.

    Args:
        marks: `(R, Q)`; at least one text has two marks.

    Returns:
        Equal pairs among the pairs where both have answered.
    """
    # BEGIN SOLUTION
    equal = total = 0
    for first in range(len(marks)):
        for second in range(first):
            both = ~np.isnan(marks[first]) & ~np.isnan(marks[second])
            equal += int((marks[first] == marks[second])[both].sum())
            total += int(both.sum())
    return equal / total
    # END SOLUTION


def coincidences(marks: Floats, values: Sequence[float]) -> Floats:
    """Count which marks meet which on the same text (Krippendorff's coincidence matrix).

    Args:
        marks: `(R, Q)`.
        values: `(V,)`, the marks there can be, in order.

    Returns:
        `(V, V)`: over the texts of two marks or more, the ordered pairs of marks by two different raters,
        each divided by the text's number of marks less one. Every mark that can be paired counts 1.
    """
    # BEGIN SOLUTION
    table = np.zeros((len(values), len(values)))
    for text in marks.T:
        count = np.array([np.sum(text == value) for value in values], dtype=np.float64)
        if count.sum() > 1:
            pairs = np.outer(count, count) - np.diag(count)
            table += pairs / (count.sum() - 1)
    return table
    # END SOLUTION


def ordinal_distances(table: Floats) -> Floats:
    """Compute the squared distances of ordinal marks, which know an order and no unit.

    Args:
        table: `(V, V)`, coincidences.

    Returns:
        `(V, V)`: the square of the number of marks from one value to the other; the two ends count half.
    """
    # BEGIN SOLUTION
    count = table.sum(axis=1)
    middle = np.cumsum(count) - count / 2
    return np.asarray((middle[:, None] - middle[None, :]) ** 2)
    # END SOLUTION


def krippendorff_alpha(table: Floats, distances: Floats) -> float:
    """Compute Krippendorff's α: 1 less the disagreement seen by the one that chance would give.

    Args:
        table: `(V, V)`, coincidences.
        distances: `(V, V)`, how much a pair of values disagrees; 0 on the diagonal.

    Returns:
        1 for perfect agreement, 0 for chance, which draws two of all marks, without replacement.
    """
    # BEGIN SOLUTION
    count = table.sum(axis=1)
    n = count.sum()
    seen = (table * distances).sum() / n
    by_chance = (np.outer(count, count) * distances).sum() / (n * (n - 1))
    return float(1 - seen / by_chance)
    # END SOLUTION


def texts_and_shifts(marks: Floats) -> tuple[Floats, Floats]:
    """Fit `mark = text + rater's shift` by least squares; the shifts add up to 0.

    Args:
        marks: `(R, Q)`; everybody shares texts with others, so that all can be compared.

    Returns:
        The texts' values, `(Q,)`, and the raters' shifts, `(R,)`: positive for the generous.
    """
    # BEGIN SOLUTION
    raters, texts = marks.shape
    who, which = np.nonzero(~np.isnan(marks))
    design = np.zeros((len(who) + 1, texts + raters))
    rows = np.arange(len(who))
    design[rows, which] = 1
    design[rows, texts + who] = 1
    design[-1, texts:] = 1  # the shifts add up to 0
    wanted = np.append(marks[who, which], 0.0)
    fitted = np.linalg.lstsq(design, wanted, rcond=None)[0]
    return fitted[:texts], fitted[texts:]
    # END SOLUTION


def length_bias(marks: Floats, quality: Floats, lengths: Floats) -> float:
    """Compute by how much a rater's mark rises with a text's length, at the same quality.

    Args:
        marks: `(Q,)`, of one rater.
        quality: `(Q,)`, e.g. what the others think of the text.
        lengths: `(Q,)`, in words.

    Returns:
        Marks per word: the length's coefficient in a regression on a constant, quality and length.
    """
    # BEGIN SOLUTION
    design = np.stack([np.ones(len(marks)), quality, lengths], axis=1)
    return float(np.linalg.lstsq(design, marks, rcond=None)[0][2])
    # END SOLUTION
