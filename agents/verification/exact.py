"""Exact quantities of a policy on a task small enough to list: log-probabilities and policy gradients.

They come from the model's own forward pass, without the sampler, the caches and the kernels of training, so
that these can be held against them. Closed forms that need no network are in `text_gym.tasks.enumerable`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from text_gym.agents.policies.policy import Policy
from text_gym.episode import Episode, FloatArray
from text_gym.errors import ConfigError


def trajectory_log_probs(policy: Policy, episodes: Sequence[Episode], *, temperature: float = 1.0) -> Tensor:
    """The log-probability that a policy writes each of these completions, end included, with gradients.

    `trajectory_log_probs(policy, trajectories(task)).exp()` is the policy as a distribution over everything
    it can write; its product with the rewards is the exact expected return.

    Args:
        policy: Who would write; its tokens are drawn without an action mask.
        episodes: `N` finished episodes; a text that the token limit cut has no end to pay for. In
            conversations it is the agent's own tokens that have a probability.
        temperature: Of the distribution that tokens are drawn from.

    Returns:
        `(N,)`, nats, in the policy's own precision (`policy.double()` gives float64).

    >>> from text_gym import load_task
    >>> from text_gym.tasks.enumerable import trajectories
    >>> task = load_task("enumerable")
    >>> policy = Policy.new(task.tokenizer, width=16, layers=1, heads=2, context=8, device="cpu")
    >>> round(float(trajectory_log_probs(policy, trajectories(task)).exp().sum()), 4)
    1.0
    """
    texts = [np.concatenate([e.prompt_ids, e.completion_ids]) for e in episodes]
    tokens = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.int64)
    written = torch.zeros(tokens.shape, dtype=torch.bool)
    for row, (text, episode) in enumerate(zip(texts, episodes, strict=True)):
        tokens[row, : len(text)] = torch.from_numpy(text)
        own = True if episode.agent_mask is None else torch.from_numpy(episode.agent_mask)
        written[row, len(episode.prompt_ids) : len(text)] = own
    tokens, written = tokens.to(policy.device), written.to(policy.device)
    # Causal attention never looks at what stands to the right of a text, so padding needs no mask here.
    logits = policy.model(input_ids=tokens, use_cache=False).logits[:, :-1, : policy.vocab_size]
    log_probs = torch.log_softmax(logits / temperature, dim=-1)
    taken = log_probs.gather(2, tokens[:, 1:, None])[..., 0]
    return (taken * written[:, 1:]).sum(dim=1)


def exact_policy_gradient(
    policy: Policy,
    episodes: Sequence[Episode],
    rewards: FloatArray,
    *,
    reference: Policy | None = None,
    beta: float = 0.0,
    temperature: float = 1.0,
) -> dict[str, Tensor]:
    """The gradient of the expected reward less `beta` times the KL to the reference, without sampling.

    It is the sum over all trajectories of probability times (reward − β log π/π_ref) times the gradient of
    log π (Williams 1992). Weights need not be rewards: `expected_group_advantages` gives GRPO's direction.

    Args:
        policy: π; its tokens are drawn without an action mask.
        episodes: All `N` trajectories of one prompt, as `trajectories(task)` lists them.
        rewards: `(N,)` float64, of the trajectories.
        reference: π_ref; not needed where `beta` is 0.
        beta: β, weight of the KL, in reward per nat.
        temperature: Of the distribution that tokens are drawn from, by both policies.

    Returns:
        Name of each trained parameter that has a part in it -> its gradient, upwards.

    Raises:
        ConfigError: The episodes are not all that the policy can write, or β has no reference.

    >>> from text_gym import load_task
    >>> from text_gym.tasks.enumerable import trajectories
    >>> task = load_task("enumerable")
    >>> policy = Policy.new(task.tokenizer, width=16, layers=1, heads=2, context=8, device="cpu")
    >>> every = trajectories(task)
    >>> len(exact_policy_gradient(policy, every, task.reward(every).values)) > 10
    True
    """
    if beta and reference is None:
        raise ConfigError(f"beta is {beta}; pass the reference policy that the KL is measured to")
    log_probs = trajectory_log_probs(policy, episodes, temperature=temperature)
    with torch.no_grad():
        probabilities = log_probs.exp()
        total = float(probabilities.sum())
        if abs(total - 1) > 1e-3:
            raise ConfigError(
                f"the episodes have probability {total:.4f} together; pass every trajectory of one prompt "
                "once, as trajectories(task) lists them"
            )
        weights = torch.as_tensor(rewards).to(log_probs)
        if reference is not None and beta:
            said = trajectory_log_probs(reference, episodes, temperature=temperature)
            weights = weights - beta * (log_probs - said)
    trained = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    value = (probabilities * weights * log_probs).sum()
    gradients = torch.autograd.grad(value, list(trained.values()), allow_unused=True)
    return {name: g for name, g in zip(trained, gradients, strict=True) if g is not None}
