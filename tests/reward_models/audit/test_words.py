from __future__ import annotations

import random

import numpy as np
import pytest

from text_gym.reward_models.audit.words import associations, word_features, word_weights

WORDS = "it stands on a table near the door of one house and so x y z u v w red blue green".split()  # noqa: SIM905


def texts(n: int = 400, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.sample(WORDS, 8)) + "." for _ in range(n)]


def test_features() -> None:
    names, features = word_features(["Red mug! a", "red mug a b"] * 5 + ["other things a"] * 5 + ["once a"])
    assert set(names) == {
        "red", "mug", "red mug", "mug a", "first word: red", "!", "b", "a b",
        "other", "things", "other things", "things a", "first word: other",
    }  # fmt: skip
    by_name = dict(zip(names, features.T.sum(axis=1).tolist(), strict=True))
    assert (by_name["red mug"], by_name["!"], by_name["b"]) == (10, 5, 5)


def test_associations_are_partial_correlations() -> None:
    rng = np.random.default_rng(0)
    gold = rng.normal(size=(500, 1))
    feature = (gold[:, 0] + rng.normal(size=500) > 0).astype(float)
    scores = gold[:, 0] + 0.5 * rng.normal(size=500)
    r = np.corrcoef([scores, feature, gold[:, 0]])
    expected = (r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    found = associations(np.stack([feature, np.ones(500)], axis=1), scores, gold)
    assert found == pytest.approx([expected, 0.0])  # a feature of all texts explains nothing


def test_the_words_that_are_paid_for_are_selected_with_their_weights() -> None:
    made = texts()
    gold = np.random.default_rng(1).normal(size=(len(made), 1))
    red, door = (np.array([w in t.rstrip(".").split() for t in made], dtype=float) for w in ("red", "door"))
    noise = np.random.default_rng(2).normal(size=len(made))
    scores = gold[:, 0] + 2 * red - door + 0.3 * noise
    found = {w.name: w for w in word_weights(made, scores, gold)}
    assert list(found)[:2] == ["red", "door"]
    assert found["red"].texts == int(red.sum())
    for name, weight in (("red", 2 / scores.std()), ("door", -1 / scores.std())):
        assert found[name].weight.low < weight < found[name].weight.high
        assert found[name].weight.value == pytest.approx(weight, abs=0.1)


def test_intervals_are_honest_though_words_were_selected() -> None:
    made, surely = texts(200), 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        found = word_weights(made, rng.normal(size=200), rng.normal(size=(200, 1)), seed=seed)
        surely += any(w.weight.low > 0 or w.weight.high < 0 for w in found)
    assert surely <= 8  # 5 % of 60 is 3; more than 8 has a probability of 0.3 %


def test_nothing_to_explain() -> None:
    made = texts(100)
    assert word_weights(made, np.ones(100), np.ones((100, 1))) == ()
    assert word_weights(made[:10], np.arange(10.0), np.ones((10, 1))) == ()
    gold = np.random.default_rng(0).normal(size=(100, 1))
    assert word_weights(made, gold[:, 0], gold) == ()  # explained altogether
