from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import pytest

from text_gym.agents.algorithms.by_name import load_algorithm
from text_gym.errors import ConfigError, TextGymError
from text_gym.rlhf.config import RLHFConfig


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
    ratings, pairs = RLHFConfig().agent_config(1), RLHFConfig(questions="pairs").agent_config(1)
    assert ratings.kl_coef < pairs.kl_coef
    for questions in ("ratings", "pairs"):
        assert RLHFConfig(kl_coef=0.5, questions=questions).agent_config(1).kl_coef == 0.5
    assert RLHFConfig(kl_target=3.0).agent_config(2).kl_target == 3.0


@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "rloo"])
def test_every_algorithm_has_the_objective_that_policies_are_compared_by(algorithm: Any) -> None:
    """The KL is in the reward, in nats of k1; what else an algorithm has of its own stays."""
    own: Any = load_algorithm(algorithm).config_class()
    found = RLHFConfig(algorithm=algorithm).agent_config(1)
    assert type(found) is type(own)
    assert (found.kl_in, found.kl_estimator, found.on_decline) == ("reward", "k1", "stop")
    assert (found.iterations, found.kl_coef) == (40, 0.02)
    changed = {"iterations", "kl_coef", "kl_in", "kl_estimator", "on_decline", "seed"}
    assert {k: v for k, v in asdict(found).items() if k not in changed} == {
        k: v for k, v in asdict(own).items() if k not in changed
    }
    assert RLHFConfig(algorithm=algorithm, learning_rate=1e-5).agent_config(1).learning_rate == 1e-5


def test_an_unknown_algorithm_is_refused() -> None:
    with pytest.raises(ConfigError, match="algorithm is 'dpo'; choose ppo, grpo or rloo"):
        RLHFConfig(algorithm="dpo")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["rounds", "labels_per_round", "members", "iterations", "episodes"])
def test_numbers_must_be_positive(name: str) -> None:
    changed: dict[str, Any] = {name: 0}
    with pytest.raises(ConfigError, match=name):
        RLHFConfig(**changed)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"choose": "oracle"}, "unknown way to choose 'oracle'"),
        ({"overlap": 1.5}, "overlap 1.5: need"),
        ({"pessimism": -0.1}, "pessimism is -0.1; it must be a finite number"),
        ({"pessimism": math.nan}, "pessimism is nan"),
        ({"kl_coef": -1.0}, "kl_coef is -1.0; it must not be negative"),
        ({"algorithm": "grpo", "episodes": 20}, "episodes is 20; grpo needs a multiple of 8"),
        ({"algorithm": "rloo", "episodes": 6}, "episodes is 6; rloo needs a multiple of 4"),
    ],
)
def test_nobody_is_asked_for_a_run_that_could_not_learn(setting: dict[str, Any], told: str) -> None:
    with pytest.raises(TextGymError, match=told):
        RLHFConfig(**setting)


def test_pairs_need_two_texts() -> None:
    assert RLHFConfig(candidates=1).least_candidates == 1
    with pytest.raises(ConfigError, match="pairs need 2"):
        RLHFConfig(questions="pairs", candidates=1)
