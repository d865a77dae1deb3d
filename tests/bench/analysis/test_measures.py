"""Diversity against counts by hand and sacrebleu, best-of-n against the enumeration of all subsets."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from text_gym.bench.analysis.measures import (
    best_of_n_mean,
    distinct,
    gold_pair_accuracy,
    rank_among,
    said_twice,
    says_twice,
    self_bleu,
)
from text_gym.episode import FloatArray

TEXTS = st.lists(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=9).map(" ".join), min_size=2, max_size=5
)


def test_distinct_counts_the_n_grams_of_all_texts_together() -> None:
    assert distinct(["a b c", "a b"], 1) == 3 / 5
    assert distinct(["a b c", "a b"], 2) == 2 / 3  # a b, b c, a b
    assert distinct(["a", ""], 2) is None


@given(TEXTS)
def test_self_bleu_is_that_of_sacrebleu(texts: list[str]) -> None:
    scores = []
    for i, text in enumerate(texts):
        others = texts[:i] + texts[i + 1 :]
        found = sacrebleu.sentence_bleu(
            text, others, smooth_method="none", tokenize="none", use_effective_order=True
        )
        scores.append(found.score / 100)
    assert self_bleu(texts) == pytest.approx(float(np.mean(scores)), abs=1e-9)


def test_self_bleu_of_different_and_of_equal_texts() -> None:
    assert self_bleu(["a b c d", "e f g h"]) == 0.0
    assert self_bleu(["a b c d", "a b c d"]) == 1.0
    assert self_bleu(["a b c d"]) is None
    assert self_bleu(["a b c d", "", "a b c d"]) == 1.0  # an empty text has nothing to compare


def test_gold_pair_accuracy_by_hand() -> None:
    gold = np.array([[1.0, 2.0, 2.0], [0.0, 1.0, np.nan]])
    # Pairs with different gold: (0, 1) and (0, 2) of the first prompt, (0, 1) of the second.
    proxy = np.array([[5.0, 6.0, 5.0], [1.0, 0.0, 9.0]])
    assert gold_pair_accuracy(gold, proxy) == pytest.approx((1 + 0.5 + 0) / 3)
    assert gold_pair_accuracy(gold, gold) == 1.0
    assert gold_pair_accuracy(gold, -gold) == 0.0
    assert gold_pair_accuracy(np.ones((2, 3)), proxy[:, :3]) is None


def test_rank_among_the_texts_of_the_same_prompt() -> None:
    others = np.array([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]])
    assert rank_among(np.array([5.0, 5.0]), others) == 0.5  # above all, below all
    assert rank_among(np.array([2.0, 20.0]), others) == (1.5 / 4)  # one beaten, one equal
    assert rank_among(np.array([5.0, np.nan]), others) == 1.0
    assert rank_among(np.array([np.nan]), others[:1]) is None


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=7),
    st.integers(1, 7),
)
def test_best_of_n_is_the_mean_over_all_subsets(texts: list[tuple[int, int]], n: int) -> None:
    n = min(n, len(texts))
    proxy, value = (np.array([column], dtype=float) for column in zip(*texts, strict=True))
    outcomes = []
    for subset in combinations(range(len(texts)), n):
        top = max(texts[i][0] for i in subset)
        outcomes.append(np.mean([texts[i][1] for i in subset if texts[i][0] == top]))
    # Within a subset chance decides between ties; sharing alike among all tied candidates has the same mean.
    assert best_of_n_mean(proxy, value, n) == pytest.approx(float(np.mean(outcomes)))


def test_best_of_n_averages_over_prompts_and_ranks_the_unjudged_last() -> None:
    proxy: FloatArray = np.array([[1.0, np.nan], [3.0, 4.0]])
    value = np.array([[7.0, 100.0], [0.0, 1.0]])
    assert best_of_n_mean(proxy, value, 2) == pytest.approx((7 + 1) / 2)
    assert best_of_n_mean(proxy, value, 1) == pytest.approx((107 / 2 + 1 / 2) / 2)
    assert best_of_n_mean(proxy, proxy, 1) == pytest.approx((1 + 7 / 2) / 2)  # of what is known
    assert best_of_n_mean(proxy, np.full((2, 2), np.nan), 1) is None


@given(st.lists(st.sampled_from("ab"), max_size=14))
def test_the_phrase_that_is_said_twice_by_looking_at_all(words: list[str]) -> None:
    """There is one where `says_twice` says so; it stands there twice, and no longer one does so apart."""
    found = said_twice(" ".join(words)).split()
    assert bool(found) == says_twice(" ".join(words))
    places = {
        n: [
            (i, j)
            for i, j in combinations(range(len(words) - n + 1), 2)
            if words[i : i + n] == words[j : j + n]
        ]
        for n in range(4, len(words) + 1)
    }
    if found:
        assert any(words[i : i + len(found)] == found for i, _ in places[len(found)])
    for n, pairs in places.items():
        if n > max(4, len(found)):
            whole = found * (n // max(1, len(found)))
            assert all(j - i < n or words[i : i + n] == whole for i, j in pairs)  # they overlap, or are turns


def test_a_circle_is_said_once() -> None:
    turn = "so cyclists can ride further for"
    for turns in range(2, 7):
        assert said_twice("It is light" + f" {turn}" * turns) == turn
    assert said_twice("You ride further, and you ride further.") == ""
