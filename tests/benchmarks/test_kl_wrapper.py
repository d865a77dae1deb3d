"""`benchmarks/kl_wrapper.py`: its parts against plain arithmetic, and short runs of each library."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from text_gym import TextVectorEnv, load_task
from text_gym.agents import KLPenalty
from text_gym.agents.policies.policy import Policy

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("kl_wrapper")


def test_the_curve_is_that_of_the_episodes(script: Any) -> None:
    task = load_task("copy")
    policy = Policy.new(task.tokenizer, layers=1, width=16, context=16)
    env = TextVectorEnv(task=task, num_envs=2, autoreset_mode="SameStep", reward=lambda completion: 1.0)
    curve = script.Curve(KLPenalty(script.RecordEpisodeStatistics(env), policy, 0.1, policy=policy))
    curve.reset(seed=0)
    (end,) = task.tokenizer.eos_ids
    for actions in ([end, 0], [0, end], [end, end]):
        curve.step(np.array(actions))
    assert curve.tokens == 6
    assert curve.means(4) == [
        {"tokens": 4, "reward": 1.0, "kl": 0.0},
        {"tokens": 8, "reward": 1.0, "kl": 0.0},
    ]
    assert [tokens for tokens, _, _ in curve.episodes] == [2, 4, 6, 6]


@pytest.mark.parametrize("library", ["stable_baselines3", "skrl"])
def test_a_short_run_leaves_a_row(
    library: str, script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(library)
    monkeypatch.setattr(script, "ROWS", 8)
    monkeypatch.setattr(script, "BATCH", 128)
    name = {"stable_baselines3": "sb3"}.get(library, library)
    monkeypatch.setattr(
        "sys.argv", f"x run --library {name} --seed 3 --iterations 2 --out {tmp_path}".split()
    )
    script.main()
    row = json.loads((tmp_path / f"{name}-3.json").read_text())
    assert row["tokens"] == 2 * 8 * 64
    assert row["before"]["gold"]["mean"] == pytest.approx(0.72, abs=0.05)
    assert row["before"]["kl"]["mean"] == pytest.approx(0.0, abs=1e-4)
    assert row["after"]["kl"]["mean"] > 1e-4
    assert row["curve"][0]["kl"] == pytest.approx(0.0, abs=1e-3)


def test_an_entropy_bonus_does_not_replace_the_log_probabilities(script: Any) -> None:
    told = script.distance(1, 30_000, 0.2, bonus=False, normalize=True)
    bonus = script.distance(1, 30_000, 0.2, bonus=True, normalize=True)
    assert told < 0.15
    assert bonus > 0.3
