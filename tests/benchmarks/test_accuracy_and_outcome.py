"""`accuracy_and_outcome.py`: what it measures, against counting by hand and known truths."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("accuracy_and_outcome")


def test_its_examples_hold(script: ModuleType) -> None:
    assert doctest.testmod(script).failed == 0


def test_measures_before_are_what_counting_gives(script: ModuleType) -> None:
    rng = np.random.default_rng(0)
    gold, proxy = (rng.integers(0, 4, (3, 40)).astype(float) for _ in range(2))
    right = total = picked = fours = 0.0
    for row in range(3):
        for i in range(0, 40, 2):
            if gold[row, i] != gold[row, i + 1]:
                total += 1
                same = (proxy[row, i] - proxy[row, i + 1]) * (gold[row, i] - gold[row, i + 1])
                right += 1 if same > 0 else 0.5 if same == 0 else 0
        for i in range(0, 40, 4):
            own = list(gold[row, i : i + 4])
            if len(set(own)) > 1:
                fours += 1
                best = max(range(4), key=lambda k, row=row, i=i: proxy[row, i + k])  # type: ignore[misc]
                picked += own[best] == max(own)
    assert script.accuracy(proxy, gold) == right / total
    assert script.best_of_4(proxy, gold) == picked / fours


def test_a_model_that_knows_nothing_is_right_by_chance(script: ModuleType) -> None:
    rng = np.random.default_rng(1)
    gold, proxy = rng.normal(size=(2, 50, 4000))
    assert script.accuracy(proxy, gold) == pytest.approx(0.5, abs=0.01)
    assert script.best_of_4(proxy, gold) == pytest.approx(0.25, abs=0.01)
    assert script.accuracy(gold, gold) == script.best_of_4(gold, gold) == 1


def test_a_judge_who_likes_length_says_half_where_only_length_differs(script: ModuleType) -> None:
    """A model that picks the longest wins by the judge, and no more than half at equal length."""
    rng = np.random.default_rng(2)
    words = rng.integers(20, 60, (40, 400)).astype(float)
    judges = script.Judges(0.05 * rng.normal(size=words.shape), words)
    found = judges.win_rates(words, rng)
    assert found["longer"] > 10
    assert found["win_rate"] > 0.9
    assert found["win_rate_gold"] == pytest.approx(0.5, abs=0.03)
    assert found["win_rate_lc"] < 0.75
