"""GPT-2's KV caches read token by token, faster than `transformers` and with the same states."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from text_gym.models.kv_cache import KeyValues, KVCache, LayerCache, RolloutWeights

from .gpt2 import Block, after_attention, layer_norm
from .kernel_cache import KernelCache, Norm, TrunkParts
from .kernels import kernels_for


def gpt2_cache(trunk: Any, rows: int, width: int, weights: RolloutWeights = "float32") -> KVCache:
    """Make the fastest KV cache there is for a GPT-2 as it comes.

    Weights that do not lie in a row are read by PyTorch, which knows about strides.

    Args:
        trunk: One that `fits_gpt2`.
        rows: `B`.
        width: Most tokens of a row.
        weights: In what numbers matrices are multiplied; only kernels do so in "int8".
    """
    embedding = trunk.wte.weight
    kernels = kernels_for(embedding) if all(p.is_contiguous() for p in trunk.parameters()) else None
    if kernels is not None:
        return KernelCache(kernels, partial(gpt2_parts, trunk), rows, width, weights)
    assert weights == "float32"
    return KeyValues(GPT2Reader(trunk), len(trunk.h), rows, width, like=embedding)


def gpt2_parts(trunk: Any) -> TrunkParts:
    """Take a GPT-2 apart for the kernels."""
    final, blocks = trunk.ln_f, [Block(block) for block in trunk.h]
    return TrunkParts(
        [block.weights() for block in blocks],
        embedding=trunk.wte.weight,
        positions=trunk.wpe.weight,
        norm=(final.weight, final.bias, final.eps),
        heads=blocks[0].heads,
        groups=blocks[0].heads,
        size=blocks[0].size,
        inner=blocks[0].up.shape[1],
        activation="gelu",
        context=len(trunk.wpe.weight),
    )


class GPT2Reader:
    """Reads GPT-2 by PyTorch's operators, as a `Reader`, in fewer of them than the model's own code.

    Args:
        trunk: A GPT-2 as it comes.
    """

    def __init__(self, trunk: Any) -> None:
        self._tokens, self._positions = trunk.wte.weight, trunk.wpe.weight
        self._norm: Norm = (trunk.ln_f.weight, trunk.ln_f.bias, trunk.ln_f.eps)
        self._blocks = [Block(block) for block in trunk.h]

    def __call__(
        self,
        layers: list[LayerCache],
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        last: Tensor | None,
    ) -> Tensor:
        """Implement `Reader`."""
        # Inference mode spares views and writes their bookkeeping, a twentieth of a small step by operators.
        with torch.inference_mode():
            states = self._read(layers, tokens, positions, mask, last)
        return states.clone()  # as any other tensor, which training may keep

    def _read(
        self,
        layers: list[LayerCache],
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        last: Tensor | None,
    ) -> Tensor:
        n, size = tokens.shape
        x = torch.embedding(self._tokens, tokens).add_(torch.embedding(self._positions, positions))
        x = x.view(n * size, -1)
        for i, (block, layer) in enumerate(zip(self._blocks, layers, strict=True)):
            h = torch.addmm(block.qkv_bias, layer_norm(x, block.norm_1), block.qkv)
            if last is None:
                h = _attend_to_cache(h, layer, block, mask)
            else:
                q, k, v = h.view(n, size, 3, block.heads, -1).permute(2, 0, 3, 1, 4)  # (n, heads, S, …) each
                k, v = layer.update(k, v)
                causal = i < len(layers) - 1
                mask = None
                if not causal:  # after the last layer's keys and values only the last tokens matter
                    rows = torch.arange(n, device=x.device)
                    q, x = q[rows, :, last][:, :, None], x.view(n, size, -1)[rows, last]
                    mask = (torch.arange(size, device=x.device) <= last[:, None])[:, None, None]
                h = F.scaled_dot_product_attention(
                    q, k, v, attn_mask=mask, is_causal=causal, scale=block.scale
                )
                h = h.transpose(1, 2).reshape(x.shape)
            x = after_attention(block, x, h)
        return layer_norm(x, self._norm)


def _attend_to_cache(qkv: Tensor, layer: LayerCache, block: Block, mask: Tensor | None) -> Tensor:
    """Write one token per row to the cache, `(n, 3 · D)`, and attend from it: `(n, D)`."""
    n = len(qkv)
    q, k, v = qkv.view(n, 3, block.heads, -1).unbind(1)
    if qkv.device.type != "cpu":
        k, v = layer.update(k[:, :, None], v[:, :, None])
        h = F.scaled_dot_product_attention(q[:, :, None], k, v, attn_mask=mask, scale=block.scale)
        return h.reshape(n, -1)
    k, v = layer.append(k, v)
    q = q.reshape(len(k), 1, -1)  # batched products: on CPUs twice as fast as PyTorch's own attention
    weights = torch.bmm(q, k).mul_(block.scale)  # (n · heads, 1, W)
    if mask is not None:
        weights.view(n, block.heads, 1, -1).add_(mask)
    return torch.bmm(torch.softmax(weights, -1), v).view(n, -1)
