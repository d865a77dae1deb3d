from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.agents.algorithms.test_ppo import said, world
from tests.small_models import same_parameters, small_policy
from tests.tiny_world import (
    BETA,
    QUICK,
    assert_same,
    every_pair,
    gradient_of_update,
    learn_in,
    pair,
)
from text_gym import TextVectorEnv, load_task
from text_gym.agents import RLOO, RLOOConfig, exact_policy_gradient
from text_gym.agents.algorithms.policy_gradient import Part
from text_gym.agents.algorithms.rloo import leave_one_out
from text_gym.agents.training.metrics import Metrics
from text_gym.errors import ConfigError
from text_gym.tasks.enumerable import optimal_policy, total_variation

STILL = RLOOConfig(
    iterations=1, learning_rate=0.0, warmup=0, kl_coef=BETA, epochs=1, minibatches=1, group_size=2
)


def doubles(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


ALL = torch.ones(1, 4, dtype=torch.bool)


# The advantages


def test_advantages_by_hand() -> None:
    found = leave_one_out(doubles([1, 2, 6, 3]), ALL)
    assert found.tolist() == [pytest.approx([1 - 11 / 3, 2 - 10 / 3, 6 - 2, 3 - 3])]
    partly = leave_one_out(doubles([1, 2, 600, 3]), torch.tensor([[True, True, False, True]]))
    assert partly.tolist() == [pytest.approx([-1.5, 0, 0, 1.5])]
    alone = leave_one_out(doubles([1, 2, 6, 3]), torch.tensor([[True, False, False, False]]))
    assert alone.tolist() == [[0, 0, 0, 0]]


Groups = st.integers(2, 6).flatmap(
    lambda k: st.lists(st.lists(st.floats(-100, 100), min_size=k, max_size=k), min_size=1, max_size=4)
)


@given(Groups, st.floats(-100, 100), st.randoms())
def test_groups_sum_to_zero_and_ignore_a_constant(rows: list[list[float]], c: float, random: Any) -> None:
    returns = doubles(*rows)
    judged = torch.tensor([[random.random() < 0.8 for _ in row] for row in rows])
    found = leave_one_out(returns, judged)
    assert torch.allclose(found.sum(dim=1), torch.zeros(len(rows)).double(), atol=1e-10)
    assert torch.allclose(leave_one_out(returns + c, judged), found, rtol=0, atol=1e-10)
    assert not found[~judged].any()


# The enumerable world


def test_the_expected_first_step_is_the_exact_policy_gradient() -> None:
    """Of E[r] - β KL(policy ‖ reference), over all groups of two trajectories."""
    task = load_task("enumerable")
    policy, reference = pair(task)
    batch, weights, episodes = every_pair(policy, task)
    agent = RLOO(policy, TextVectorEnv(task=task, num_envs=2), STILL, reference)
    found = gradient_of_update(agent, batch, weights)
    rewards = task.reward(episodes).values
    exact = exact_policy_gradient(policy, episodes, rewards, reference=reference, beta=BETA)
    assert_same(found, list(exact.values()))


@pytest.mark.parametrize("seed", [pytest.param(s, marks=pytest.mark.nightly) for s in range(10)])
def test_rloo_reaches_the_closed_form_optimum(seed: int) -> None:
    config = RLOOConfig(**QUICK, group_size=8, seed=seed)
    task, episodes, before, after = learn_in(seed, lambda policy, env: RLOO(policy, env, config))
    best = optimal_policy(before, task.reward(episodes).values, BETA)
    began, reached = total_variation(before, best), total_variation(after, best)
    print(f"RLOO, seed {seed}: total variation {began:.4f} -> {reached:.4f}")
    assert began > 0.1
    assert reached <= 0.01


# The loss


def test_the_ratio_is_that_of_the_whole_completion() -> None:
    agent = RLOO(small_policy(), world(4), replace(STILL, clip=0.2))
    mask = torch.tensor([[True, True], [True, False], [True, True]])
    now = said([0.0, 0.0], [0.0, 0.0])._replace(log_probs=doubles([1.3, 1.0], [0.5, 9.0], [0.8, 0.5]).log())
    old = {"log_probs": torch.zeros(3, 2).double(), "reference": torch.zeros(3, 2).double()}
    old["advantages"] = doubles([1, 1], [3, 0], [-1, -1]) * mask
    loss, metrics = agent.loss(now, old, Part.whole(mask))
    # 1.3 is cut at 1.2, paid 1 at both tokens; 0.5 earns 3 · 0.5; 0.4 with a negative advantage is cut at 0.8
    assert float(loss) == pytest.approx(-(2 * 1.2 + 1.5 - 2 * 0.8) / 3)
    assert metrics["clip_fraction"] == 1
    assert metrics["ratio_max"] == pytest.approx(1.3)


def test_a_constant_added_to_every_reward_changes_nothing() -> None:
    policy = small_policy(dtype=torch.float64)
    batch = RLOO(policy, world(), STILL).collect()
    more = batch.rewards.clone()
    more[range(len(more)), batch.lengths - 1] += 5.0
    first, second = (
        gradient_of_update(RLOO(policy, world(), STILL), b) for b in (batch, replace(batch, rewards=more))
    )
    assert_same(first, second)


def test_at_learning_rate_zero_nothing_moves_in_any_epoch() -> None:
    logs: list[Metrics] = []
    config = replace(STILL, iterations=2, epochs=3, minibatches=4, group_size=4)
    RLOO(small_policy(), world(), config).learn(callback=lambda _, metrics: logs.append(metrics))
    assert len(logs) == 2
    for metrics in logs:
        assert metrics["updates"] == 12
        assert metrics["ratio_max"] == pytest.approx(1, abs=1e-5)
        assert metrics["clip_fraction"] == 0
        assert abs(metrics["approx_kl"]) < 1e-9
        assert abs(metrics["kl"]) < 1e-5
        assert metrics["grad_norm"] > 0


# Groups


def test_groups_share_a_prompt() -> None:
    agent = RLOO(small_policy(), world(12), replace(STILL, group_size=4))
    assert agent.env.batch.group_size == 4
    agent.learn(1)
    prompts = np.array([e.prompt.text for e in agent.collect().episodes]).reshape(3, 4)
    assert (prompts == prompts[:, :1]).all()
    agent.env.batch.group_size = 1
    with pytest.raises(ConfigError, match="groups of 4 episodes that share a prompt"):
        agent.learn(1)


@pytest.mark.parametrize("size", [1, 5])
def test_rows_that_make_no_groups_are_refused(size: int) -> None:
    with pytest.raises(
        ConfigError, match=f"group_size.*{size}" if size == 1 else "num_envs=12.*group_size=5"
    ):
        RLOO(small_policy(), world(12), replace(STILL, group_size=size))


def test_the_same_seed_gives_the_same_bits() -> None:
    def run(seed: int) -> RLOO:
        config = RLOOConfig(iterations=2, learning_rate=1e-2, warmup=0, seed=seed)
        agent = RLOO(small_policy(), world(16), config)
        agent.learn()
        return agent

    first = list(run(0).policy.parameters())
    assert same_parameters(run(0).policy, first)
    assert not same_parameters(run(1).policy, first)
