"""`text-gym train` as a user meets it: from nothing, from a run, and what is said while it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.own_data import COLUMNS, training, write_data, write_policy
from text_gym import load_task
from text_gym.cli import train
from text_gym.cli.main import main

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learnt `reverse` from nothing, with GRPO, on 2,560 episodes."""
    out = tmp_path_factory.mktemp("runs") / "reverse"
    options = ["--algorithm", "grpo", "--iterations", "40", "--learning-rate", "3e-3", "--layers", "1"]
    assert main(["train", "--task", "reverse", "--policy", "new", *options, "--out", str(out)]) == 0
    return out


def summary_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return found


def test_a_new_policy_learns_a_task_from_nothing(learnt: Path) -> None:
    found = summary_of(learnt)
    assert found["before"]["gold"]["mean"] < 0.5
    assert found["after"]["gold"]["mean"] > 0.9
    config = json.loads((learnt / "policy" / "config.json").read_text())
    assert (config["n_embd"], config["n_layer"], config["n_head"]) == (64, 1, 4)
    task = load_task("reverse")
    assert config["n_positions"] == 4 + task.max_tokens + 1  # 4 symbols, and a token that may stand before
    assert json.loads((learnt / "config.json").read_text())["options"]["policy"] == "new"


def test_such_a_policy_is_found_and_read_again(learnt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its tokenizer is the task's, which its folder names and does not hold."""
    out = learnt.parent / "evaluation.json"
    assert main(["evaluate", str(learnt), "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["gold"]["mean"] == pytest.approx(summary_of(learnt)["after"]["gold"]["mean"])
    assert found["reference"] == str(learnt / "checkpoints" / "reference")
    capsys.readouterr()
    words = ["sample", "--policy", str(learnt), "aabc", "cabb", "--count", "8", "--json"]
    assert main([*words, "--stop", "b"]) == 0
    texts = [json.loads(line)["completion"] for line in capsys.readouterr().out.splitlines()]
    assert len(texts) == 8
    assert "b" not in "".join(texts)
    again = learnt.parent / "again"  # from the run's folder, by its name alone
    options = ["--iterations", "1", "--episodes", "8", "--out", str(again)]
    assert main(["train", "--task", "reverse", "--policy", str(learnt), *options]) == 0
    assert summary_of(again)["before"]["gold"]["mean"] > 0.9
    assert f"folder: {again}\n" in capsys.readouterr().out


def test_the_folder_says_what_each_file_in_it_is(learnt: Path) -> None:
    text = (learnt / "README.md").read_text()
    found = {"events.out.tfevents" if p.name.startswith("events.") else p.name for p in learnt.iterdir()}
    assert {"policy", "summary.json", "metrics.jsonl", "events.out.tfevents"} <= found
    assert [name for name in found - {"README.md"} if f"`{name}" not in text] == []


def test_the_wait_is_told_before_and_after(learnt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = learnt.parent / "short"
    options = ["--task", "reverse", "--policy", "new", "--iterations", "1", "--episodes", "8"]
    assert main(["train", *options, "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        f"folder: {out}",
        "measuring the start: loading PyTorch and the policy …",
        "measuring the start on 16 held-out prompts …",
    ]
    assert "measuring the result …" in lines


def test_sft_learns_the_answers_of_a_classic_task(tmp_path: Path) -> None:
    task = load_task("reverse")
    assert task.corpus is not None
    for pairs, prompts in zip(task.corpus(), (task.prompts, task.held_out), strict=True):
        assert [(p.text, text) for p, text in pairs] == [(p.text, p.text[::-1]) for p in prompts]
    options = ["--task", "reverse", "--epochs", "1", "--width", "16", "--out", str(tmp_path / "policy")]
    assert main(["sft", *options]) == 0
    assert main(["evaluate", str(tmp_path / "policy")]) == 0


def test_data_goes_with_a_policy_and_a_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data(tmp_path / "data.jsonl")
    write_policy(tmp_path / "start")
    other = write_policy(tmp_path / "other", seed=3)
    assert main(training(tmp_path, "run", "--reward", "length")) == 0
    prompt = COLUMNS[COLUMNS.index("--prompt") + 1]
    data = ["--data", str(tmp_path / "data.jsonl"), "--prompt", prompt, "--policy", str(tmp_path / "run")]
    out = tmp_path / "e.json"
    assert main(["evaluate", *data, "--reference", str(other), "--out", str(out)]) == 0
    assert json.loads(out.read_text())["reference"] == str(other)
    capsys.readouterr()
    assert main(["sample", *data, "--count", "2", "--top-k", "3", "--top-p", "0.9", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    asked = {json.loads(line)[prompt] for line in (tmp_path / "data.jsonl").read_text().splitlines()}
    assert len(rows) == 2
    assert all(any(row["prompt"].startswith(text) for text in asked) for row in rows)


def test_a_run_that_no_resuming_can_save_is_not_told_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--algorithm", "grpo", "--learning-rate", "1e9", "--iterations", "20", "--episodes", "16"]
    out = str(tmp_path / "run")
    assert main(["train", "--task", "reverse", "--policy", "new", *options, "--out", out]) == 2
    shown = capsys.readouterr()
    assert "NonFiniteError" in shown.err
    assert "to go on" not in shown.out
    assert "begin anew, with a smaller learning rate" in " ".join(shown.out.split())


def test_a_plan_is_printed_and_nothing_is_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    new = ["train", "--task", "reverse", "--policy", "new", "--out", str(out)]
    assert main([*new, "--critic", "separate", "--plan"]) == 0
    shown = capsys.readouterr().out
    assert "optimizer state" in shown
    assert "peak" in shown
    assert "folder:" not in shown
    assert not out.exists()
    assert main([*new, "--algorithm", "sb3.ppo", "--plan"]) == 2
    assert "--plan knows no sb3.ppo" in capsys.readouterr().err


def test_a_large_model_begins_with_its_plan_and_ends_there_if_it_cannot_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_policy(tmp_path / "start")
    words = ["train", "--task", "products", "--policy", str(folder), "--out", str(tmp_path / "run")]
    monkeypatch.setattr(train, "LARGE", 1)
    monkeypatch.setattr(train, "available_memory", lambda device: 1000)
    assert main(words) == 2
    shown = capsys.readouterr()
    assert "memory plan of a model of" in shown.out
    assert "NotEnoughMemoryError" in shown.err
    assert not (tmp_path / "run").exists()
