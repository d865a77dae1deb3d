"""The enumerable world as an oracle: expectations as sums over all trajectories, distances of policies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tests.small_models import small_policy
from text_gym import Episode, Task, TextVectorEnv, load_task
from text_gym.agents import Agent, Policy, Rollout, trajectory_log_probs
from text_gym.agents.algorithms.policy_gradient import PolicyGradient
from text_gym.agents.training.metrics import Metrics
from text_gym.tasks.enumerable import trajectories

Floats = npt.NDArray[np.float64]
BETA = 0.5
# Large enough steps for the closed forms to be reached within seconds
QUICK: dict[str, Any] = {
    "iterations": 400,
    "learning_rate": 2e-3,  # at 5e-3 some seeds lose a good trajectory for ever
    "warmup": 0,
    "epochs": 2,
    "minibatches": 2,
    "kl_coef": BETA,
}


def pair(task: Task) -> tuple[Policy, Policy]:
    """Two different policies in float64; the second is to be the reference of the first."""
    kwargs: dict[str, Any] = {"tokenizer": task.tokenizer, "dtype": torch.float64, "initializer_range": 0.2}
    return small_policy(seed=1, **kwargs), small_policy(seed=2, **kwargs).frozen()


def batch_of(policy: Policy, task: Task, episodes: Sequence[Episode]) -> Rollout:
    """These episodes as if the policy had just played them."""
    tokens = torch.full((len(episodes), 1 + task.max_tokens), task.tokenizer.pad_id)
    for row, e in zip(tokens, episodes, strict=True):
        row[: 1 + len(e.completion_ids)] = torch.tensor([*e.prompt_ids, *e.completion_ids])
    starts = torch.ones(len(episodes), dtype=torch.int64)
    lengths = torch.tensor([len(e.completion_ids) for e in episodes])
    with torch.no_grad():
        said = policy.evaluate(tokens, starts, lengths)
    scores = task.reward(episodes)
    rewards = torch.zeros_like(said.values)
    rewards[range(len(episodes)), lengths - 1] = torch.from_numpy(scores.values).to(rewards.dtype)
    columns = (said.log_probs, said.values, rewards, torch.zeros(len(episodes), dtype=torch.bool))
    return Rollout(tokens, starts, lengths, *columns, list(episodes), scores)


def exact_gradient(
    policy: Policy, objective: Callable[[Tensor], Tensor], episodes: Sequence[Episode]
) -> list[Tensor]:
    """Of any objective of the trajectories' log-probabilities `(N,)`, by automatic differentiation."""
    value = objective(trajectory_log_probs(policy, episodes))
    gradient = torch.autograd.grad(value, list(policy.model.parameters()))
    assert max(float(g.abs().max()) for g in gradient) > 1e-3
    return list(gradient)


def gradient_of_update(agent: Agent[Any], batch: Rollout, weights: Tensor | None = None) -> list[Tensor]:
    """Upwards, of an update in one step that is not taken.

    Args:
        agent: Has one epoch of one minibatch.
        batch: `B` episodes.
        weights: `(B,)`, a factor on each episode's advantage: the loss is linear in them.
    """
    taken: list[list[Tensor]] = []

    def apply_gradients() -> float:
        gradients = [p.grad for p in agent.policy.model.parameters()]
        taken.append([-g for g in gradients if g is not None])
        assert len(taken[-1]) == len(gradients)
        return 0.0

    vars(agent)["apply_gradients"] = apply_gradients
    if weights is not None:
        assert isinstance(agent, PolicyGradient)
        original = agent.gradient

        def gradient(batch: Rollout, rows: Tensor, old: dict[str, Tensor]) -> Metrics:
            return original(batch, rows, {**old, "advantages": old["advantages"] * weights[:, None]})

        vars(agent)["gradient"] = gradient
    agent.update(batch)
    assert len(taken) == 1
    return taken[0]


def columns_of_update(agent: Agent[Any], batch: Rollout) -> tuple[dict[str, Tensor], Metrics]:
    """What the loss of an update is told of each token, `(B, T)` by name, and the update's metrics.

    No gradient is computed and no step taken.
    """
    seen: list[dict[str, Tensor]] = []

    def gradient(batch: Rollout, rows: Tensor, old: dict[str, Tensor]) -> Metrics:
        seen.append(old)
        return {}

    vars(agent).update(gradient=gradient, apply_gradients=lambda: 0.0)
    metrics = agent.update(batch)
    return seen[0], metrics


def every_pair(policy: Policy, task: Task) -> tuple[Rollout, Tensor, list[Episode]]:
    """All groups of two trajectories, and weights that make their mean loss the expected one.

    Returns:
        A batch of `2 N²` episodes, `(2 N²,)` probabilities of their groups times `N²`, the `N` trajectories.
    """
    episodes = trajectories(task)
    batch = batch_of(policy, task, [e for a in episodes for b in episodes for e in (a, b)])
    p = batch.log_probs.sum(dim=1).exp()
    return batch, (p[0::2] * p[1::2]).repeat_interleave(2) * len(p) / 2, episodes


def assert_same(found: Sequence[Tensor], expected: Sequence[Tensor], atol: float = 1e-10) -> None:
    assert max(float(g.abs().max()) for g in expected) > 1e-4
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=atol), float((ours - theirs).abs().max())


def learn_in(
    seed: int,
    make: Callable[[Policy, TextVectorEnv], Agent[Any]],
    num_envs: int = 256,
    task: Task | None = None,
) -> tuple[Task, list[Episode], Floats, Floats]:
    """Let an agent learn from scratch; task, trajectories, and their probabilities before and after."""
    task = task or load_task("enumerable", seed=seed)
    policy = Policy.new(task.tokenizer, width=32, layers=1, heads=2, context=8, seed=seed, device="cpu")
    env = TextVectorEnv(task=task, num_envs=num_envs)
    agent = make(policy, env)
    episodes = trajectories(task)

    def distribution() -> Floats:
        probs: Floats = trajectory_log_probs(policy, episodes).detach().double().exp().numpy()
        return probs

    before = distribution()
    agent.learn()
    return task, episodes, before, distribution()
