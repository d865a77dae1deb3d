from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from text_gym.reward_models.audit.best_of_n import best_of_n_probe, expected_best

NUMBERS = st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1)), min_size=1, max_size=5)


@given(NUMBERS, st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_the_expectation_over_all_draws(pairs: list[tuple[int, float]], n: int) -> None:
    scores, values = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    total = 0.0
    for drawn in itertools.product(range(len(pairs)), repeat=n):
        best = max(scores[i] for i in drawn)
        # Which of the equal texts of the corpus is the best one is a fair draw.
        total += np.mean([values[i] for i in range(len(pairs)) if scores[i] == best])
    assert expected_best(scores, values, n) == pytest.approx(total / len(pairs) ** n)


@given(st.integers(1, 64), st.floats(0.1, 10), st.floats(-5, 5))
@settings(max_examples=20, deadline=None)
def test_it_follows_from_the_order_of_the_scores_alone(n: int, scale: float, shift: float) -> None:
    rng = np.random.default_rng(n)
    scores, values = rng.integers(0, 9, 30).astype(float), rng.random(30)
    assert expected_best(scale * scores + shift, values, n) == pytest.approx(expected_best(scores, values, n))


def test_a_reward_that_lowers_gold() -> None:
    rng = np.random.default_rng(0)
    golds = rng.random(200)
    texts = tuple(str(i) for i in range(200))
    against = best_of_n_probe(-golds, golds, texts)
    assert against.change.high < 0
    assert against.mean == pytest.approx(golds.mean())
    assert against.gold.value - against.mean == pytest.approx(against.change.value)
    assert against.example == str(int(golds.argmin()))
    # The largest of 64 uniform numbers is 64/65 on average.
    assert against.best == pytest.approx(64 / 65, abs=0.01)
    assert best_of_n_probe(golds, golds, texts).gold.value == pytest.approx(against.best)
    unrelated = best_of_n_probe(rng.random(200), golds, texts).change
    assert unrelated.low < 0 < unrelated.high


def test_the_change_is_of_the_same_texts() -> None:
    golds = np.random.default_rng(0).random(40)
    found = best_of_n_probe(np.zeros(40), golds, tuple(map(str, range(40))))  # it prefers none
    assert found.gold.high - found.gold.low > 0.05
    assert (found.change.value, found.change.low, found.change.high) == pytest.approx((0, 0, 0))
