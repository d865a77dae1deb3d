"""Lab 3: PPO and the KL. Fill in the functions; `README.md` says what each has to be.

`B` texts, `T` tokens, `N` everything that a policy can write. Log-probabilities and KLs are in nats.
"""

from __future__ import annotations

import torch
from torch import Tensor


def kl_estimates(log_probs: Tensor, reference_log_probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Estimate KL(policy ‖ reference) from what the policy has written.

    Args:
        log_probs: Of what was drawn, under the policy that drew it; of any shape.
        reference_log_probs: Of the same under the reference policy.

    Returns:
        Schulman's k1, k2 and k3, of the inputs' shape.
    """
    # BEGIN SOLUTION
    log_ratio = reference_log_probs - log_probs  # log r with r = reference / policy
    return -log_ratio, log_ratio**2 / 2, log_ratio.exp() - 1 - log_ratio
    # END SOLUTION


def kl_rewards(
    rewards: Tensor, log_probs: Tensor, reference_log_probs: Tensor, mask: Tensor, beta: float
) -> Tensor:
    """Take the price of the KL off the reward of every token.

    Args:
        rewards: `(B, T)`, what the task pays; 0 on padding.
        log_probs: `(B, T)`, of the tokens; rubbish on padding.
        reference_log_probs: `(B, T)`, likewise, under the reference policy.
        mask: `(B, T)` bool.
        beta: β, what a nat costs.

    Returns:
        `(B, T)`, r_t − β k1 at every token, 0 on padding.
    """
    # BEGIN SOLUTION
    return (rewards - beta * (log_probs - reference_log_probs)) * mask
    # END SOLUTION


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """Compute generalised advantage estimates.

    Args:
        rewards: `(B, T)`; rubbish on padding.
        values: `(B, T)`, what a critic expects before each token; rubbish on padding.
        mask: `(B, T)` bool; a text is over after its last token, and nothing is earned there.
        gamma: γ.
        lam: λ.

    Returns:
        `(B, T)`, 0 on padding.
    """
    # BEGIN SOLUTION
    values = values * mask
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    deltas = (rewards + gamma * following - values) * mask
    found = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        running = deltas[:, t] + gamma * lam * running
        found[:, t] = running
    return found * mask
    # END SOLUTION


def whiten(x: Tensor, mask: Tensor) -> Tensor:
    """Scale numbers to mean 0 and standard deviation 1 over the tokens of a batch.

    Args:
        x: `(B, T)`; rubbish on padding.
        mask: `(B, T)` bool.

    Returns:
        `(B, T)`, 0 on padding. The standard deviation is the root of the mean squared distance from the mean.
    """
    # BEGIN SOLUTION
    mean = (x * mask).sum() / mask.sum()
    variance = ((x - mean) ** 2 * mask).sum() / mask.sum()
    return (x - mean) / variance.sqrt() * mask
    # END SOLUTION


def clipped_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, clip: float
) -> Tensor:
    """Compute PPO's loss of a minibatch.

    Args:
        log_probs: `(B, T)`, of the tokens as the policy is now, with gradients.
        old_log_probs: `(B, T)`, as it was when it wrote them.
        advantages: `(B, T)`.
        mask: `(B, T)` bool; there is rubbish in the others where it is False.
        clip: ε.

    Returns:
        A tensor of one number: the mean over the tokens of the minibatch.
    """
    # BEGIN SOLUTION
    ratio = (log_probs - old_log_probs).exp()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    surrogate = torch.minimum(ratio * advantages, clipped * advantages)
    return -surrogate[mask].sum() / mask.sum()
    # END SOLUTION


def optimal_policy(reference: Tensor, returns: Tensor, beta: float) -> Tensor:
    """Compute the policy that maximises the expected return less β times the KL to the reference.

    Args:
        reference: `(N,)`, probabilities of the texts under the reference policy.
        returns: `(N,)`.
        beta: β, above 0; it may be small.

    Returns:
        `(N,)`, probabilities.
    """
    # BEGIN SOLUTION
    return torch.softmax(reference.log() + returns / beta, dim=0)
    # END SOLUTION


def kl_objective(logits: Tensor, reference: Tensor, returns: Tensor, beta: float) -> Tensor:
    """Compute what is maximised, the expected return less β times the KL to the reference.

    Args:
        logits: `(N,)`, of the policy over texts, with gradients; its probabilities are their softmax.
        reference: `(N,)`, probabilities.
        returns: `(N,)`.
        beta: β.

    Returns:
        A tensor of one number.
    """
    # BEGIN SOLUTION
    log_probs = torch.log_softmax(logits, dim=0)
    return (log_probs.exp() * (returns - beta * (log_probs - reference.log()))).sum()
    # END SOLUTION
