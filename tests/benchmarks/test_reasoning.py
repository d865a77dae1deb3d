"""`benchmarks/learn_reasoning.py` and `reasoning_tasks.py`: what they count, without reasoning-gym."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from text_gym import load_task

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


def row(name: str, *, rises: bool = True, broken: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"dataset": name, "broken": {check: [] for check in broken}, "learning": {"rises": rises}}


def test_answers_to_a_problem_are_one_observation(monkeypatch: pytest.MonkeyPatch) -> None:
    learn = script("learn_reasoning", monkeypatch)
    report = SimpleNamespace(rewards=np.array([1.0, 1.0, 0.0, 0.0, 0.8, 0.8, 0.8, 1.0]))
    assert learn.by_problem(report).tolist() == pytest.approx([0.5, 0.85])
    assert learn.right(report) == 3 / 8  # an answer that is nearly right is not


def test_learning_is_judged_on_what_was_not_learnt_on(monkeypatch: pytest.MonkeyPatch) -> None:
    learn = script("learn_reasoning", monkeypatch)
    asked: list[set[str]] = []
    measured = learn.measured

    def spy(policy: Any, task: Any, prompts: Any, seed: int) -> Any:
        asked.append({p.id for p in prompts})
        return measured(policy, task, prompts, seed)

    monkeypatch.setattr(learn, "measured", spy)
    task = load_task("reverse")
    row = learn.run(task, 0, learn.Options(steps=2, iterations=1, episodes=16, n_held_out=8))
    held_out = {p.id for p in task.held_out}
    assert asked == [{p.id for p in task.prompts[:8]}, held_out] * 2
    assert row["held_out"]["gain"]["n"] == len(held_out)
    for part in ("train", "held_out"):
        assert row[part]["gain"]["value"] == pytest.approx(row[part]["end"] - row[part]["start"])


def test_a_data_set_passes_if_both_levels_hold_and_it_is_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = script("reasoning_tasks", monkeypatch)
    assert tasks.passes(row("a"))
    assert not tasks.passes(row("a", rises=False))
    assert not tasks.passes(row("a", broken=("semantic.null_floor",)))


def test_rows_of_others_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = script("reasoning_tasks", monkeypatch)
    file = tmp_path / "rows.json"
    assert tasks.kept(file, ["a"]) == []
    file.write_text(json.dumps({"rows": [row("a"), row("b")]}), encoding="utf-8")
    assert tasks.kept(file, ["a", "c"]) == [row("b")]


def test_answers_to_the_eight_problems_are_not_shown_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = script("reasoning_tasks", monkeypatch)
    task = load_task("reverse")
    shown: list[str] = []
    sft = tasks.SFT

    def spy(policy: Any, pairs: Any, config: Any) -> Any:
        shown.extend(prompt.id for prompt, _ in pairs)
        return sft(policy, pairs, config)

    monkeypatch.setattr(tasks, "SFT", spy)
    found = tasks.by_heart(task, tasks.Options(steps=2, iterations=1))
    assert len(shown) > 0
    assert not {p.id for p in task.prompts[: tasks.PROBLEMS]} & set(shown)
    assert found["gain"]["n"] == tasks.PROBLEMS
    assert found["rises"] == (found["gain"]["value"] >= 0.1 and found["gain"]["ci95"][0] > 0)
