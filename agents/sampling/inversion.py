"""Draws tokens by inverting their cumulative distribution."""

from __future__ import annotations

import torch
from torch import Tensor

_BELOW_ONE = 1 - 2.0**-53  # the largest float64 below 1


def inverse_cdf(probs: Tensor, u: Tensor, block: int = 64) -> Tensor:
    """Draw by inverting the cumulative distribution: first the block of ids, then the id within it.

    Reproducible from the uniforms alone, and far cheaper than `torch.multinomial`, which draws one
    exponential per vocabulary entry. An id of probability 0 is never drawn.

    Args:
        probs: `(B, V)` float32 or float64; rows need not sum to 1 exactly.
        u: `(B,)` float64 in [0, 1).
        block: Ids per block.

    Returns:
        `(B,)` int64.

    >>> inverse_cdf(torch.tensor([[0.5, 0.0, 0.5]]), torch.tensor([0.5], dtype=torch.float64))
    tensor([2])
    """
    b, v = probs.shape
    if v % block:
        probs = torch.nn.functional.pad(probs, (0, -v % block))
    probs = probs.view(b, -1, block)
    sums = probs.sum(dim=2).cumsum(dim=1, dtype=torch.float64)
    target = u[:, None] * sums[:, -1:]
    chosen = _locate(sums, target)
    before = torch.nn.functional.pad(sums, (1, 0)).gather(1, chosen)
    inside = probs.gather(1, chosen[:, :, None].expand(b, 1, block))[:, 0].cumsum(dim=1, dtype=torch.float64)
    # Sums and cumulative sums round differently: what is left may lie a little outside the block.
    rest = torch.minimum((target - before).clamp_min_(0.0), inside[:, -1:] * _BELOW_ONE)
    token: Tensor = chosen.mul_(block).add_(_locate(inside, rest))[:, 0]
    return token.clamp_max_(v - 1)  # beyond it only where all is NaN


def _locate(cumulative: Tensor, target: Tensor) -> Tensor:
    """Return the first index whose cumulative weight exceeds its target, `(B, 1)`, below the total."""
    # NaN exceeds nothing.
    return torch.searchsorted(cumulative, target, right=True).clamp_max_(cumulative.shape[1] - 1)
