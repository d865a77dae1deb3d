"""Estimators of an update: the KL to the reference policy, advantages, and the variance a critic explains.

KL estimators are Schulman's ("Approximating KL divergence", 2020) of KL(policy ‖ reference), in nats a token,
for tokens drawn from the policy; the exact full-vocabulary KL is for tests, not for training. Advantages
measure how much better a token was than expected. Tensors are `(B, T)`, right-padded; `mask` is True on real
tokens. Nothing here knows a policy or a loss.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from text_gym.errors import ConfigError
from text_gym.models.runtime import on_host

from .configs import Estimator


def estimate_kl(log_probs: Tensor, reference_log_probs: Tensor, estimator: Estimator = "k1") -> Tensor:
    """Per-token estimates of the KL divergence, in nats, of the inputs' shape.

    Args:
        log_probs: Of the tokens taken, under the policy they were drawn from.
        reference_log_probs: Of the same tokens under the reference.
        estimator: `k1` = log p/q: unbiased, may be negative. `k2` = ½ (log p/q)²: biased, low
            variance, its gradient is that of the KL. `k3` = q/p − 1 + log p/q: unbiased, never negative.

    >>> estimate_kl(torch.tensor([0.0]), torch.tensor([0.0]), "k3")
    tensor([0.])
    """
    ratio = log_probs - reference_log_probs
    if estimator == "k1":
        return ratio
    if estimator == "k2":
        return ratio**2 / 2
    if estimator == "k3":
        return torch.expm1(-ratio) + ratio
    raise ConfigError(f"unknown KL estimator {estimator!r}; choose k1, k2 or k3")


class KLController:
    """The KL coefficient β: fixed, or steered towards a target (Ziegler et al. 2019, eq. 8).

    Args:
        coefficient: β at the start, reward units per nat.
        target: KL to hold, in nats per episode; None keeps β fixed.
        horizon: Episodes over which a full error moves β by a factor e.

    Raises:
        ConfigError: One of them is out of range, or no number.
    """

    def __init__(self, coefficient: float, target: float | None = None, horizon: float = 2000.0) -> None:
        if not 0 <= coefficient < math.inf or not (target is None or target > 0):
            raise ConfigError(
                f"KL coefficient {coefficient} must not be negative and target {target} be positive"
            )
        if not horizon > 0:
            raise ConfigError(f"the KL horizon is {horizon} episodes; it must be positive")
        self.coefficient, self.target, self.horizon = coefficient, target, horizon

    def update(self, kl: float, episodes: int) -> None:
        """Adapt β to the KL (nats per episode) seen in this many episodes."""
        if self.target is not None:
            error = min(max(kl / self.target - 1.0, -0.2), 0.2)
            self.coefficient *= 1.0 + error * episodes / self.horizon


def gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
) -> tuple[Tensor, Tensor]:
    """Compute generalised advantage estimates (Schulman et al. 2016, eq. 16).

    Nothing comes after an episode's last token, so nothing is bootstrapped there.

    Args:
        rewards: `(B, T)`.
        values: `(B, T)`, of the state before each token.
        mask: `(B, T)` bool.
        gamma: Discount.
        lam: λ; 1 gives Monte Carlo returns minus values.

    Returns:
        Advantages and returns (advantage + value), `(B, T)`, 0 where masked.

    >>> one = torch.ones(1, 2)
    >>> gae(one, torch.zeros(1, 2), one.bool(), lam=1.0)[0]
    tensor([[2., 1.]])
    """
    advantages = torch.zeros_like(rewards)
    following = next_value = torch.zeros_like(rewards[:, 0])  # advantage and value of the next token
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = torch.where(mask[:, t], delta + gamma * lam * following, torch.zeros_like(following))
        advantages[:, t] = following
        next_value = torch.where(mask[:, t], values[:, t], 0.0)
    return advantages, torch.where(mask, advantages + values, torch.zeros_like(values))


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Average over the entries where `mask` is True."""
    return (x * mask).sum() / mask.sum()


def whiten(x: Tensor, mask: Tensor, *, shift: bool = True) -> Tensor:
    """Scale to unit standard deviation and, with `shift`, zero mean; 0 where masked.

    A constant batch carries no preference and comes out as zeros, not as amplified rounding noise.
    """
    mean = masked_mean(x, mask)
    std = masked_mean((x - mean) ** 2, mask).sqrt()
    constant = std <= 8 * torch.finfo(x.dtype).eps * (1 + mean.abs())
    scaled = (x - mean if shift else x) / std * mask
    return torch.where(constant, torch.zeros_like(x) if shift else x * mask, scaled)


def explained_variance(returns: Tensor, values: Tensor, mask: Tensor) -> float:
    """Return the share of the returns' variance that the values predict; NaN if there is no variance.

    >>> explained_variance(torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 1.0]]), torch.ones(1, 2).bool())
    0.5
    """
    variance = masked_mean((returns - masked_mean(returns, mask)) ** 2, mask)
    unexplained = masked_mean((returns - values) ** 2, mask)
    variance, unexplained = on_host(variance, unexplained)
    return float(1 - unexplained / variance) if variance > 0 else float("nan")
