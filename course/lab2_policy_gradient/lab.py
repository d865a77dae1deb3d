"""Lab 2: the policy gradient. Fill in the functions; `README.md` says what each has to be.

`B` texts, `T` tokens, `N` everything that a policy can write, `D` weights. Log-probabilities are in nats.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rewards_to_go(rewards: Tensor) -> Tensor:
    """Add up, for every token, its own reward and all that come after it.

    Args:
        rewards: `(B, T)`, 0 after a text's end.

    Returns:
        `(B, T)`.
    """
    # BEGIN SOLUTION
    return rewards.flip(1).cumsum(1).flip(1)
    # END SOLUTION


def reinforce_loss(log_probs: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    """Compute the loss whose gradient, downhill, is the policy gradient.

    Args:
        log_probs: `(B, T)`, of the tokens that were written, with gradients; of no meaning where masked.
        mask: `(B, T)` bool, True on the tokens of a text, False on padding.
        weights: `(B, T)`, by which each token's log-probability is multiplied: its return less a baseline.

    Returns:
        A tensor of one number: the mean over texts of the sum over tokens.
    """
    # BEGIN SOLUTION
    return -(weights * log_probs * mask).sum() / len(log_probs)
    # END SOLUTION


def leave_one_out(returns: Tensor) -> Tensor:
    """Compute, for every text, the mean return of the other texts of the batch.

    Args:
        returns: `(B,)`, at least two.

    Returns:
        `(B,)`, a baseline for each text.
    """
    # BEGIN SOLUTION
    return (returns.sum() - returns) / (len(returns) - 1)
    # END SOLUTION


def expected_gradient(probabilities: Tensor, scores: Tensor, returns: Tensor, baseline: float) -> Tensor:
    """Compute the expectation of the estimator (R − b) ∇log π over everything that the policy can write.

    Args:
        probabilities: `(N,)`, of the texts.
        scores: `(N, D)`, ∇log π of each text by the weights.
        returns: `(N,)`.
        baseline: b.

    Returns:
        `(D,)`.
    """
    # BEGIN SOLUTION
    return (probabilities * (returns - baseline)) @ scores
    # END SOLUTION


def gradient_variance(probabilities: Tensor, scores: Tensor, returns: Tensor, baseline: float) -> Tensor:
    """Compute the variance of the estimator (R − b) ∇log π of one text, added up over the weights.

    Args:
        probabilities: `(N,)`.
        scores: `(N, D)`.
        returns: `(N,)`.
        baseline: b.

    Returns:
        A tensor of one number: the mean squared distance of the estimator from its mean.
    """
    # BEGIN SOLUTION
    mean = expected_gradient(probabilities, scores, returns, baseline)
    second = probabilities @ ((returns - baseline) ** 2 * (scores**2).sum(1))
    return second - (mean**2).sum()
    # END SOLUTION


def best_baseline(probabilities: Tensor, scores: Tensor, returns: Tensor) -> Tensor:
    """Compute the constant baseline with which the estimator has the least variance.

    Args:
        probabilities: `(N,)`.
        scores: `(N, D)`.
        returns: `(N,)`.

    Returns:
        A tensor of one number.
    """
    # BEGIN SOLUTION
    lengths = probabilities * (scores**2).sum(1)
    return torch.dot(lengths, returns) / lengths.sum()
    # END SOLUTION
