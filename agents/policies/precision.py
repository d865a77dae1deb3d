"""Low precision in rollouts: matrices are cast once, not at every token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .policy import Policy


@contextmanager
def stored_in_bfloat16(policy: Policy) -> Iterator[None]:
    """Let linear layers read a bfloat16 copy of their weights within the block, if products are made in it.

    Autocast casts every matrix whenever it is used, which for a token at a time is most of the work. What it
    computes from the copy is the same to the bit. The weights themselves, float32, come back afterwards.

    Args:
        policy: It must not be trained within the block. One with `bf16` off is left alone.
    """
    from transformers.pytorch_utils import Conv1D

    layers = [m for m in policy.model.modules() if isinstance(m, nn.Linear | Conv1D)] if policy.bf16 else []
    kept = [dict(layer._parameters) for layer in layers]
    copies: dict[int, nn.Parameter] = {}  # tied matrices are copied once
    for layer in layers:
        for name, weight in layer._parameters.items():
            if weight is not None and weight.dtype == torch.float32:
                copy = copies.get(id(weight))
                if copy is None:
                    copy = nn.Parameter(weight.detach().to(torch.bfloat16), requires_grad=False)
                layer._parameters[name] = copies[id(weight)] = copy
    try:
        yield
    finally:
        for layer, weights in zip(layers, kept, strict=True):
            layer._parameters.update(weights)
