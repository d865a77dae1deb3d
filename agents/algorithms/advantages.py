"""Advantages measure how much better a token was than expected; all functions take `(B, T)` tensors.

Rows are right-padded; `mask` is True on real tokens. Nothing here knows a policy or a loss.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
    if std <= 8 * torch.finfo(x.dtype).eps * (1 + mean.abs()):
        return torch.zeros_like(x) if shift else x * mask
    return (x - mean if shift else x) / std * mask


def explained_variance(returns: Tensor, values: Tensor, mask: Tensor) -> float:
    """Return the share of the returns' variance that the values predict; NaN if there is no variance.

    >>> explained_variance(torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 1.0]]), torch.ones(1, 2).bool())
    0.5
    """
    variance = masked_mean((returns - masked_mean(returns, mask)) ** 2, mask)
    unexplained = masked_mean((returns - values) ** 2, mask)
    return float(1 - unexplained / variance) if variance > 0 else float("nan")
