"""Fluency: probabilities that sum to 1, and human texts above broken and repeated ones."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from tests.bench_e2e import NAMES, rows
from text_gym.bench.gold.fluency import Fluency, Trigrams, fresh
from text_gym.errors import DataError

TEXTS = [text for _, text in rows()]


def test_probabilities_after_every_history_sum_to_one() -> None:
    model = Trigrams([text.split() for text in ("a b c", "a b d", "c a b", "b b b a")])
    words = model.vocabulary
    histories = [(), ("a",), ("a", "b"), ("b", "b"), ("d", "d"), ("<s>", "<s>"), ("<s>", "a"), ("c", "<unk>")]
    for history in histories:
        assert sum(model.probability((*history, w)) for w in words) == pytest.approx(1)
        assert all(model.probability((*history, w)) > 0 for w in words)


def test_a_probability_by_hand() -> None:
    """Texts `a b`, `a b`, `b`: after `a` came `b` twice and nothing else."""
    model = Trigrams([["a", "b"], ["a", "b"], ["b"]])
    assert model.vocabulary == ["a", "b", "<unk>", "</s>"]
    # Eight tokens with the ends: a twice, b three times, </s> three times; three kinds of word.
    unigram = (3 - 0.75) / 8 + 0.75 * 3 / 8 * (1 / 4)
    bigram = (2 - 0.75) / 2 + 0.75 * 1 / 2 * unigram
    assert model.probability(("b",)) == pytest.approx(unigram)
    assert model.probability(("a", "b")) == pytest.approx(bigram)
    assert model.probability(("z", "a", "b")) == pytest.approx(bigram)  # a history that never came


def test_the_likelihood_of_a_text_is_the_mean_over_tokens_and_the_end() -> None:
    model = Trigrams([["a", "b"], ["a", "b"], ["b"]])
    steps = [("<s>", "<s>", "a"), ("<s>", "a", "b"), ("a", "b", "</s>")]
    by_hand = np.mean([math.log(model.probability(g)) for g in steps])
    assert model.log_likelihood(["a", "b"]) == pytest.approx(by_hand)
    assert model.log_likelihood(["a", "zebra"]) == model.log_likelihood(["a", "quagga"])  # both are rare


def test_human_texts_score_high_and_broken_or_repeated_ones_low() -> None:
    fluency = Fluency(TEXTS[:48], TEXTS[48:], NAMES)
    human = [fluency(text) for text in TEXTS]
    rng = random.Random(1)
    shuffled = [" ".join(rng.sample(words := text.split(), len(words))) for text in TEXTS]
    repeated = [fluency(f"{text} {text}") for text in TEXTS]
    assert np.mean(human) > 0.85
    assert np.mean([fluency(text) for text in shuffled]) < 0.3
    assert max(repeated) <= 0.4
    assert fluency("") == 0.0
    assert all(0 <= fluency(text) <= 1 for text in ("!!!", "the the the the", "😀" * 50, "\x00\n"))


def test_names_are_one_word_and_the_longest_is_found_first() -> None:
    fluency = Fluency(TEXTS, TEXTS, [*NAMES, "Blue"])
    assert fluency.tokens("Blue Lantern's food, at LANTERN") == [
        "<name>",
        "'",
        "s",
        "food",
        ",",
        "at",
        "<name>",
    ]
    assert fluency.tokens("Lanterns") == ["lanterns"]  # part of a word is no name
    assert fluency.tokens("<name> food") == ["food"]  # a text cannot write the symbol itself
    assert fluency(TEXTS[0]) == fluency(TEXTS[0].replace("Blue Lantern", "Old Barn"))


def test_calibration_needs_texts_that_differ_from_shuffled_ones() -> None:
    with pytest.raises(DataError, match="more texts are needed"):
        Fluency(["a"], ["b", "c"])
    with pytest.raises(DataError, match="no texts to calibrate"):
        Fluency(TEXTS, [])


def test_fresh_counts_trigrams_once() -> None:
    assert fresh(["a", "b"]) == 1.0
    assert fresh(["a"] * 6) == 0.25
