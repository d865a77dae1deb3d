"""Optimisers: looks at equal luck that change nothing, and an SB3 run seen from outside."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.bench_world import TINY
from text_gym import as_reward_source, load_task
from text_gym.agents import trajectory_log_probs
from text_gym.bench.matrix import optimisers
from text_gym.bench.matrix.optimisers import learn, look, mean_or_none, perfect
from text_gym.bench.matrix.settings import OPTIMISERS, Settings
from text_gym.bench.matrix.start import starting_policy
from text_gym.errors import ConfigError

SORT = Settings(what="agents", task="sort", iterations=3, episodes=16, points=3, watched=8, held_out=20)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_every_optimiser_is_looked_at_as_often_and_moves(optimiser: str) -> None:
    beta = 0.1 if optimiser == "dpo" else 0.0
    found = learn(SORT, optimiser, load_task("sort").reward, 1.0, beta, seed=0)
    assert [point["step"] for point in found.curve] == [0, 1, 2, 3]
    assert found.curve[0]["kl_nats"] == 0.0
    assert found.curve[-1]["kl_nats"] != 0.0
    assert [len(seen.episodes) for seen in found.looks] == [8, 8, 8, 20]  # of 16 prompts
    assert found.episodes >= 3 * 16
    tokens = [point["tokens"] for point in found.curve]
    assert tokens[0] == 0 < tokens[1] < tokens[2] < tokens[3] == found.tokens
    longest = load_task("sort").max_tokens
    assert found.episodes <= found.tokens <= (found.episodes + 16) * longest  # SB3 counts those in progress
    again = learn(SORT, optimiser, load_task("sort").reward, 1.0, beta, seed=0)
    assert again.curve == found.curve
    assert learn(SORT, optimiser, load_task("sort").reward, 1.0, beta, seed=1).curve[-1] != found.curve[-1]


def test_rloo_learns_to_sort() -> None:
    settings = replace(SORT, iterations=40, episodes=64, points=1)
    found = learn(settings, "rloo", load_task("sort").reward, 1.0, 0.0, seed=0)
    assert found.curve[0]["gold"] < 0.3
    assert found.curve[-1]["gold"] > 0.6


def test_a_kl_coefficient_keeps_the_policy_near_the_start() -> None:
    reward = as_reward_source(lambda completion: float(len(completion.split())))
    settings = replace(TINY, iterations=6, episodes=16, points=1)
    free, held = (
        learn(settings, "rloo", reward, 0.2, beta, seed=0).curve[-1]["kl_nats"] for beta in (0.0, 5.0)
    )
    assert free > 2 * held


def test_a_look_at_the_starting_policy_finds_no_kl_and_the_gold_of_its_texts() -> None:
    task, policy = load_task("products"), starting_policy(TINY)
    words = as_reward_source(lambda completion: float(len(completion.split())))
    seen = look(policy, policy.frozen(), task, 5, words)
    assert [e.prompt.text for e in seen.episodes] == [p.text for p in task.held_out[:5]]
    assert np.array_equal(seen.kl, np.zeros(5))
    assert np.allclose(seen.gold, task.reward(seen.episodes).totals)
    point = seen.point(7, 70, 700)
    assert (point["step"], point["episodes"], point["tokens"]) == (7, 70, 700)
    assert point["proxy"] == point["length"]
    one = look(policy, policy.frozen(), task, 1, words)
    assert one.episodes[0].completion == seen.episodes[0].completion  # the same luck for the same prompt


def test_gold_is_the_tasks_own_and_kl_is_to_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand from the texts of every look, with other code than the benchmark's."""
    start = starting_policy(SORT)
    expected: list[tuple[float, float]] = []

    def watched(policy: Any, reference: Any, task: Any, count: int, reward: Any) -> Any:
        seen = look(policy, reference, task, count, reward)
        with torch.no_grad():
            kl = trajectory_log_probs(policy, seen.episodes) - trajectory_log_probs(start, seen.episodes)
        own = task.reward(seen.episodes).totals
        expected.append((float(own.mean()), float(kl.mean())))
        return seen

    monkeypatch.setattr(optimisers, "look", watched)
    short = as_reward_source(lambda completion: -float(len(completion)))
    options = {"ppo": {"learning_rate": 0.01}}
    found = learn(replace(SORT, override=options), "ppo", short, 1.0, 0.0, seed=0)
    assert [p["gold"] for p in found.curve] == pytest.approx([gold for gold, _ in expected])
    assert [p["kl_nats"] for p in found.curve] == pytest.approx([kl for _, kl in expected], abs=1e-4)
    assert found.curve[-1]["kl_nats"] > 0.01
    assert found.curve[0]["proxy"] < 0 <= found.curve[0]["gold"]


def test_unknown_means_unknown() -> None:
    assert mean_or_none(np.array([1.0, np.nan, 3.0])) == 2.0
    assert mean_or_none(np.array([np.nan])) is None
    assert mean_or_none(None) is None
    assert perfect({"a": np.ones(1)}) is None


def test_a_setting_that_no_optimiser_has_is_refused() -> None:
    settings = replace(SORT, override={"rloo": {"rate": 1.0}})
    with pytest.raises(ConfigError, match=r"rloo has no such setting.*rate"):
        learn(settings, "rloo", load_task("sort").reward, 1.0, 0.0, seed=0)
