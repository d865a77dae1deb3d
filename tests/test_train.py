"""`text-gym train`: the files it leaves, determinism, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from text_gym import TextVectorEnv, load_task
from text_gym.cli import main

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-c", "from text_gym.cli import main; raise SystemExit(main())"]


def test_train_leaves_everything_it_promises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["train", "--iterations", "2", "--episodes", "8", "--out", str(out), "--seed", "3"]) == 0
    shown = capsys.readouterr().out
    assert "before" in shown
    assert "persuasiveness" in shown

    summary = json.loads((out / "summary.json").read_text())
    assert summary["seed"] == 3
    assert summary["interrupted"] is False
    for when in ("before", "after"):
        for criterion in ("gold", "accuracy", "clarity", "persuasiveness", "perfect"):
            measure = summary[when][criterion]
            assert measure["ci95"][0] <= measure["mean"] <= measure["ci95"][1]
    assert summary["before"]["kl_nats"] == 0
    assert {"kl_nats", "seconds", "tokens"} <= summary.keys()
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 2]
    assert json.loads((out / "config.json").read_text())["algorithm"] == "ppo"
    assert (out / "samples.md").read_text().count("Before (") == 20
    assert (out / "curves.png").stat().st_size > 10_000
    assert list(out.glob("events.out.tfevents*"))

    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(out / "policy")
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(out / "policy"))


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert main(["train", "--iterations", "1", "--episodes", "8", "--out", str(tmp_path / name)]) == 0
    for file in ("policy/model.safetensors", "policy/value_head.safetensors", "samples.md"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


@pytest.mark.parametrize("algorithm", ["ppo", "sb3.ppo"])
@pytest.mark.parametrize("limit", ["end", "truncate"])
def test_the_limit_reaches_the_environment_and_the_settings(
    algorithm: str, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    for module in ("text_gym.train", "text_gym.agents.sb3_training"):

        class Watched(TextVectorEnv):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                if self.num_envs == 8:  # the one to learn in
                    made.append(self.limit)

        monkeypatch.setattr(f"{module}.TextVectorEnv", Watched)
    rows = ["--episodes", "8"] if algorithm == "ppo" else ["--num-envs", "8", "--n-steps", "4"]
    options = ["--algorithm", algorithm, "--iterations", "1", "--max-tokens", "6", *rows]
    assert main(["train", *options, "--limit", limit, "--out", str(tmp_path / "run")]) == 0
    assert made == [limit]
    kept = json.loads((tmp_path / "run" / "config.json").read_text())
    assert kept["limit"] == kept["options"]["limit"] == limit


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_stops_cleanly_and_keeps_what_was_learnt(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        [*COMMAND, "train", "--episodes", "8", "--iterations", "100000", "--out", str(out)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (out / "metrics.jsonl").exists():
        time.sleep(0.1)
    while time.monotonic() < deadline and (out / "metrics.jsonl").stat().st_size == 0:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert json.loads((out / "summary.json").read_text())["interrupted"] is True
    assert (out / "policy" / "model.safetensors").exists()


def test_a_policy_of_other_tokens_than_the_tasks_is_refused_before_a_run_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, policy = tmp_path / "run", str(load_task("products").policy)
    assert main(["train", "--task", "sort", "--model", policy, "--out", str(out)]) == 2
    assert "other tokens than task 'sort'" in capsys.readouterr().err
    assert not out.exists()


def test_an_algorithm_of_stable_baselines3_starts_from_scratch(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["--iterations", "2", "--num-envs", "8", "--n-steps", "8", "--batch-size", "32"]
    assert main(["train", "--algorithm", "sb3.ppo", "--task", "sort", *options, "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["tokens"] == 2 * 8 * 8
    assert summary["kl_nats"] is None
    assert {"gold", "exact", "greedy"} <= summary["after"].keys()
    assert (out / "policy" / "sb3_policy.safetensors").exists()


def test_a_reward_that_fails_stops_the_run_but_not_what_was_learnt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = """
calls = []

def late(completion):
    calls.append(1)
    return 1.0 if len(calls) < 275 else 1 / 0
"""
    (tmp_path / "mine.py").write_text(code)
    out = tmp_path / "run"
    options = ["--iterations", "5", "--episodes", "8", "--out", str(out), "--reward"]
    assert main(["train", *options, f"{tmp_path / 'mine.py'}:late"]) == 2
    assert "reward 'late' raised ZeroDivisionError" in capsys.readouterr().err
    assert (out / "policy" / "model.safetensors").exists()
