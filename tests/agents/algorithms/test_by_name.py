from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.agents.test_own_algorithms import offer
from tests.own_algorithm import write_algorithm
from text_gym.agents import GRPO, PPO, REINFORCE, RLOO, Agent, BestOfN
from text_gym.agents.algorithms.by_name import ALGORITHMS, load_algorithm
from text_gym.agents.algorithms.configs import CONFIGS, settings_class
from text_gym.errors import ConfigError, DataError, UnknownNameError


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


def test_a_users_own_has_its_own_settings(tmp_path: Path) -> None:
    spec = write_algorithm(tmp_path)
    found = load_algorithm(spec)
    assert issubclass(found, Agent)
    assert settings_class(spec) is found.config_class
    assert found.config_class.__name__ == "MovingConfig"


def test_entry_points_are_algorithms_too(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, mine="text_gym.agents.algorithms.rloo:RLOO")
    assert load_algorithm("mine") is RLOO
    assert settings_class("mine") is RLOO.config_class
    for look_up in (load_algorithm, settings_class):
        with pytest.raises(UnknownNameError, match="did you mean 'mine'"):
            look_up("min")


def test_what_is_no_algorithm_is_told(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from text_gym.agents import Agent\n\ndef function():\n    pass\n\nclass Plain:\n    pass\n\n"
        "class Unwritten(Agent):\n    pass\n"
    )
    for name, said in (
        ("function", "is a function; an algorithm is a class derived from"),
        ("Plain", "is a class Plain; an algorithm is a class derived from"),
        ("Unwritten", "has no update of its own: write it"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_algorithm(f"{file}:{name}")
    with pytest.raises(ConfigError, match="has no settings"):
        settings_class(f"{file}:Plain")
    with pytest.raises(UnknownNameError, match="did you mean 'Unwritten'"):
        load_algorithm(f"{file}:Unwriten")
    with pytest.raises(DataError, match="there is no file"):
        load_algorithm(f"{tmp_path}/nowhere.py:Agent")
