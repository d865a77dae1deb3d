"""A block of GPT-2: its parameters, and the arithmetic that reading and updating share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .kernels import LayerWeights, Panels, kernels_for, required_kernels


class Block:
    """The parameters of a block of GPT-2, looked up once: a step of a small model has few other costs."""

    def __init__(self, block: Any) -> None:
        attention, mlp = block.attn, block.mlp
        self.heads, self.size, self.scale = attention.num_heads, attention.head_dim, attention.scaling
        self.norm_1, self.norm_2 = norm_of(block.ln_1), norm_of(block.ln_2)
        self.qkv, self.qkv_bias = attention.c_attn.weight, attention.c_attn.bias
        self.projection, self.projection_bias = attention.c_proj.weight, attention.c_proj.bias
        self.up, self.up_bias = mlp.c_fc.weight, mlp.c_fc.bias
        self.down, self.down_bias = mlp.c_proj.weight, mlp.c_proj.bias

    def matrices(self) -> tuple[Tensor, ...]:
        """The matrices that the kernels read in an order of their own."""
        return self.qkv, self.projection, self.up, self.down

    def layer(self, panels: Iterator[Panels]) -> LayerWeights:
        """The block as the kernels take it, without KV cache; the next panels are of its `matrices`."""
        (gain_1, offset_1, epsilon_1), (gain_2, offset_2, epsilon_2) = self.norm_1, self.norm_2
        qkv, projection, up, down = (next(panels).memory for _ in self.matrices())
        first = (gain_1, offset_1, qkv, self.qkv_bias, projection, self.projection_bias)
        second = (gain_2, offset_2, up, self.up_bias, down, self.down_bias)
        pointers = (x.data_ptr() for x in (*first, *second))
        return LayerWeights(*pointers, None, None, self.scale, epsilon_1, epsilon_2)


def norm_of(module: Any) -> tuple[Any, ...]:
    """Weight, bias and epsilon of a layer norm."""
    return module.weight, module.bias, module.eps


def layer_norm(x: Tensor, norm: tuple[Any, ...]) -> Tensor:
    """Layer normalisation of `(n, D)`; `norm` is what `norm_of` gives."""
    weight, bias, epsilon = norm
    return torch.layer_norm(x, weight.shape, weight, bias, epsilon)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`x · weight + bias`, as GPT-2 lays its weights out."""
    return torch.addmm(bias, x, weight)


def after_attention(block: Block, x: Tensor, attended: Tensor) -> Tensor:
    """The rest of a block after its attention: `(n, D)` states from those before it and what it gave."""
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
