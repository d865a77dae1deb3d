from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from text_gym import load_task
from text_gym.agents import Policy, SB3Config, train_sb3
from text_gym.agents.adapters.sb3.config import SB3_ALGORITHMS
from text_gym.agents.adapters.sb3.evaluation import evaluate_sb3
from text_gym.agents.adapters.sb3.make import make_sb3
from text_gym.errors import ConfigError, UnknownNameError


def test_ppo_solves_copying_and_is_judged_on_held_out_prompts() -> None:
    task = load_task("copy", length=3)
    seen: list[dict[str, float]] = []
    run = train_sb3("ppo", task, SB3Config(iterations=24), callback=seen.append)
    assert run.iterations == len(seen) == 24
    assert run.tokens == seen[-1]["tokens"] == 24 * 32 * 64
    assert [m["iteration"] for m in seen] == list(range(1, 25))
    assert run.before.reward.mean < 0.5
    assert evaluate_sb3(run.model, task, task.prompts, greedy=True).reward.mean >= 0.95
    assert run.greedy.reward.ci95[0] <= run.greedy.reward.mean <= run.greedy.reward.ci95[1]
    assert [e.prompt for e in run.after.episodes] == list(task.held_out)
    assert math.isnan(run.after.kl.mean)
    assert seen[-1]["reward"] > seen[0]["reward"] + 0.3


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["sort", "slots", "reverse", "copy"])
def test_ppo_solves_the_classic_tasks_within_a_minute(name: str, seed: int) -> None:
    run = train_sb3("ppo", load_task(name), SB3Config(seed=seed))
    assert run.greedy.reward.mean >= 0.95
    assert run.seconds < 60


@pytest.mark.parametrize("algorithm", sorted(SB3_ALGORITHMS))
def test_every_algorithm_runs_and_counts_the_same_tokens(
    algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if SB3_ALGORITHMS[algorithm].startswith("sb3_contrib"):
        pytest.importorskip("sb3_contrib")
    config = SB3Config(iterations=2, num_envs=4, n_steps=8, batch_size=16, n_epochs=1, width=16)
    reports: list[dict[str, float]] = []
    run = train_sb3(algorithm, load_task("sort", length=2), config, callback=reports.append)
    assert run.iterations == len(reports) == 2
    assert run.tokens == 2 * 8 * 4
    assert list(tmp_path.iterdir()) == []


def test_the_same_seed_gives_the_same_policy_and_a_callback_can_stop() -> None:
    task = load_task("sort", length=2)
    config = SB3Config(iterations=3, num_envs=8, n_steps=8, batch_size=32)
    runs = [train_sb3("ppo", task, config) for _ in range(2)]
    weights = [[p.tolist() for p in r.model.policy.parameters()] for r in runs]
    assert weights[0] == weights[1]
    assert runs[0].after.rewards.tolist() == runs[1].after.rewards.tolist()
    assert train_sb3("ppo", task, config, callback=lambda _: False).iterations == 1


def test_a_language_model_is_held_to_where_it_started() -> None:
    task = load_task("copy", length=3)
    policy = Policy.new(task.tokenizer, width=32, layers=1, context=8)
    config = SB3Config(iterations=12, n_steps=16, learning_rate=3e-3, kl_coef=0.01, batch_size=256)
    metrics: list[dict[str, Any]] = []
    run = train_sb3("ppo", task, config, policy=policy, callback=metrics.append)
    assert run.before.kl.mean == pytest.approx(0.0, abs=1e-4)
    assert run.after.kl.mean > 0.1
    assert metrics[-1]["kl"] > 0.1
    assert run.after.reward.mean > run.before.reward.mean + 0.15
    assert run.after.reward.mean == evaluate_sb3(run.model, task).reward.mean


def test_mistakes_are_named() -> None:
    task = load_task("copy")
    with pytest.raises(UnknownNameError, match="did you mean 'ppo'"):
        train_sb3("pppo", task)
    with pytest.raises(ConfigError, match=r"sb3\.dqn cannot train a language model"):
        make_sb3("dqn", task, SB3Config(), policy=Policy.new(task.tokenizer, width=16, context=16))
