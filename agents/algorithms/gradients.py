"""Gradients of several networks are checked and clipped, each by itself, before a step is taken."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from text_gym.errors import NonFiniteError
from text_gym.models.devices import on_host, upload


def clip_each(networks: Sequence[nn.Module], most: float, where: str) -> float:
    """Clip each network's gradient to a norm separately; an accelerator is waited for once.

    Args:
        networks: The policy first.
        most: Their norm afterwards, at most.
        where: The iteration, for the error.

    Returns:
        The norm of the policy's gradient before clipping.

    Raises:
        NonFiniteError: A gradient is not finite; there are no gradients any more.
    """
    device = next(networks[0].parameters()).device
    norms = []
    for network in networks:
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        norms.append(upload(torch.nn.utils.get_total_norm(gradients), device))
    read = on_host(*norms)
    for network, norm, known in zip(networks, norms, read, strict=True):
        if not torch.isfinite(known):
            found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
            bad = [name for name, gradient in found.items() if not gradient.isfinite().all()]
            for each in networks:
                each.zero_grad(set_to_none=True)
            what = f"the gradient of {bad[0]}" if bad else "the norm of the gradient"
            raise NonFiniteError(f"{what} is not finite in {where}; nothing was updated")
        if known > most - 1e-6:  # scaling by 1 would only cost time
            torch.nn.utils.clip_grads_with_norm_(network.parameters(), most, norm)
    return float(read[0])
