"""A block of GPT-2: its parameters, and the arithmetic shared by decoding and updates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .kernels import LayerWeights, Panels, kernels_for, required_kernels


class Block:
    """A block's parameters, looked up once, since a small model's step costs little else."""

    def __init__(self, block: Any) -> None:
        attention, mlp = block.attn, block.mlp
        self.heads, self.size, self.scale = attention.num_heads, attention.head_dim, attention.scaling
        self.norm_1, self.norm_2 = norm_of(block.ln_1), norm_of(block.ln_2)
        self.qkv, self.qkv_bias = attention.c_attn.weight, attention.c_attn.bias
        self.projection, self.projection_bias = attention.c_proj.weight, attention.c_proj.bias
        self.up, self.up_bias = mlp.c_fc.weight, mlp.c_fc.bias
        self.down, self.down_bias = mlp.c_proj.weight, mlp.c_proj.bias

    def matrices(self) -> tuple[Tensor, ...]:
        """Return the matrices the kernels read in a packed order."""
        return self.qkv, self.projection, self.up, self.down

    def layer(self, panels: Iterator[Panels]) -> LayerWeights:
        """Return the block in the kernels' form, taking the next panels for its `matrices`."""
        (gain_1, offset_1, epsilon_1), (gain_2, offset_2, epsilon_2) = self.norm_1, self.norm_2
        qkv, projection, up, down = (next(panels).memory for _ in self.matrices())
        first = (gain_1, offset_1, qkv, self.qkv_bias, projection, self.projection_bias)
        second = (gain_2, offset_2, up, self.up_bias, down, self.down_bias)
        pointers = (x.data_ptr() for x in (*first, *second))
        return LayerWeights(*pointers, None, None, self.scale, epsilon_1, epsilon_2)


def norm_of(module: Any) -> tuple[Any, ...]:
    """Return the weight, bias and epsilon of a layer norm."""
    return module.weight, module.bias, module.eps


def layer_norm(x: Tensor, norm: tuple[Any, ...]) -> Tensor:
    """Apply layer normalisation to `(n, D)`; `norm` comes from `norm_of`."""
    weight, bias, epsilon = norm
    return torch.layer_norm(x, weight.shape, weight, bias, epsilon)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute `x · weight + bias`, with weights laid out as GPT-2's."""
    return torch.addmm(bias, x, weight)


def after_attention(block: Block, x: Tensor, attended: Tensor) -> Tensor:
    """Compute the rest of a block after its attention, from the states before it and its output `(n, D)`."""
    x = x + linear(attended, block.projection, block.projection_bias)
    h = linear(layer_norm(x, block.norm_2), block.up, block.up_bias)
    return x + linear(_gelu(h), block.down, block.down_bias)


def _gelu(x: Tensor) -> Tensor:
    if kernels_for(x) is None:
        return F.gelu(x, approximate="tanh")
    return _GELU.apply(x)  # type: ignore[no-any-return,no-untyped-call]


class _GELU(torch.autograd.Function):
    """`F.gelu(x, approximate="tanh")` of a contiguous tensor, by kernels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return required_kernels(x).gelu(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return required_kernels(x).gelu_backward(x, gradient.contiguous())
