"""Hidden tests of lab 5: other numbers, and α against all pairs and the published package."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from course.checks import Array, close
from course.lab5_people import test_lab as public


def alpha_of_all_pairs(marks: Array, level: str) -> float:
    """Krippendorff's α from the list of all marks that can be paired, without a table."""
    shared = [text[~np.isnan(text)] for text in marks.T if (~np.isnan(text)).sum() > 1]
    every = np.concatenate(shared)

    def apart(a: float, b: float) -> float:
        if level == "nominal":
            return float(a != b)
        if level == "interval":
            return float((a - b) ** 2)
        low, high = min(a, b), max(a, b)
        within = float(((every >= low) & (every <= high)).sum())
        return (within - float((every == a).sum() + (every == b).sum()) / 2) ** 2

    seen = sum(apart(a, b) / (len(t) - 1) for t in shared for a, b in itertools.permutations(t, 2)) / len(
        every
    )
    pairs = list(itertools.permutations(every, 2))
    return 1 - seen / (sum(apart(a, b) for a, b in pairs) / len(pairs))


def test_agreement(lab: Any, seed: int) -> None:
    public.test_agreement_by_hand(lab, seed)
    marks = public.some_marks(seed + 1, 5, 8)
    pairs = [
        marks[i, q] == marks[j, q]
        for q in range(8)
        for i, j in itertools.combinations(range(5), 2)
        if not math.isnan(marks[i, q] + marks[j, q])
    ]
    close(
        lab.agreement(marks), sum(pairs) / len(pairs), "your agreement of five raters", hint="mind the gaps"
    )


def test_tables(lab: Any, seed: int) -> None:
    public.test_coincidences_of_two_raters_by_hand(lab, seed)


def test_tables_with_gaps(lab: Any, seed: int) -> None:
    public.test_coincidences_of_the_published_table(lab, seed)


def test_distances(lab: Any, seed: int) -> None:
    public.test_ordinal_distances_by_hand(lab, seed)


def test_alpha_of_tables(lab: Any, seed: int) -> None:
    public.test_alpha_of_two_raters_by_hand(lab, seed)
    public.test_alpha_of_the_published_tables(lab, seed)


def test_every_mark_that_can_be_paired_counts_one(lab: Any, seed: int) -> None:
    marks = public.some_marks(seed, 6, 12)
    several = marks[:, (~np.isnan(marks)).sum(0) > 1]
    right = [float(np.sum(several == value)) for value in range(1, 6)]
    table = np.asarray(lab.coincidences(marks, [1, 2, 3, 4, 5]), dtype=np.float64)
    close(
        table.sum(1),
        right,
        "the rows of your coincidences, added up",
        hint="every mark counts 1: divide by m − 1",
    )


def test_alpha_from_marks(lab: Any, seed: int) -> None:
    for size in ((2, 15), (5, 10)):
        marks = public.some_marks(seed + 7, *size)
        table = lab.coincidences(marks, [1, 2, 3, 4, 5])
        for level, distances in (
            ("nominal", public.NOMINAL),
            ("interval", public.INTERVAL),
            ("ordinal", lab.ordinal_distances(table)),
        ):
            close(
                lab.krippendorff_alpha(table, distances),
                alpha_of_all_pairs(marks, level),
                f"your {level} α of {size[0]} raters, from marks to α",
                hint="chance draws two different ones of all marks that can be paired, without replacement",
            )


def test_alpha_is_that_of_the_published_package(lab: Any, seed: int) -> None:
    try:
        import krippendorff
    except ModuleNotFoundError:
        return  # optional; all pairs are listed in another test
    marks = public.some_marks(seed + 9, 4, 20)
    table = lab.coincidences(marks, [1, 2, 3, 4, 5])
    right = krippendorff.alpha(reliability_data=marks, level_of_measurement="ordinal")
    close(
        lab.krippendorff_alpha(table, lab.ordinal_distances(table)),
        float(right),
        "your ordinal α, beside that of the package krippendorff",
    )


def test_shifts(lab: Any, seed: int) -> None:
    public.test_shifts_of_raters_who_saw_different_texts(lab, seed)
    public.test_what_the_fit_leaves_adds_up_to_nothing(lab, seed + 1, 5, 14)


def test_planted_shifts_are_found(lab: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shifts = rng.normal(size=4)
    shifts -= shifts.mean()
    texts = rng.normal(3, 1, 12)
    marks = np.where(np.isnan(public.some_marks(seed + 3, 4, 12)), math.nan, texts[None, :] + shifts[:, None])
    found_texts, found = lab.texts_and_shifts(marks)
    means = np.nanmean(marks, axis=1)
    close(
        found,
        shifts,
        "your shifts of raters without noise",
        mistakes={
            "these are raters' means less the mean of all marks; compare on the same texts": means
            - np.nanmean(marks),
            "they have the wrong sign: the generous have a positive shift": -shifts,
        },
    )
    close(
        found_texts,
        texts,
        "your values of their texts",
        hint="a text is worth what a rater of shift 0 would give",
    )


def test_bias(lab: Any, seed: int) -> None:
    public.test_a_bias_is_found_where_good_texts_are_long(lab, seed + 1, 0.02)
    public.test_a_bias_is_found_where_good_texts_are_long(lab, seed + 2, -0.1)
    public.test_a_clean_rater_has_no_bias(lab, seed + 1)
