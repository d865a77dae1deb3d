from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy import stats

from text_gym import ByteTokenizer, Episode
from text_gym.reward_models.audit.effects import PartEffect, part_effects, student_interval
from text_gym.reward_models.audit.parts import part_classes
from text_gym.utils.interval import Interval

TOKENIZER = ByteTokenizer()
FILLER = "it stands on a table near the door of one house and so x y z u v w".split()  # noqa: SIM905
WORDS = (*FILLER, "gem", "oak")


def hosts(n: int = 60) -> list[Episode]:
    rng = random.Random(0)
    return [
        Episode.of(f"P{i}", f"The {' '.join(rng.sample(FILLER, 8))}. It ends {i}.", TOKENIZER)
        for i in range(n)
    ]


def noise(text: str) -> float:
    """Standard normal, by text."""
    return random.Random(text).gauss(0, 1)


def effects(
    score: Callable[[str], float], gold: Callable[[str], Sequence[float]] | None = None, seed: int = 0
) -> dict[str, PartEffect]:
    episodes = hosts()
    classes = [c for c in part_classes(episodes, episodes, WORDS, ()) if c.kind == "word"]
    found, tried = part_effects(
        classes,
        lambda made: np.array([score(e.completion) for e in made]),
        lambda made: None if gold is None else np.array([gold(e.completion) for e in made], dtype=float),
        limit=64,
        seed=seed,
    )
    assert tried == len(classes[0].parts)
    return {e.part: e for e in found}


def test_the_effect_of_a_word_that_no_text_has() -> None:
    found = effects(lambda text: 1.5 * ("gem" in text.split()))
    assert set(found) == {"gem"}
    assert found["gem"].effect == Interval(1.5, 1.5, 1.5, 50)  # all texts but those of the first stage


def test_a_word_that_is_there_already_adds_nothing_there() -> None:
    found = effects(lambda text: float("door" in text.split()))
    assert found["door"].effect.value == 1.0
    assert found["door"].effect.n < 50


def test_a_word_that_gold_pays_for_too_is_compared_with_none_or_is_not_unearned() -> None:
    found = effects(lambda text: 2.0 * ("gem" in text), lambda text: [float("gem" in text)])
    assert "gem" not in found
    # Gold dislikes it, the score likes it: not earned.
    found = effects(lambda text: 2.0 * ("gem" in text), lambda text: [-float("gem" in text)])
    assert found["gem"].unearned
    assert not found["gem"].equal
    assert found["gem"].gold == (-1.0,)


def test_only_words_of_equal_gold_are_compared() -> None:
    def gold(text: str) -> tuple[float, float]:
        return float("gem" in text) + float("oak" in text), 1.0

    found = effects(lambda text: 5 * gold(text)[0] + 0.5 * ("gem" in text), gold)
    assert found["gem"].effect.value == pytest.approx(0.5)
    assert found["gem"].equal
    assert found["oak"].effect.value == pytest.approx(-0.5)  # the two are each other's only peers


def test_words_are_found_through_noise_and_none_is_invented() -> None:
    found = effects(lambda text: 1.5 * ("gem" in text.split()) + noise(text))
    assert found["gem"].effect.low > 0
    invented = 0
    for seed in range(20):
        parts = effects(lambda text, seed=seed: noise(f"{seed}{text}"), seed=seed).values()  # type: ignore[misc]
        assert parts  # some reach the second stage
        invented += any(p.effect.low > 0 or p.effect.high < 0 for p in parts)
    assert invented <= 2  # 1 % are expected


def test_intervals_against_scipy() -> None:
    values = np.random.default_rng(0).normal(size=20)
    found = student_interval(np.append(values, np.nan), tests=5)
    low, high = stats.t.interval(1 - 0.01 / 5, 19, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.n == 20
    assert student_interval(np.array([1.0]), 1).low == -np.inf


def test_an_effect_is_unearned_only_if_no_term_of_gold_shares_it() -> None:
    def effect(value: float, *gold: float) -> PartEffect:
        return PartEffect("word", "gem", False, Interval(value, value - 1, value + 1, 50), gold, False)

    assert effect(2.0, 0.0, 0.0).unearned
    assert effect(2.0, -1.0, 0.0).unearned
    assert not effect(2.0, 0.5, 0.0).unearned
    assert not effect(2.0, 0.5, -0.5).unearned
    assert not effect(-2.0, 0.0, -0.5).unearned
    assert effect(-2.0, 0.5, 0.0).unearned
