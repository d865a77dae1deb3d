"""Algorithms from files, modules and entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from tests.own_algorithm import write_algorithm
from text_gym.agents import own_algorithms
from text_gym.agents.own_algorithms import GROUP, own_algorithm
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
