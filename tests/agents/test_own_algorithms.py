"""Algorithms from files, modules and entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from tests.own_algorithm import write_algorithm
from text_gym.agents import own_algorithms
from text_gym.agents.own_algorithms import GROUP, is_agent_by_its_text, own_algorithm
from text_gym.errors import ConfigError


def offer(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    """As if an installed package offered these."""
    found = [EntryPoint(name, value, GROUP) for name, value in points.items()]
    monkeypatch.setattr(own_algorithms, "entry_points", lambda group: found if group == GROUP else [])


def test_a_file_gives_the_same_class_until_it_changes(tmp_path: Path) -> None:
    spec = write_algorithm(tmp_path)
    first = own_algorithm(spec)
    assert own_algorithm(spec) is first
    write_algorithm(tmp_path, ("decay: float = 0.9", "decay: float = 0.25"))
    assert own_algorithm(spec).config_class().decay == 0.25
    assert first.config_class().decay == 0.9


def test_entry_points_have_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_algorithm("mine") is None
    offer(monkeypatch, mine="text_gym.agents.algorithms.rloo:RLOO", gone="no_such_module_x:A")
    assert own_algorithm("mine").__name__ == "RLOO"
    with pytest.raises(ConfigError, match=r"entry point 'gone'.*no_such_module_x"):
        own_algorithm("gone")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("from text_gym.agents import Agent\nclass Mine(Agent):\n    pass\n", True),
        ("from text_gym.agents import Agent as A\nclass Mine(A[int]):\n    pass\n", True),
        ("from text_gym.agents import PPO\nclass Base(PPO): pass\nclass Mine(Base): pass\n", True),
        ("from text_gym.agents.algorithms.rloo import RLOO\nclass Mine(RLOO): pass\n", True),
        ("from text_gym.agents import RLOO as Mine\n", True),
        ("from text_gym import RewardSource\nclass Mine(RewardSource):\n    pass\n", False),
        ("from text_gym.agents import Policy\ndef Mine(completion):\n    return 1.0\n", False),
        ("class Mine:\n", False),
        ("def other(): pass\n", False),
    ],
)
def test_a_file_is_told_to_hold_an_agent_without_being_run(code: str, expected: bool, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("raise RuntimeError\n" + code)
    assert is_agent_by_its_text(file, "Mine") is expected
    assert not is_agent_by_its_text(tmp_path / "none.py", "Mine")
