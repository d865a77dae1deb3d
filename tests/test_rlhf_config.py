from __future__ import annotations

from typing import Any

import pytest

from text_gym.errors import ConfigError
from text_gym.rlhf_config import RLHFConfig


def test_streams_differ_by_seed_round_and_purpose() -> None:
    streams = {
        RLHFConfig(seed=seed).stream(number, purpose)
        for seed in range(5)
        for number in range(5)
        for purpose in ("ppo", "texts", "choice")
    }
    assert len(streams) == 75
    assert RLHFConfig(seed=3).stream(2, "ppo") == RLHFConfig(seed=3, rounds=9).stream(2, "ppo")


def test_the_weight_of_the_kl_is_in_the_rewards_unit() -> None:
    ratings, pairs = RLHFConfig(), RLHFConfig(questions="pairs")
    assert ratings.agent_config(1).kl_coef < pairs.agent_config(1).kl_coef
    assert RLHFConfig(kl_coef=0.5).agent_config(1).kl_coef == RLHFConfig(kl_coef=0.5, questions="pairs").agent_config(1).kl_coef
    assert RLHFConfig(kl_target=3.0).agent_config(2).kl_target == 3.0


@pytest.mark.parametrize("name", ["rounds", "labels_per_round", "members", "iterations", "episodes"])
def test_numbers_must_be_positive(name: str) -> None:
    changed: dict[str, Any] = {name: 0}
    with pytest.raises(ConfigError, match=name):
        RLHFConfig(**changed)


def test_pairs_need_two_texts() -> None:
    assert RLHFConfig(candidates=1).least_candidates == 1
    with pytest.raises(ConfigError, match="pairs need 2"):
        RLHFConfig(questions="pairs", candidates=1)
