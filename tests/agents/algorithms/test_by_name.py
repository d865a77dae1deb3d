from __future__ import annotations

from typing import Any

import pytest

from text_gym.agents import GRPO, PPO, REINFORCE, RLOO, Agent, BestOfN
from text_gym.agents.algorithms.by_name import ALGORITHMS, load_algorithm
from text_gym.agents.algorithms.configs import CONFIGS
from text_gym.errors import UnknownNameError


def test_every_algorithm_has_its_name_and_its_settings() -> None:
    expected: dict[str, type[Agent[Any]]] = {
        "ppo": PPO, "grpo": GRPO, "rloo": RLOO, "reinforce": REINFORCE, "best_of_n": BestOfN
    }  # fmt: skip
    assert {name: load_algorithm(name) for name in ALGORITHMS} == expected
    assert {name: kind.config_class for name, kind in expected.items()} == CONFIGS
    assert all(issubclass(kind, Agent) for kind in expected.values())


def test_a_name_that_is_mistyped_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown algorithm 'poo'; did you mean 'ppo'"):
        load_algorithm("poo")
