"""Online DPO: its pairs and its loss by hand, and the optimum that RLHF has."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.agents.algorithms.test_ppo import world
from tests.small_models import small_policy
from tests.tiny_world import QUICK, learn_in
from text_gym.agents import Rollout, trajectory_log_probs
from text_gym.agents.algorithms.by_name import load_algorithm
from text_gym.agents.algorithms.online_dpo import OnlineDPO, OnlineDPOConfig, best_and_worst
from text_gym.errors import ConfigError
from text_gym.tasks.enumerable import total_variation

QUIET: dict[str, Any] = {"epochs": 1, "learning_rate": 0.0, "kl_coef": 0.5}


def played(agent: OnlineDPO, *returns: float) -> Rollout:
    batch = agent.collect()
    batch.rewards.zero_()
    batch.rewards[:, 0] = torch.tensor(returns, dtype=batch.rewards.dtype)
    return batch


def test_the_best_and_the_worst_of_each_prompt_are_a_pair() -> None:
    agent = OnlineDPO(small_policy(), world(12), OnlineDPOConfig(n=4, **QUIET))
    batch = played(agent, 0, 3, -2, 1, 5, 5, 5, 5, -1, -4, -1, -4)
    pairs, gaps = best_and_worst(batch, 4)
    assert pairs.tolist() == [[1, 2], [8, 9]]  # the second prompt's texts were all paid alike
    assert gaps.tolist() == [5.0, 3.0]


def test_texts_that_were_not_judged_are_in_no_pair() -> None:
    agent = OnlineDPO(small_policy(), world(8), OnlineDPOConfig(n=4, **QUIET))
    batch = played(agent, 9, 3, -2, 1, 2, 2, 3, -9)
    kept = batch.only(torch.tensor([False, True, True, True, True, True, True, False]))
    pairs, gaps = best_and_worst(kept, 4)
    episodes = [[kept.episodes[i] for i in pair] for pair in pairs.tolist()]
    expected = [[batch.episodes[1], batch.episodes[2]], [batch.episodes[6], batch.episodes[4]]]
    assert [[e.index for e in pair] for pair in episodes] == [[e.index for e in pair] for pair in expected]
    assert gaps.tolist() == [5.0, 1.0]


@pytest.mark.parametrize("labels", ["bradley_terry", "hard"])
def test_the_loss_is_that_of_dpo_with_the_labels_of_a_bradley_terry_rater(labels: str) -> None:
    """By hand from plain forward passes, against a reference that is another policy."""
    policy, reference = small_policy(dtype=torch.float64, seed=0), small_policy(dtype=torch.float64, seed=1)
    config = OnlineDPOConfig(**{"n": 2, "labels": labels, **QUIET})
    agent = OnlineDPO(policy, world(4), config, reference)
    batch = played(agent, 1.0, 0.25, -1.0, 1.5)
    metrics = agent.update(batch)
    losses = []
    for best, worst, gap in ((0, 1, 0.75), (3, 2, 2.5)):
        pair = [batch.episodes[best], batch.episodes[worst]]
        with torch.no_grad():
            ahead, behind = trajectory_log_probs(policy, pair) - trajectory_log_probs(reference, pair)
        margin = 0.5 * float(ahead - behind)
        p = 1 / (1 + math.exp(-gap)) if labels == "bradley_terry" else 1.0
        chance = 1 / (1 + math.exp(-margin))
        losses.append(-p * math.log(chance) - (1 - p) * math.log(1 - chance))
    assert metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-6)  # labels are of float32 returns
    assert metrics["pairs"] == 2
    assert metrics["reward_gap"] == pytest.approx((0.75 + 2.5) / 2)


def test_nothing_is_learnt_where_nothing_is_better() -> None:
    agent = OnlineDPO(small_policy(), world(8), OnlineDPOConfig(n=4, epochs=2))
    before = [p.detach().clone() for p in agent.policy.parameters()]
    metrics = agent.update(played(agent, *[1.0] * 8))
    assert metrics["updates"] == metrics["pairs"] == 0
    assert all(torch.equal(x, y) for x, y in zip(before, agent.policy.parameters(), strict=True))


def test_nothing_is_left_to_learn_where_the_policy_is_the_optimum_of_rlhf() -> None:
    """Returns are made β log π/π_ref: then π is π_ref exp(r/β), and the gradient of every pair is zero."""
    policy, reference = small_policy(dtype=torch.float64, seed=0), small_policy(dtype=torch.float64, seed=1)
    agent = OnlineDPO(policy, world(8), OnlineDPOConfig(n=4, **QUIET), reference)
    batch = agent.collect()
    with torch.no_grad():
        ratio = trajectory_log_probs(policy, batch.episodes) - trajectory_log_probs(reference, batch.episodes)
    batch.rewards.zero_()
    batch.rewards[:, 0] = 0.5 * ratio
    found = agent.update(batch)
    assert found["pairs"] == 2
    assert found["grad_norm"] < 1e-5
    batch.rewards[:, 0] = 0.25 * ratio
    assert agent.update(batch)["grad_norm"] > 1e-2


@pytest.mark.parametrize("seed", [pytest.param(s, marks=pytest.mark.nightly) for s in range(3)])
def test_it_reaches_the_optimum_of_rlhf(seed: int) -> None:
    """π_ref exp(r/β), summed over all texts of an enumerable task."""
    settings = {**QUICK, "kl_coef": 0.5, "epochs": 1, "n": 8, "seed": seed}
    config = OnlineDPOConfig(**settings)
    task, episodes, before, after = learn_in(
        seed, lambda policy, env: OnlineDPO(policy, env, config), num_envs=512
    )
    optimum = before * np.exp(task.reward(episodes).values / 0.5)
    optimum /= optimum.sum()
    began, reached = total_variation(before, optimum), total_variation(after, optimum)
    print(f"online DPO, seed {seed}: total variation {began:.4f} -> {reached:.4f}")
    assert reached < 0.25 * began


def test_settings_that_make_no_sense_are_refused() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"kl_coef": 0.0}, "above 0"),
        ({"kl_target": 1.0}, "kl_target"),
        ({"n": 1}, "at least 2"),
        ({"labels": "soft"}, "bradley_terry or hard"),
        ({"epochs": 0}, "at least 1"),
    ]
    for settings, said in wrong:
        with pytest.raises(ConfigError, match=said):
            OnlineDPOConfig(**settings)


def test_the_command_line_finds_it_by_its_place() -> None:
    assert load_algorithm("text_gym.agents.algorithms.online_dpo:OnlineDPO") is OnlineDPO
