from __future__ import annotations

import random

import numpy as np
import pytest

from text_gym import Prompt, RewardSource, as_reward_source
from text_gym.errors import ConfigError, DataError
from text_gym.reward_models import NgramModel, PreferencePair, Rating
from text_gym.reward_models.learned.configs import NgramConfig
from text_gym.reward_models.learned.ensembles import bagged


def ratings(count: int = 30, per_prompt: int = 2) -> list[Rating]:
    rng = random.Random(0)
    return [
        Rating(Prompt(f"p{i // per_prompt}"), " ".join(rng.choices("abcd", k=5)), {"good": rng.random()})
        for i in range(count)
    ]


def constant(own: list[Rating], number: int) -> RewardSource:
    return as_reward_source(lambda completion: float(number))


def test_members_get_prompts_drawn_with_replacement() -> None:
    seen: list[list[Rating]] = []

    def fit(own: list[Rating], number: int) -> RewardSource:
        seen.append(own)
        return constant(own, number)

    given = ratings()
    found = bagged(fit, given, members=4, k=0.5)
    assert found.k == 0.5
    assert len(found.members) == len(seen) == 4
    for own in seen:
        weights: dict[str, set[float]] = {}
        for rating in own:
            weights.setdefault(rating.prompt.id, set()).add(rating.weight)
        assert all(len(w) == 1 for w in weights.values())  # prompts, not texts, are drawn
        assert sum(w.pop() for w in weights.values()) == 15  # as many as there are
    assert len({tuple(r.completion for r in own) for own in seen}) == 4
    # About 1 − 1/e of the prompts are in a resample.
    assert 0.5 < np.mean([len({r.prompt.id for r in own}) for own in seen]) / 15 < 0.75


def test_a_single_member_learns_from_everything() -> None:
    seen = []

    def fit(own: list[Rating], number: int) -> RewardSource:
        seen.extend(own)
        return constant(own, number)

    bagged(fit, ratings(), members=1)
    assert sorted(r.completion for r in seen) == sorted(r.completion for r in ratings())
    assert {r.weight for r in seen} == {1.0}


def test_the_order_of_answers_does_not_matter() -> None:
    def fit(own: list[Rating], number: int) -> RewardSource:
        return NgramModel.fit(own, ("good",), NgramConfig(alpha=1.0))

    given = ratings()
    shuffled = random.Random(1).sample(given, len(given))
    one, other = (bagged(fit, some, members=3, seed=5) for some in (given, shuffled))
    for a, b in zip(one.members, other.members, strict=True):
        assert isinstance(a, NgramModel)
        assert isinstance(b, NgramModel)
        assert a.vocabulary == b.vocabulary
        assert a.weights.tobytes() == b.weights.tobytes()


def test_pairs_too() -> None:
    pairs = [PreferencePair(Prompt(f"p{i}"), "good", "bad", tie=i % 2 == 0) for i in range(6)]
    seen: list[PreferencePair] = []

    def fit(own: list[PreferencePair], number: int) -> RewardSource:
        seen.extend(own)
        return as_reward_source(lambda completion: 0.0)

    bagged(fit, pairs, members=2)
    assert sum(p.weight for p in seen) == 12


def test_refusals() -> None:
    with pytest.raises(ConfigError):
        bagged(constant, ratings(), members=0)
    with pytest.raises(DataError):
        bagged(constant, [])
