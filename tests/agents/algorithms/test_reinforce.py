from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.agents.algorithms.test_ppo import world
from tests.small_models import same_parameters, small_policy
from tests.tiny_world import (
    BETA,
    QUICK,
    assert_same,
    batch_of,
    columns_of_update,
    gradient_of_update,
    learn_in,
    pair,
)
from text_gym import Rewards, Task, TextVectorEnv, load_task
from text_gym.agents import REINFORCE, REINFORCEConfig, exact_policy_gradient
from text_gym.agents.training.metrics import Metrics
from text_gym.errors import ConfigError
from text_gym.tasks.enumerable import optimal_policy, total_variation, trajectories

Baseline = Literal["mean", "moving_average", "critic"]
STILL = REINFORCEConfig(iterations=1, learning_rate=0.0, warmup=0, kl_coef=BETA, value_coef=0.0)
BASELINES: list[Baseline] = ["mean", "moving_average", "critic"]


def exact(task: Task) -> list[Tensor]:
    """The gradient of E[r] - β KL(policy ‖ reference)."""
    policy, reference = pair(task)
    episodes = trajectories(task)
    rewards = task.reward(episodes).values
    found = exact_policy_gradient(policy, episodes, rewards, reference=reference, beta=BETA)
    return list(found.values())


# The enumerable world


@pytest.mark.parametrize("baseline", ["moving_average", "critic"])
def test_the_expected_step_is_the_exact_policy_gradient(baseline: Baseline) -> None:
    """Whatever number, or value of the state, is subtracted: here a wrong average and a random critic."""
    task = load_task("enumerable")
    policy, reference = pair(task)
    batch = batch_of(policy, task, trajectories(task))
    config = replace(STILL, baseline=baseline)
    agent = REINFORCE(policy, TextVectorEnv(task=task), config, reference)
    agent.moving_average = 0.37
    weights = batch.log_probs.sum(dim=1).exp() * len(batch.tokens)
    assert_same(gradient_of_update(agent, batch, weights), exact(task))


def test_with_its_own_mean_a_batch_of_two_steps_half_as_far() -> None:
    task = load_task("enumerable", max_tokens=2)
    policy, reference = pair(task)
    episodes = trajectories(task)
    total = [torch.zeros_like(p) for p in policy.model.parameters()]
    for a in episodes:
        for b in episodes:
            batch = batch_of(policy, task, [a, b])
            agent = REINFORCE(policy, TextVectorEnv(task=task, num_envs=2), STILL, reference)
            for sum_, gradient in zip(total, gradient_of_update(agent, batch), strict=True):
                sum_ += batch.log_probs.sum().exp() * gradient
    assert_same(total, [g / 2 for g in exact(task)])


@pytest.mark.parametrize(
    ("baseline", "seed"),
    [pytest.param(b, s, marks=pytest.mark.nightly) for b in BASELINES for s in range(10)],
)
def test_reinforce_reaches_the_closed_form_optimum(baseline: Baseline, seed: int) -> None:
    config = REINFORCEConfig(
        **{**QUICK, "iterations": 800, "learning_rate": 5e-3, "epochs": 1, "minibatches": 1},
        baseline=baseline,
        seed=seed,
    )
    task, episodes, before, after = learn_in(seed, lambda policy, env: REINFORCE(policy, env, config))
    best = optimal_policy(before, task.reward(episodes).values, BETA)
    began, reached = total_variation(before, best), total_variation(after, best)
    print(f"REINFORCE, {baseline}, seed {seed}: total variation {began:.4f} -> {reached:.4f}")
    assert began > 0.1
    assert reached <= 0.01


# By hand


def columns(baseline: Baseline, past: float | None = None) -> tuple[REINFORCE, dict[str, Tensor], Metrics]:
    """Of two episodes: paid 1 and then 3; and 0, 0, 8, cut at the limit."""
    config = replace(STILL, baseline=baseline, kl_coef=0.0)
    agent = REINFORCE(small_policy(dtype=torch.float64), world(2), config)
    agent.moving_average = past
    batch = agent.collect()
    rewards = torch.tensor([[1.0, 3.0, 0.0], [0.0, 0.0, 8.0]]).double()
    lengths = torch.tensor([2, 3])
    values = torch.tensor([[2.0, 1.0, 0.0], [1.0, 0.0, -1.0]]).double()
    batch = replace(
        batch, rewards=rewards, lengths=lengths, values=values, log_probs=values * 0,
        scores=Rewards(np.array([4.0, 8.0])),
    )  # fmt: skip
    return agent, *columns_of_update(agent, batch)


def test_the_mean_of_the_batch_by_hand() -> None:
    _, found, metrics = columns("mean")
    assert found["advantages"].tolist() == [[4 - 6, 3 - 6, 0], [8 - 6, 8 - 6, 8 - 6]]
    assert metrics["baseline"] == 6


def test_the_moving_average_by_hand() -> None:
    agent, found, metrics = columns("moving_average", past=1.0)
    assert found["advantages"].tolist() == [[3, 2, 0], [7, 7, 7]]
    assert metrics["baseline"] == 1
    assert agent.moving_average == pytest.approx(0.9 * 1 + 0.1 * 6)
    agent, found, _ = columns("moving_average")  # there is no past yet
    assert agent.moving_average == pytest.approx(6)
    assert found["advantages"].tolist() == [[-2, -3, 0], [2, 2, 2]]


def test_the_critic_by_hand() -> None:
    _, found, metrics = columns("critic")
    assert found["returns"].tolist() == [[4, 3, 0], [8, 8, 8]]
    assert found["advantages"].tolist() == [[2, 2, 0], [7, 8, 9]]
    errors, spread = np.array([2, 2, 7, 8, 9]), np.var([4, 3, 8, 8, 8])
    assert metrics["explained_variance"] == pytest.approx(1 - np.mean(errors**2) / spread)


def test_the_critic_learns() -> None:
    batch = REINFORCE(small_policy(), world(), STILL).collect()
    losses = []
    for coefficient in (0.0, 1.0):
        config = REINFORCEConfig(baseline="critic", learning_rate=1e-2, warmup=0, value_coef=coefficient)
        agent = REINFORCE(small_policy(), world(), config)
        losses.append([agent.update(batch)["value_loss"] for _ in range(10)])
    assert losses[0][0] == losses[1][0]
    assert losses[1][-1] < losses[0][-1] / 2


def test_episodes_without_a_judgement_teach_nothing() -> None:
    agent = REINFORCE(small_policy(), world(4), replace(STILL, kl_coef=0.0))
    batch = agent.collect()
    scores = Rewards(np.array([1.0, 3.0, 0.0, 5.0]), abstained=np.array([False, False, True, False]))
    paid = torch.zeros_like(batch.rewards)
    paid[range(4), batch.lengths - 1] = torch.tensor([1.0, 3.0, 0.0, 5.0])
    found, metrics = columns_of_update(agent, replace(batch, scores=scores, rewards=paid))
    assert metrics["baseline"] == 3
    assert found["advantages"][:, 0].tolist() == [-2, 0, 2]


# Invariances


def test_a_constant_added_to_every_reward_changes_nothing() -> None:
    policy = small_policy(dtype=torch.float64)
    batch = REINFORCE(policy, world(), STILL).collect()
    more = batch.rewards.clone()
    more[range(len(more)), batch.lengths - 1] += 5.0
    first, second = (
        gradient_of_update(REINFORCE(policy, world(), STILL), b)
        for b in (batch, replace(batch, rewards=more))
    )
    assert_same(first, second)


@pytest.mark.parametrize("baseline", BASELINES)
def test_at_learning_rate_zero_nothing_moves(baseline: Baseline) -> None:
    logs: list[Metrics] = []
    config = replace(STILL, iterations=2, epochs=3, minibatches=4, baseline=baseline)
    REINFORCE(small_policy(), world(), config).learn(callback=lambda _, metrics: logs.append(metrics))
    assert len(logs) == 2
    for metrics in logs:
        assert metrics["updates"] == 12
        assert metrics["ratio_max"] == pytest.approx(1, abs=1e-5)
        assert metrics["clip_fraction"] == 0
        assert abs(metrics["kl"]) < 1e-5
        assert metrics["grad_norm"] > 0


@pytest.mark.parametrize("baseline", BASELINES)
def test_the_same_seed_gives_the_same_bits(baseline: Baseline) -> None:
    def run(seed: int) -> REINFORCE:
        config = REINFORCEConfig(iterations=2, learning_rate=1e-2, warmup=0, seed=seed, baseline=baseline)
        agent = REINFORCE(small_policy(), world(16), config)
        agent.learn()
        return agent

    first = list(run(0).policy.parameters())
    assert same_parameters(run(0).policy, first)
    assert not same_parameters(run(1).policy, first)


@pytest.mark.parametrize("wrong", [{"baseline": "none"}, {"decay": 1.0}, {"decay": -0.1}])
def test_settings_without_sense_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        REINFORCEConfig(**wrong)
