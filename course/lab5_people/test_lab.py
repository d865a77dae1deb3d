"""Public tests of lab 5: tables made by hand, published examples, and raters whose bias is known."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from course.checks import Array, close

GAP = math.nan
# Two raters, ten texts (Krippendorff 2011, section A): α is 0.095.
TWO = np.array([[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]], dtype=np.float64)
# Four raters, twelve texts, with gaps (sections C and D): 0.743 nominal, 0.815 ordinal, 0.849 interval.
FOUR = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, GAP, GAP, GAP],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, GAP, 3],
        [GAP, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, GAP],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, GAP],
    ]
)
FOUR_TABLE = np.array(  # as printed there
    [[7, 4 / 3, 1 / 3, 1 / 3, 0], [4 / 3, 10, 4 / 3, 1 / 3, 0], [1 / 3, 4 / 3, 8, 1 / 3, 0],
     [1 / 3, 1 / 3, 1 / 3, 4, 0],
     [0, 0, 0, 0, 3]]
)  # fmt: skip
NOMINAL = 1 - np.eye(5)
INTERVAL = (np.arange(5)[:, None] - np.arange(5)[None, :]) ** 2.0


def some_marks(seed: int, raters: int = 4, texts: int = 9) -> Array:
    """Draw marks from 1 to 5 with gaps; every rater shares texts with every other."""
    rng = np.random.default_rng(seed)
    marks = rng.integers(1, 6, (raters, texts)).astype(np.float64)
    gaps = rng.random((raters, texts)) < 0.25
    gaps[:, :2] = False
    gaps[1:, 2] = True  # a text of one mark
    gaps[0, 2] = False
    gaps[0, gaps.all(axis=0)] = False
    return np.where(gaps, GAP, marks)


# agreement


def test_agreement_by_hand(lab: Any, seed: int) -> None:
    """Three raters: of text 1 all pairs agree, of text 2 one of three, of text 3 the only one does not."""
    marks = np.array([[1, 2, 3, 4], [1, 2, GAP, GAP], [1, 5, 4, GAP]])
    close(
        lab.agreement(marks),
        4 / 7,
        "your agreement",
        mistakes={
            "a gap counts as disagreement; leave out pairs where one did not answer": 4 / 12,
            "gaps count as agreement: two who did not answer agree about nothing": 5 / 12,
            "it is the mean over texts; every pair counts alike": (1 + 1 / 3 + 0) / 3,
            "a text counts only if everybody agrees; pairs are asked for": 1 / 4,
            "a rater agrees with himself in your pairs; the two must be different": 13 / 16,
            "a rater agrees with himself in your pairs; the two must be different ones": 17 / 23,
        },
        hint="equal pairs by pairs of two different raters who both answered",
    )


# coincidences


def test_coincidences_of_two_raters_by_hand(lab: Any, seed: int) -> None:
    close(
        lab.coincidences(TWO, [0, 1]),
        [[10, 4], [4, 2]],
        "your coincidences of two raters and ten texts",
        mistakes={
            "every pair is counted in one order only; both orders count": [[5, 4], [4, 1]],
            "every pair is counted in one order only; both orders count (its table is symmetric)":
                [[5, 3], [1, 1]],
            "every pair is counted in one order only; both orders count (the table must be symmetric)":
                [[5, 1], [3, 1]],
            "a mark is paired with itself: the two must be of different raters": [[24, 4], [4, 8]],
            "half of the table is empty: both orders of a pair count": [[10, 4], [0, 2]],
            "pairs are divided by the text's number of marks; it is that less one": [[5, 2], [2, 1]],
            "the entries are shares; counts are asked for": [[0.5, 0.2], [0.2, 0.1]],
        },
    )  # fmt: skip


def test_coincidences_of_the_published_table(lab: Any, seed: int) -> None:
    counts = [np.array([np.sum(t == v) for v in range(1, 6)], dtype=np.float64) for t in FOUR.T]
    pairs = [np.outer(c, c) - np.diag(c) for c in counts]
    alone = [c for c in counts if c.sum() == 1]
    close(
        lab.coincidences(FOUR, [1, 2, 3, 4, 5]),
        FOUR_TABLE,
        "your coincidences of four raters with gaps",
        mistakes={
            "pairs are not divided by the text's marks less one, so texts of many marks count too much":
                np.sum(pairs, axis=0),
            "pairs are divided by the text's number of marks; it is that less one":
                np.sum([p / c.sum() for p, c in zip(pairs, counts, strict=True)], axis=0),
            "pairs are divided by the number of raters less one; with gaps a text has fewer marks":
                np.sum(pairs, axis=0) / 3,
            "a text of a single mark counts; there is nothing to compare it with":
                FOUR_TABLE + np.sum([np.diag(c) for c in alone], axis=0),
            "a mark is paired with itself: the two must be of different raters": np.sum(
                [np.outer(c, c) / (c.sum() - 1) for c in counts if c.sum() > 1], axis=0
            ),
        },
    )  # fmt: skip


# ordinal_distances, krippendorff_alpha


def test_ordinal_distances_by_hand(lab: Any, seed: int) -> None:
    """Marks 2, 6 and 4 times: from the first to the second value 1 + 3, to the third 1 + 6 + 2."""
    close(
        lab.ordinal_distances(np.diag([2.0, 6.0, 4.0])),
        [[0, 16, 81], [16, 0, 25], [81, 25, 0]],
        "your ordinal distances",
        mistakes={
            "the ends count in full; they count half": [[0, 64, 144], [64, 0, 100], [144, 100, 0]],
            "the distances are not squared": [[0, 4, 9], [4, 0, 5], [9, 5, 0]],
            "these are distances of the values' places, as if the marks had a unit (interval)":
                [[0, 1, 4], [1, 0, 1], [4, 1, 0]],
            "the ends do not count at all; they count half": [[0, 0, 36], [0, 0, 0], [36, 0, 0]],
            "the second end counts in full and the first not at all; both count half":
                [[0, 36, 100], [36, 0, 16], [100, 16, 0]],
        },
    )  # fmt: skip


def test_alpha_of_two_raters_by_hand(lab: Any, seed: int) -> None:
    """14 zeros and 6 ones: seen 8 of 20, by chance 2 · 14 · 6 of 20 · 19."""
    close(
        lab.krippendorff_alpha(np.array([[10.0, 4.0], [4.0, 2.0]]), 1 - np.eye(2)),
        1 - (8 / 20) / (168 / 380),
        "your α of two raters and ten texts",
        mistakes={
            "chance draws the same mark twice: it is n (n − 1), without replacement": 1
            - (8 / 20) / (168 / 400),
            "it is the agreement by the expected one; α is about disagreement": (12 / 20) / (1 - 168 / 380),
            "1 − is missing: that is disagreement by the expected one": (8 / 20) / (168 / 380),
            "it is the share of agreement, not corrected for chance": 12 / 20,
            "all values are equally likely in your chance; take the marks' own frequencies": 1
            - (8 / 20) / (1 / 2),
        },
    )


def test_alpha_of_the_published_tables(lab: Any, seed: int) -> None:
    ordinal = np.zeros((5, 5))
    count = FOUR_TABLE.sum(1)
    for i, j in itertools.combinations(range(5), 2):
        ordinal[i, j] = ordinal[j, i] = (count[i : j + 1].sum() - (count[i] + count[j]) / 2) ** 2
    for name, distances, right in (
        ("nominal", NOMINAL, 0.743),
        ("ordinal", ordinal, 0.815),
        ("interval", INTERVAL, 0.849),
    ):
        close(
            lab.krippendorff_alpha(FOUR_TABLE, distances),
            right,
            f"your {name} α of four raters, which was published",
            hint="seen: Σ o d / n; by chance, without replacement: Σ n_c n_k d / (n (n − 1))",
            rtol=0,
            atol=6e-4,
        )
    close(
        lab.ordinal_distances(FOUR_TABLE),
        ordinal,
        "your ordinal distances of the published table",
        hint="count the marks between two values, the ends half; then square",
    )


# texts_and_shifts


def test_shifts_of_raters_who_saw_different_texts(lab: Any, seed: int) -> None:
    """Bob saw the bad texts only. He gives one mark more than ada and cem all the same."""
    marks = np.array([[5.0, 4.0, 2.0, 1.0], [GAP, GAP, 3.0, 2.0], [5.0, 4.0, GAP, 1.0]])
    texts, shifts = lab.texts_and_shifts(marks)
    means = np.nanmean(marks, axis=1)
    by_text = np.nanmean(marks - np.nanmean(marks, axis=0), axis=1)
    right = np.array([-1 / 3, 2 / 3, -1 / 3])
    close(
        shifts,
        right,
        "your shifts of ada, bob and cem",
        mistakes={
            "these are raters' means less the mean of all marks: who saw bad texts is not strict; "
            "compare on the same texts": means - np.nanmean(marks),
            "these are raters' means less the mean of the raters: who saw bad texts is not strict; "
            "compare on the same texts": means - means.mean(),
            "the texts' means hold the raters' shifts: fit both together, by least squares": by_text,
            "the texts' means hold the raters' shifts: fit both together (and take off the mean)":
                by_text - by_text.mean(),
            "they have the wrong sign: the generous have a positive shift": -right,
            "the shifts must add up to 0; yours are compared with the first rater": right - right[0],
        },
    )  # fmt: skip
    close(
        texts,
        [5 + 1 / 3, 4 + 1 / 3, 2 + 1 / 3, 1 + 1 / 3],
        "your values of the texts",
        mistakes={
            "these are the texts' means, with the shifts of those who saw them in": np.nanmean(marks, axis=0)
        },
        hint="a text is worth what a rater of shift 0 would give",
    )


def test_what_the_fit_leaves_adds_up_to_nothing(lab: Any, seed: int, raters: int = 4, texts: int = 9) -> None:
    """The normal equations: what is left adds up to 0 for each rater and for each text."""
    marks = some_marks(seed, raters, texts)
    values, shifts = (np.asarray(part, dtype=np.float64) for part in lab.texts_and_shifts(marks))
    left = marks - values[None, :] - shifts[:, None]
    hint = "fit texts and shifts together, by least squares; gaps have no part in it"
    close(
        np.nansum(left, axis=1),
        np.zeros(raters),
        "what your fit leaves of each rater's marks",
        hint=hint,
        atol=1e-7,
    )
    close(
        np.nansum(left, axis=0),
        np.zeros(texts),
        "what your fit leaves of each text's marks",
        hint=hint,
        atol=1e-7,
    )
    close(shifts.sum(), 0.0, "the sum of your shifts", hint="the shifts must add up to 0", atol=1e-7)


# length_bias


def test_a_bias_is_found_where_good_texts_are_long(lab: Any, seed: int, bias: float = 0.05) -> None:
    """The rater pays `bias` for each word. Good texts are longer, which is nobody's bias."""
    rng = np.random.default_rng(seed)
    quality = rng.uniform(1, 5, 40)
    lengths = np.round(6 * quality + rng.uniform(0, 20, 40))
    marks = quality + bias * lengths + 0.3
    apart = lengths - lengths.mean()
    slope = float(apart @ marks / (apart @ apart))
    no_constant = np.linalg.lstsq(np.stack([quality, lengths], axis=1), marks, rcond=None)[0][1]
    close(
        lab.length_bias(marks, quality, lengths),
        bias,
        "your length bias of a rater who pays for words",
        mistakes={
            "it is the slope of marks over length: good texts are longer here, and that is no bias; "
            "hold the quality fixed": slope,
            "it is a correlation; marks per word are asked for": float(np.corrcoef(marks, lengths)[0, 1]),
            "the constant is missing: a rater may be generous": float(no_constant),
            "it is the coefficient of the quality": 1.0,
        },
        rtol=1e-6,
    )  # fmt: skip


def test_a_clean_rater_has_no_bias(lab: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    quality = rng.uniform(1, 5, 40)
    lengths = np.round(6 * quality + rng.uniform(0, 20, 40))
    close(
        lab.length_bias(quality - 0.5, quality, lengths),
        0.0,
        "your length bias of a rater who gives the quality less a half",
        hint="hold the quality fixed, and let there be a constant",
        atol=1e-7,
    )
