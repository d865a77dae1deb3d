"""The bridge with a library of the same interface in place of reasoning-gym, which `tests.interop` tries."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from text_gym import Episode, Task, load_task
from text_gym.bridges import reasoning_gym as bridge
from text_gym.errors import ConfigError, RewardError, UnknownNameError

LIBRARY = '''
import time
from dataclasses import dataclass
from types import SimpleNamespace

@dataclass
class Config:
    largest: int = 50
    seed: int = 0
    size: int = 1

class Squares:
    """Questions come again after `largest`."""
    def __init__(self, largest=50, seed=0, size=1, answers=True):
        if largest < 1:
            raise AssertionError("largest must be positive")
        self.largest, self.seed, self.size, self.answers = largest, seed, size, answers
    def __getitem__(self, i):
        if i >= self.size:
            raise IndexError
        n = (i + self.seed) % self.largest
        answer = str(n * n) if self.answers else None
        return {"question": f"{n} squared?\\n", "answer": answer, "metadata": {}}
    def score_answer(self, answer, entry):
        if answer == "hang":
            time.sleep(600)
        if answer == "die":
            import os
            os._exit(1)
        return 7.0 if answer == "much" else float(int(answer) == int(entry["answer"]))

class Curriculum:
    attributes = {"largest": SimpleNamespace(levels=[5, 20, 40])}
    def get_attribute(self, name): return self.attributes[name]
    def set_attr_level(self, name, level): self.level = level
    def generate_configuration(self): return Config(self.attributes["largest"].levels[self.level])

DATASETS = {"squares": Squares, "plain": Squares}
def has_curriculum(name): return name == "squares"
def create_curriculum(name): return Curriculum()
'''


@pytest.fixture(autouse=True)
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    package = tmp_path / "reasoning_gym"
    package.mkdir()
    (package / "factory.py").write_text(LIBRARY)
    (package / "__init__.py").write_text(
        "from .factory import DATASETS\ndef create_dataset(name, **config): return DATASETS[name](**config)\n"
    )
    for name in [m for m in sys.modules if m.split(".")[0] == "reasoning_gym"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    bridge._problems.cache_clear()
    yield
    for name in [m for m in sys.modules if m.split(".")[0] == "reasoning_gym"]:
        del sys.modules[name]
    bridge._problems.cache_clear()


def squares(**kwargs: Any) -> Task:
    return load_task("reasoning_gym:squares", **kwargs)


def scores(task: Task, *texts: str) -> list[float]:
    return list(task.reward([Episode.of(task.prompts[0], text, task.tokenizer) for text in texts]).totals)


def test_questions_are_distinct_and_answers_are_judged_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEXT_GYM_SANDBOX", "0")
    task = squares(n_train=70, n_held_out=10, seed=3)
    assert len(task.prompts) == 40  # of 50 different questions
    assert not {p.text for p in task.prompts} & {p.text for p in task.held_out}
    assert task.held_out[0].text == "3 squared?\n"
    assert task.prompts[0].text == "13 squared?\n"
    assert scores(task, "169", " 169\n", "168", "no number", "much") == [1, 1, 0, 0, 1]
    assert task.corpus is not None
    train, held_out = task.corpus()
    assert (train[0][1], held_out[0][1]) == ("169", "9")
    assert task.max_tokens == 2 * len("2401") + 2
    assert task.settings["task"] == "reasoning_gym:squares"


@pytest.mark.nightly
def test_a_text_that_hangs_or_kills_its_judge_harms_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "_SECONDS", 3.0)
    monkeypatch.setattr(bridge, "_SECONDS_ALONE", 2.0)
    task = squares(n_train=8, n_held_out=2)
    assert scores(task, "4", "die", "5") == [1, 0, 0]
    assert scores(task, "hang", "4") == [0, 1]
    assert "took longer" in str(task.reward.last_failure)


def test_levels_and_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(squares(level=0, n_train=80, n_held_out=2).prompts) == 3
    assert len(squares(level=9, n_train=80, n_held_out=2).prompts) == 38
    assert len(squares(largest=10, n_train=80, n_held_out=2).prompts) == 8
    assert squares(answers=False, n_train=8, n_held_out=2).corpus is None


def test_mistakes_are_named() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'squares'"):
        load_task("reasoning_gym:square")
    with pytest.raises(ConfigError, match="has no curriculum"):
        load_task("reasoning_gym:plain", level=1)
    with pytest.raises(ConfigError, match="cannot be made: AssertionError: largest must be positive"):
        squares(largest=0)
    with pytest.raises(ConfigError, match="size is n_train and n_held_out together"):
        squares(size=5)
    with pytest.raises(ConfigError, match="has 1 problem"):
        squares(largest=1)
    task = squares(n_train=8, n_held_out=2)
    with pytest.raises(RewardError, match="needs the column 'index'"):
        task.reward([Episode.of("a", "b", task.tokenizer)])
