"""The settings that tasks recommend are options, and are what a command takes where nothing was typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from text_gym import load_task
from text_gym.cli.options.sft import read_sft
from text_gym.cli.options.train import read_train
from text_gym.tasks.task import TASKS

CONVERSATIONS = [name for name, place in TASKS.items() if ".conversations." in str(place)]
RECOMMENDED = [(name, algorithm) for name in CONVERSATIONS for algorithm in load_task(name).recommended]


def read(words: list[str], algorithm: str, out: Path) -> dict[str, Any]:
    """The options, and the algorithm's settings, that the command line makes of the words."""
    if algorithm == "sft":
        options: Any
        options, config, _ = read_sft([*words, "--out", str(out)])
    else:
        options, config, *_ = read_train([*words, "--algorithm", algorithm, "--out", str(out)])
    return {**vars(options), **vars(config)}


@pytest.mark.parametrize(("name", "algorithm"), RECOMMENDED)
def test_each_is_read_as_it_stands_there(name: str, algorithm: str, tmp_path: Path) -> None:
    settings = load_task(name).recommended[algorithm]
    words = [] if algorithm == "sft" or "policy" in settings else ["--policy", "new"]
    found = read(["--task", name, *words], algorithm, tmp_path)
    assert {key: found[key] for key in settings} == settings


def test_what_was_typed_has_the_last_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = ["--env=guess", "--entropy_coef", "0.5", "--anneal", "--model", "new"]
    found = read(typed, "grpo", tmp_path)
    assert (found["entropy_coef"], found["anneal"], found["policy"]) == (0.5, True, "new")
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("recommended for guess: "))
    assert "--episodes 256" in line
    assert "--entropy-coef" not in line
    others = read(["--task", "reverse", "--policy", "new"], "grpo", tmp_path)
    assert others["episodes"] == 64
