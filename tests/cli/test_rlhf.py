from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from text_gym import load_task
from text_gym.agents import Policy
from text_gym.cli import main as cli
from text_gym.cli.rlhf import show_rounds
from text_gym.runs.origin import load_policy, write_origin

TINY = [
    *("--rounds", "1", "--labels-per-round", "24", "--iterations", "1", "--episodes", "8"),
    *("--members", "2", "--device", "cpu"),
]


def test_simulated_raters_from_the_shipped_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    arguments = ["rlhf", "--rater", "simulated", "--bias", "length", *TINY, "--out", str(out)]
    assert cli.main(arguments) == 0
    (line,) = (out / "rounds.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert row["labels"] == 24
    assert 0.65 < row["gold_before"]["mean"] < 0.8  # the shipped policy's
    assert set(row["criteria"]) >= {"accuracy", "clarity", "persuasiveness"}
    printed = capsys.readouterr().out
    assert "report:" in printed
    settings = json.loads((out / "config.json").read_text())
    assert (settings["bias"], settings["overlap"], settings["questions"]) == ("length", 0.1, "ratings")

    assert cli.main(arguments) == 0  # done already
    assert cli.main([*arguments, "--noise", "0.3"]) == 2
    assert "noise" in capsys.readouterr().err


def test_a_cycle_refuses_to_run_in_several_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would all write the same folder."""
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert cli.main(["rlhf", "--rater", "simulated", *TINY, "--out", str(tmp_path / "run")]) == 2
    assert "start text-gym rlhf without torchrun" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_raters_that_cannot_be_simulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"mug {i}"}) + "\n" for i in range(8)))
    from text_gym.tasks.task import load_task

    policy = load_task("products").policy
    own = ["--data", str(data), "--policy", str(policy), "--out", str(tmp_path / "run")]
    assert cli.main(["rlhf", *TINY, *own]) == 2
    assert "--gold" in capsys.readouterr().err
    assert cli.main(["rlhf", *TINY, "--criteria", "charm", "wit", "--out", str(tmp_path / "run")]) == 2
    assert "charm" in capsys.readouterr().err


def test_a_policy_without_a_tokenizer_of_its_own_starts_a_cycle(tmp_path: Path) -> None:
    """As `train --policy new` makes them: the words are the task's."""
    task = load_task("reverse")
    folder = tmp_path / "policy"
    Policy.new(task.tokenizer, layers=1, width=16, heads=2, context=16, device="cpu").save(folder)
    write_origin(folder, task.settings, task.max_tokens, None)
    own = ["--task", "reverse", "--policy", str(folder), "--out", str(tmp_path / "run")]
    assert cli.main(["rlhf", *own, *TINY]) == 0
    kept = tmp_path / "run" / "round-1" / "policy"
    assert "trained by `rlhf`" in (kept / "README.md").read_text()
    assert load_policy(kept, "cpu").vocab_size == task.tokenizer.vocab_size


def test_the_table_of_rounds() -> None:
    change = {"mean": 0.1, "ci95": [0.05, 0.15]}
    known: dict[str, Any] = {
        "round": 1,
        "labels": 20,
        "proxy": 0.5,
        "kl_nats": 1.25,
        "alpha": None,
        "words": 20.0,
        "cut": 0.5,
        "kept": 1,
        "verdict": "better",
        "gold_change": None,
        "objective_change": change,
        "objective_before": 0.6,
        "objective_after": 0.5,
        "declined": None,
        "policy_of_iteration": 40,
        "since_start": {"measure": "gold", "before": 0.7, "after": 0.8, **change},
    }
    rows = [
        {**known, "gold": {"mean": 0.8, "ci95": [0.7, 0.9]}},
        {
            **known,
            "round": 2,
            "alpha": 0.5,
            "verdict": "worse",
            "gold": {"mean": float("nan"), "ci95": [float("nan")] * 2},
        },
    ]
    screen = Console(file=io.StringIO(), width=300)
    show_rounds(rows, screen)
    assert isinstance(screen.file, io.StringIO)
    shown = screen.file.getvalue()
    assert "0.800 [0.700, 0.900]" in shown
    assert "nan" not in shown
    assert shown.startswith("It got worse in round 2: objective (proxy − β·KL) 0.600 → 0.500")
    assert "worse, given up" in shown
    assert shown.count("50 %") == 3  # in both rows, and in the sentence about the second


def test_where_nobody_knows_gold_no_column_says_gold() -> None:
    nothing = {"mean": float("nan"), "ci95": [float("nan")] * 2}
    change = {"mean": 0.1, "ci95": [0.05, 0.15]}
    row: dict[str, Any] = {
        "round": 1, "kept": 1, "verdict": "better", "gold": nothing, "gold_change": None, "proxy": 0.5,
        "kl_nats": 1.0, "words": 20.0, "cut": 0.0, "labels": 20, "alpha": None, "declined": None,
        "since_start": {"measure": "objective", "before": 0.1, "after": 0.2, **change},
    }  # fmt: skip
    screen = io.StringIO()
    show_rounds([row], Console(file=screen, width=200))
    assert "proxy" in screen.getvalue()
    assert "gold" not in screen.getvalue()


def test_the_policy_that_is_named_is_the_one_that_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    change = {"mean": -0.1, "ci95": [-0.15, -0.05]}
    row: dict[str, Any] = {
        "round": 2, "verdict": "worse", "gold": {"mean": 0.6, "ci95": [0.5, 0.7]}, "proxy": 0.5,
        "gold_before": {"mean": 0.7}, "gold_change": change, "objective_change": change,
        "objective_before": 0.6, "objective_after": 0.5, "kl_nats": 1.0, "words": 20.0, "cut": 0.0,
        "labels": 20, "alpha": None, "declined": None, "policy_of_iteration": 40,
        "since_start": {"measure": "gold", "before": 0.7, "after": 0.7, "mean": 0.0, "ci95": [0.0, 0.0]},
    }  # fmt: skip
    for kept, folder in ((1, "round-1"), (0, "start")):
        monkeypatch.setattr("text_gym.cli.rlhf.rlhf", lambda *_, kept=kept, **__: [{**row, "kept": kept}])
        assert cli.main(["rlhf", "--rater", "simulated", *TINY, "--out", str(tmp_path / "run")]) == 0
        said = "".join(capsys.readouterr().out.split())
        assert f"policy:{tmp_path / 'run'}/{folder}/policy" in said
