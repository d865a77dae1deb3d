"""Hidden tests of lab 8: the laws of the public ones with other numbers; the package is a second oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import rankdata

from course.checks import close, true
from course.lab8_audit import test_lab as public
from text_gym.utils.interval import rank_correlation


def test_ranks_of_many_numbers(lab: Any, seed: int) -> None:
    public.test_ranks_of_five_numbers(lab, seed)
    x = np.random.default_rng(seed).integers(0, 9, 50).astype(np.float64)
    close(lab.ranks(x), rankdata(x), "your ranks", hint="ties share the mean of their ranks")


def test_rank_correlations(lab: Any, seed: int) -> None:
    public.test_rank_correlation_is_spearmans(lab, seed + 1, 90)


def test_partial_correlations(lab: Any, seed: int) -> None:
    public.test_at_equal_gold_what_gold_explains_is_gone(lab, seed + 1, 90)
    scores, feature, gold = public.tables(seed + 2, 80)
    close(
        lab.correlation_at_equal_gold(scores, feature, gold),
        rank_correlation(scores, feature, gold[:, None], resamples=1).value,
        "your correlation at equal gold",
        hint="it is the audit's: ranks, and gold taken off both",
    )


def test_swaps(lab: Any, seed: int) -> None:
    public.test_words_are_swapped_at_once(lab, seed)
    text = "The queen and his she-wolf. He, the king!"
    twice = lab.swap_words(lab.swap_words(text, public.PAIRS), public.PAIRS)
    true(
        twice == text,
        f"a swap undoes itself: swapped twice, {text!r} is {twice!r}; swap both directions at once",
    )


def test_levels(lab: Any, seed: int) -> None:
    public.test_many_tests_need_wider_intervals(lab, seed)


def test_effects_and_sizes(lab: Any, seed: int) -> None:
    public.test_an_effect_is_paired_and_has_an_interval(lab, seed + 1, 30)
    public.test_the_size_of_a_swap_does_not_cancel(lab, seed + 1, 30)


def test_what_is_named(lab: Any, seed: int) -> None:
    public.test_what_is_named_is_large_and_certain(lab, seed)


def test_other_models(lab: Any, seed: int) -> None:
    public.test_the_planted_vices_are_named_and_no_others(lab, seed + 1, 80)


def test_other_texts_at_equal_gold(lab: Any, seed: int) -> None:
    public.test_a_reward_that_follows_gold_is_clean_at_equal_gold(lab, seed + 1, 300)
