"""Weights divided among processes (FSDP2, `torch.distributed.fsdp.fully_shard`), and numbers about them.

Each process keeps a slice of every weight of a model's blocks, of its gradient and of the optimizer's memory
of it; a block's weights are gathered while it works. Embedding, output layer and norms after the last block
stay whole everywhere. All processes have to go through the blocks equally often: they gather together.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from text_gym.errors import ConfigError

MARK = "full_tensor"  # the method that only a tensor has of which each process keeps a slice


def shard_blocks(model: nn.Module, *, bf16: bool = False) -> None:
    """Divide the weights of a model's blocks among all processes; gradients are sums over them.

    Args:
        model: A causal language model of `transformers`; alike in all processes.
        bf16: Gather weights in bfloat16, which is half as much to send; slices and gradients stay what they
            are.

    Raises:
        ConfigError: The model has no list of blocks.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    trunk: Any = model.base_model
    lists = [m for m in trunk.modules() if isinstance(m, nn.ModuleList)]
    blocks = max(lists, key=lambda found: sum(p.numel() for p in found.parameters()), default=None)
    if blocks is None or not len(blocks):
        raise ConfigError(f"{type(model).__name__} has no list of blocks to be divided among processes")
    mesh = init_device_mesh(next(model.parameters()).device.type, (dist.get_world_size(),))
    precision = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None,
        reduce_dtype=torch.float32 if bf16 else None,
        cast_forward_inputs=False,
    )
    for block in blocks:
        sharded: Any = fully_shard(block, mesh=mesh, reshard_after_forward=True, mp_policy=precision)
        sharded.set_force_sum_reduction_for_comms(True)  # gloo knows no other
        sharded.set_gradient_divide_factor(1.0)


def is_sharded(tensor: Tensor) -> bool:
    """Return True for a tensor of which this process has a slice only."""
    return hasattr(tensor, MARK)


def local(tensor: Tensor) -> Tensor:
    """Return this process's slice of a tensor; a tensor that is not divided is returned as it is."""
    found: Any = tensor
    return found.to_local() if is_sharded(tensor) else found  # type: ignore[no-any-return]


def whole(tensor: Tensor) -> Tensor:
    """Gather a tensor's slices from all processes, which all call this; others are returned as they are."""
    found: Any = tensor
    return found.full_tensor() if is_sharded(tensor) else found  # type: ignore[no-any-return]


def divided_like(tensor: Tensor, like: Tensor) -> Tensor:
    """Divide a tensor, of which all processes have the whole, as one of its shape is divided."""
    from torch.distributed.tensor import distribute_tensor

    found: Any = like
    slices: Any = distribute_tensor(tensor, found.device_mesh, found.placements, src_data_rank=None)
    return slices  # type: ignore[no-any-return]


def total_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Return the 2-norm of all tensors together, of which some may be divided among processes.

    >>> float(total_norm([torch.tensor([3.0]), torch.tensor([4.0])]))
    5.0
    """
    found = list(tensors)
    divided = [t for t in found if is_sharded(t)]
    norm: Tensor = nn.utils.get_total_norm([t for t in found if not is_sharded(t)])
    if not divided:
        return norm
    others = whole(nn.utils.get_total_norm(divided))
    return torch.stack([norm.to(others), others]).square().sum().sqrt()
