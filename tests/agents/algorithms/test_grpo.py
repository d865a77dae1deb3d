from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from torch import Tensor

from tests.agents.algorithms.test_ppo import said, world
from tests.small_models import same_parameters, small_policy
from tests.tiny_world import (
    BETA,
    QUICK,
    Floats,
    assert_same,
    every_pair,
    exact_gradient,
    gradient_of_update,
    learn_in,
    pair,
)
from text_gym import Task, TextVectorEnv, load_task
from text_gym.agents import GRPO, GRPOConfig, trajectory_log_probs
from text_gym.agents.algorithms.grpo import group_advantages
from text_gym.agents.algorithms.policy_gradient import Part
from text_gym.agents.training.metrics import Metrics
from text_gym.errors import ConfigError
from text_gym.tasks.enumerable import optimal_policy, total_variation, trajectories

STILL = GRPOConfig(
    iterations=1, learning_rate=0.0, warmup=0, kl_coef=BETA, epochs=1, minibatches=1, group_size=2
)
DR_GRPO: dict[str, Any] = {"length_normalisation": "constant", "std_normalisation": False}
IN_REWARD: dict[str, Any] = {"kl_in": "reward", "kl_estimator": "k1"}


def doubles(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# The advantages


def test_advantages_by_hand() -> None:
    every = torch.ones(1, 4, dtype=torch.bool)
    returns = doubles([2, 4, 4, 6])  # mean 4, variance (4 + 0 + 0 + 4) / 4
    assert group_advantages(returns, every).tolist() == [pytest.approx([-(2**0.5), 0, 0, 2**0.5])]
    assert group_advantages(returns, every, std=False).tolist() == [[-2, 0, 0, 2]]
    partly = group_advantages(doubles([2, 999, 4, 6]), torch.tensor([[True, False, True, True]]), std=False)
    assert partly.tolist() == [pytest.approx([-2, 0, 0, 2])]
    tenths = torch.full((1, 3), 0.1).double()
    assert not group_advantages(tenths, torch.ones(1, 3, dtype=torch.bool)).any()


def test_each_group_has_its_own_mean_and_deviation() -> None:
    returns = doubles([0, 2, 0, 2], [10, 10, 40, 40], [-7, -7, -7, 5])  # deviations 1, 15 and 27 ** 0.5
    there = torch.ones(3, 4, dtype=torch.bool)
    there[2, 3] = False
    alone = [[-1, 1, -1, 1], [-1, -1, 1, 1], [0, 0, 0, 0]]
    assert group_advantages(returns, there).tolist() == [pytest.approx(row) for row in alone]
    means = [[-1, 1, -1, 1], [-15, -15, 15, 15], [0, 0, 0, 0]]
    assert group_advantages(returns, there, std=False).tolist() == means


@pytest.mark.parametrize("size", [3, 5, 7, 11, 64])
def test_equal_returns_carry_no_preference_however_their_mean_is_rounded(size: int) -> None:
    for value in (0.1, 0.3, 1 / 3, 1e6 + 0.1):
        returns = torch.full((1, size), value)
        assert not group_advantages(returns, torch.ones(1, size, dtype=torch.bool)).any()


def test_the_kl_in_the_loss_has_a_gradient() -> None:
    """Of k3 = q/p − 1 + log p/q it is 1 − q/p, of the log-probability as it is now."""
    agent = GRPO(small_policy(), world(4), replace(STILL, length_normalisation="token"))
    log_probs = doubles([-1.0, -2.0, -3.0]).requires_grad_()
    now = said([0.0] * 3, [0.0] * 3)._replace(log_probs=log_probs)
    old = {"log_probs": doubles([-1.5, -1.5, -1.5]), "reference": doubles([-2.0, -2.0, -1.0])}
    old["advantages"] = doubles([0, 0, 0])
    loss, _ = agent.loss(now, old, Part.whole(torch.ones(1, 3, dtype=torch.bool)))
    loss.backward()
    assert log_probs.grad is not None
    expected = [BETA * (1 - math.exp(q - p)) / 3 for p, q in ((-1, -2), (-2, -2), (-3, -1))]
    assert log_probs.grad[0].tolist() == pytest.approx(expected)


Rows = st.lists(st.integers(-50, 50).map(lambda n: n / 8), min_size=2, max_size=8)


@given(Rows, st.floats(-100, 100))
def test_mean_zero_deviation_one_and_a_constant_ignored(row: list[float], c: float) -> None:
    returns, every = doubles(row), torch.ones(1, len(row), dtype=torch.bool)
    found = group_advantages(returns, every)[0].numpy()
    assert np.mean(found) == pytest.approx(0, abs=1e-10)
    assert np.std(found) == pytest.approx(0 if len(set(row)) == 1 else 1, abs=1e-10)
    assert group_advantages(returns + c, every)[0].numpy() == pytest.approx(found, abs=1e-9)


# The enumerable world: expected gradients over all groups of two trajectories


def expected_step(
    task: Task, objective: Callable[[Tensor, Tensor, Tensor], Tensor], **changes: Any
) -> tuple[list[Tensor], list[Tensor]]:
    """Of GRPO's expected step, and of an objective of log p, log q and r of all trajectories."""
    policy, reference = pair(task)
    batch, weights, episodes = every_pair(policy, task)
    agent = GRPO(policy, TextVectorEnv(task=task, num_envs=2), replace(STILL, **changes), reference)
    found = gradient_of_update(agent, batch, weights)
    rewards = torch.from_numpy(task.reward(episodes).values)
    with torch.no_grad():
        log_q = trajectory_log_probs(reference, episodes)
    return found, exact_gradient(policy, lambda log_p: objective(log_p, log_q, rewards), episodes)


def test_dr_grpo_follows_the_exact_policy_gradient() -> None:
    """Of E[r] - β KL, times (k - 1)/k for a mean that includes oneself, over the token limit."""
    task = load_task("enumerable")
    found, exact = expected_step(
        task,
        lambda log_p, log_q, r: (log_p.exp() * (r - BETA * (log_p - log_q))).sum() / 2 / task.max_tokens,
        **DR_GRPO,
        **IN_REWARD,
    )
    assert_same(found, exact)


def test_with_two_texts_a_group_standardised_grpo_raises_the_win_rate() -> None:
    """Standardised, two returns are -1 and 1 whatever they were: it is no gradient of E[r]."""
    task = load_task("enumerable")

    def win_rate(log_p: Tensor, _: Tensor, r: Tensor) -> Tensor:
        p = log_p.exp()
        return p @ torch.sign(r[:, None] - r) @ p.detach() / task.max_tokens

    found, exact = expected_step(task, win_rate, **{**DR_GRPO, "std_normalisation": True}, kl_coef=0.0)
    assert_same(found, exact)


def test_as_published_long_texts_count_less_per_token() -> None:
    task = load_task("enumerable")
    lengths = torch.tensor([len(e.completion_ids) for e in trajectories(task)])

    def objective(log_p: Tensor, _: Tensor, r: Tensor) -> Tensor:
        p = log_p.detach().exp()
        advantages = (r - p @ r) / 2
        # what the others' mean is worth does not vanish when tokens of short texts weigh more
        return (p * advantages / lengths * log_p).sum()

    found, exact = expected_step(task, objective, std_normalisation=False, kl_coef=0.0)
    assert_same(found, exact)


# Fixed points


def learnt(seed: int, **settings: Any) -> tuple[Task, Floats, Floats]:
    config = GRPOConfig(**{**QUICK, "group_size": 8, "seed": seed, **settings})
    task, _, before, after = learn_in(seed, lambda policy, env: GRPO(policy, env, config))
    return task, before, after


def rewards_of(task: Task) -> Floats:
    return task.reward(trajectories(task)).values


@pytest.mark.parametrize("variant", [{}, DR_GRPO, {"length_normalisation": "token"}])
@pytest.mark.parametrize("seed", [pytest.param(s, marks=pytest.mark.nightly) for s in range(10)])
def test_with_the_kl_in_the_reward_every_variant_reaches_the_closed_form(
    seed: int, variant: dict[str, Any]
) -> None:
    task, before, after = learnt(seed, **variant, **IN_REWARD)
    best = optimal_policy(before, rewards_of(task), BETA)
    print(f"GRPO {variant}, seed {seed}: total variation {total_variation(after, best):.4f}")
    assert total_variation(after, best) <= 0.01


@pytest.mark.nightly
def test_dr_grpo_with_the_kl_in_the_reward_reaches_the_closed_form() -> None:
    task, before, after = learnt(0, **DR_GRPO, **IN_REWARD)
    best = optimal_policy(before, rewards_of(task), BETA)
    assert total_variation(before, best) > 0.1
    assert total_variation(after, best) <= 0.01


def fixed_point_with_kl_in_loss(task: Task, reference: Floats, beta: float, estimator: str) -> Floats:
    """By backward induction: at every state the KL of that state's token alone weighs against the rewards.

    k2 has the gradient of KL(p ‖ q), and p = q·exp(Q/β)/Z. k3 has that of KL(q ‖ p), and p = β·q/(λ - Q)
    with λ such that p sums to 1. Q is the reward to come, without the KL to come.
    """
    rewards = dict(zip((tuple(e.completion_ids) for e in trajectories(task)), rewards_of(task), strict=True))
    mass = dict(zip(rewards, reference, strict=True))
    probs = dict.fromkeys(rewards, 1.0)

    def value(state: tuple[int, ...]) -> float:
        if state in rewards:
            return float(rewards[state])
        following = [(*state, token) for token in range(task.tokenizer.vocab_size)]
        q_values = np.array([value(s) for s in following])
        q = np.array([sum(m for t, m in mass.items() if t[: len(s)] == s) for s in following])
        q /= q.sum()
        if estimator == "k2":
            p = q * np.exp((q_values - q_values.max()) / beta)
            p /= p.sum()
        else:
            top = q_values.max()
            excess = brentq(
                lambda x: (beta * q / (top + x - q_values)).sum() - 1, 1e-9, beta + np.ptp(q_values)
            )
            p = beta * q / (top + excess - q_values)
        for s, share in zip(following, p, strict=True):
            for t in probs:
                if t[: len(s)] == s:
                    probs[t] *= share
        return float(p @ q_values)

    value(())
    return np.array(list(probs.values()))


@pytest.mark.parametrize(
    ("estimator", "seed"),
    [
        pytest.param(estimator, seed, marks=pytest.mark.nightly)
        for estimator in ("k2", "k3")
        for seed in range(6)
    ],
)
def test_with_the_kl_in_the_loss_it_converges_elsewhere(estimator: str, seed: int) -> None:
    task, before, after = learnt(seed, **DR_GRPO, kl_in="loss", kl_estimator=estimator)
    best = optimal_policy(before, rewards_of(task), BETA)
    own = fixed_point_with_kl_in_loss(task, before, BETA * 8 / 7, estimator)  # rewards count (k - 1)/k
    print(
        f"GRPO, KL as {estimator} in the loss, seed {seed}: total variation to its own fixed point "
        f"{total_variation(after, own):.4f}, to the closed form {total_variation(after, best):.4f}"
    )
    assert own.sum() == pytest.approx(1)
    assert total_variation(own, best) > 0.02
    assert total_variation(after, own) <= 0.01


# The loss by hand


MASK = torch.tensor([[True, True, True, True], [True, True, False, False]])


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("sequence", ((1 + 2 + 3 + 4) / 4 + (5 + 6) / 2) / 2),
        ("token", (1 + 2 + 3 + 4 + 5 + 6) / 6),
        ("constant", (1 + 2 + 3 + 4 + 5 + 6) / 2 / 8),
    ],
)
def test_length_normalisation_by_hand(how: Any, expected: float) -> None:
    agent = GRPO(small_policy(), world(4, max_tokens=8), replace(STILL, length_normalisation=how))
    x = doubles([1, 2, 3, 4], [5, 6, 99, 99])
    assert float(agent.average(x, Part.whole(MASK))) == pytest.approx(expected)


def test_clip_higher_by_hand() -> None:
    agent = GRPO(small_policy(), world(4), replace(STILL, clip=0.2, clip_higher=0.5, kl_coef=0.0))
    now = said([0.0] * 4, [0.0] * 4)._replace(log_probs=doubles([1.4, 1.6, 0.5, 0.5]).log())
    old = {"log_probs": torch.zeros(1, 4).double(), "reference": torch.zeros(1, 4).double()}
    old["advantages"] = doubles([1, 1, 1, -1])
    loss, metrics = agent.loss(now, old, Part.whole(torch.ones(1, 4, dtype=torch.bool)))
    assert float(loss) == pytest.approx(-(1.4 + 1.5 + 0.5 - 0.8) / 4)
    assert metrics["clip_fraction"] == 0.75


def test_the_kl_in_the_loss_by_hand() -> None:
    agent = GRPO(small_policy(), world(4), STILL)
    log_probs = doubles([-1.0, -2.0, -3.0, -1.0], [-1.0, -1.0, 0.0, 0.0])
    now = said([0.0] * 4, [0.0] * 4)._replace(log_probs=log_probs)
    gap = doubles([0.0, 1.0, -1.0, 0.0], [0.5, 0.0, 9.0, 9.0])  # log policy - log reference
    old = {"log_probs": log_probs, "reference": log_probs - gap, "advantages": torch.zeros(2, 4).double()}
    loss, _ = agent.loss(now, old, Part.whole(MASK))
    e = np.e
    first = (0 + (1 / e - 1 + 1) + (e - 1 - 1) + 0) / 4
    second = (e**-0.5 - 1 + 0.5) / 2
    assert float(loss) == pytest.approx(BETA * (first + second) / 2)


def test_a_constant_added_to_every_reward_changes_nothing() -> None:
    policy = small_policy(dtype=torch.float64)
    reference = small_policy(seed=9, dtype=torch.float64).frozen()
    batch = GRPO(policy, world(), STILL, reference).collect()
    more = batch.rewards.clone()
    more[range(len(more)), batch.lengths - 1] += 5.0
    first, second = (
        gradient_of_update(GRPO(policy, world(), STILL, reference), b)
        for b in (batch, replace(batch, rewards=more))
    )
    assert_same(first, second, 1e-9)


def test_at_learning_rate_zero_nothing_moves_in_any_epoch() -> None:
    logs: list[Metrics] = []
    config = replace(STILL, iterations=2, epochs=3, minibatches=4, group_size=4)
    GRPO(small_policy(), world(), config).learn(callback=lambda _, metrics: logs.append(metrics))
    assert len(logs) == 2
    for metrics in logs:
        assert metrics["updates"] == 12
        assert metrics["ratio_max"] == pytest.approx(1, abs=1e-5)
        assert metrics["clip_fraction"] == 0
        assert abs(metrics["approx_kl"]) < 1e-9
        assert abs(metrics["kl"]) < 1e-5
        assert metrics["grad_norm"] > 0


def test_the_same_seed_gives_the_same_bits() -> None:
    def run(seed: int) -> GRPO:
        config = GRPOConfig(iterations=2, learning_rate=1e-2, warmup=0, seed=seed)
        agent = GRPO(small_policy(), world(16), config)
        agent.learn()
        return agent

    first = list(run(0).policy.parameters())
    assert same_parameters(run(0).policy, first)
    assert not same_parameters(run(1).policy, first)


def test_settings_without_sense_are_named() -> None:
    wrongs: list[dict[str, Any]] = [
        {"length_normalisation": "none"},
        {"clip_higher": 0.0},
        {"kl_estimator": "k1"},
    ]
    for wrong in wrongs:
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            GRPOConfig(**wrong)
    with pytest.raises(ConfigError, match=r"num_envs=12.*group_size=8"):
        GRPO(small_policy(), world(12))
