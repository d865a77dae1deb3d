"""GPT-2's arithmetic written out: its blocks, and its states in a batch of texts, with gradients for updates.

The last layer is computed only where a state is asked for. Matrix products are PyTorch's, the other steps
those of `operators`. Reading token by token is in `gpt2_cache`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .kernel_cache import LayerParts, Norm
from .operators import attend, embed, gelu, queries_of


class Block:
    """A block's parameters, looked up once, since a small model's step costs little else."""

    def __init__(self, block: Any) -> None:
        attention, mlp = block.attn, block.mlp
        self.heads, self.size, self.scale = attention.num_heads, attention.head_dim, attention.scaling
        self.norm_1: Norm = (block.ln_1.weight, block.ln_1.bias, block.ln_1.eps)
        self.norm_2: Norm = (block.ln_2.weight, block.ln_2.bias, block.ln_2.eps)
        self.qkv, self.qkv_bias = attention.c_attn.weight, attention.c_attn.bias
        self.projection, self.projection_bias = attention.c_proj.weight, attention.c_proj.bias
        self.up, self.up_bias = mlp.c_fc.weight, mlp.c_fc.bias
        self.down, self.down_bias = mlp.c_proj.weight, mlp.c_proj.bias

    def weights(self) -> LayerParts:
        """Return the block in the kernels' order."""
        return LayerParts(
            self.norm_1,
            ([self.qkv], self.qkv_bias),
            ([self.projection], self.projection_bias),
            self.norm_2,
            ([self.up], self.up_bias),
            ([self.down], self.down_bias),
            self.scale,
        )


def layer_norm(x: Tensor, norm: Norm) -> Tensor:
    """Apply layer normalisation to `(n, D)`."""
    weight, bias, epsilon = norm
    return torch.layer_norm(x, weight.shape, weight, bias, epsilon)


def after_attention(block: Block, x: Tensor, attended: Tensor) -> Tensor:
    """Compute the rest of a block after its attention, from the states before it and its output `(n, D)`."""
    x = x + torch.addmm(block.projection_bias, attended, block.projection)
    h = torch.addmm(block.up_bias, layer_norm(x, block.norm_2), block.up)
    return x + torch.addmm(block.down_bias, gelu(h), block.down)


def gpt2_states(trunk: Any, tokens: Tensor, starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the states from which the completions' tokens are drawn, as `FastPath.states` describes it.

    Args:
        trunk: One that `GPT2Path` fits.
        tokens: `(B, S)` int64, right-padded; `S` is at least the largest `P + T - 1`.
        starts: `(B,)` int64, prompt lengths `P`.
        lengths: `(B,)` int64, completion lengths `T`; `N` is their sum.
    """
    n, size = tokens.shape
    everywhere, drawn, asked = queries_of(size, starts, lengths)
    embedded, weight = embed(trunk.wte.weight, tokens)
    x = (embedded + trunk.wpe.weight[:size]).view(n * size, -1)
    *blocks, last = [Block(block) for block in trunk.h]
    for block in blocks:
        h = torch.addmm(block.qkv_bias, layer_norm(x, block.norm_1), block.qkv)
        x = after_attention(block, x, attend(block, everywhere, h))
    h, width = layer_norm(x, last.norm_1), x.shape[1]
    q = torch.addmm(last.qkv_bias[:width], h[asked], last.qkv[:, :width])
    kv = torch.addmm(last.qkv_bias[width:], h, last.qkv[:, width:])
    x = after_attention(last, x[asked], attend(last, drawn, q, kv))
    final = trunk.ln_f
    return layer_norm(x, (final.weight, final.bias, final.eps)), weight
