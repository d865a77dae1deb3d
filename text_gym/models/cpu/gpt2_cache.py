"""GPT-2's KV caches read token by token, faster than `transformers` and with the same states."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from text_gym.episode import IntArray
from text_gym.models.kv_cache import KeyValues, KVCache, LayerCache

from .gpt2 import Block, Norm, after_attention, layer_norm
from .kernels import Kernels, LayerWeights, Panels, kernels_for


def gpt2_cache(trunk: Any, rows: int, width: int) -> KVCache:
    """Make the fastest KV cache there is for a GPT-2 as it comes.

    Weights that do not lie in a row are read by PyTorch, which knows about strides.

    Args:
        trunk: One that `GPT2Path` fits.
        rows: `B`.
        width: Most tokens of a row.
    """
    embedding = trunk.wte.weight
    kernels = kernels_for(embedding) if all(p.is_contiguous() for p in trunk.parameters()) else None
    if kernels is not None:
        return KernelCache(kernels, trunk, rows, width)
    return KeyValues(GPT2Reader(trunk), len(trunk.h), rows, width, like=embedding)


class KernelCache:
    """The keys and values of `B` rows, read in place by the kernels; a `KVCache`.

    Nothing after a token's own column is looked at, so rows need no mask; padding is not read. The weights'
    matrices are copied, until they change (`renew`).

    Args:
        kernels: That read.
        trunk: A GPT-2 as it comes, in float32, on the CPU.
        rows: `B`.
        width: `W`, most tokens of a row.
    """

    def __init__(self, kernels: Kernels, trunk: Any, rows: int, width: int) -> None:
        self._kernels = kernels
        self._embeddings = trunk.wte.weight, trunk.wpe.weight
        self._norm: Norm = (trunk.ln_f.weight, trunk.ln_f.bias, trunk.ln_f.eps)
        self._blocks = [Block(block) for block in trunk.h]
        shape = rows, self._blocks[0].heads, width, self._blocks[0].size
        new = trunk.wte.weight.new_empty
        self._memory = [(new(shape), new(shape)) for _ in self._blocks]  # keys and values
        self._rows = torch.arange(rows)  # where in the memory each row of the batch is
        self._layers: ctypes.Array[LayerWeights] | None = None
        self._panels: list[Panels] = []

    def prefill(self, tokens: Tensor, lengths: IntArray, rows: IntArray | None = None) -> Tensor:
        """Implement `KVCache`."""
        memory = self._rows if rows is None else self._rows[torch.from_numpy(rows)]
        last, every = torch.from_numpy(lengths - 1), torch.arange(len(tokens))
        positions = torch.arange(tokens.shape[1]).expand(tokens.shape)
        there = positions <= last[:, None]
        asked = torch.full(tokens.shape, -1)
        asked[every, last] = every
        memory = memory[:, None].expand(tokens.shape)
        return self._read(tokens[there], memory[there], positions[there], asked[there], lengths.tolist())

    def append(self, tokens: Tensor, at: IntArray) -> Tensor:
        """Implement `KVCache`."""
        positions = torch.from_numpy(at).contiguous()
        return self._read(tokens.contiguous(), self._rows, positions, torch.arange(len(tokens)))

    def _read(
        self,
        tokens: Tensor,
        rows: Tensor,
        positions: Tensor,
        asked: Tensor,
        lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """Read tokens, as `Kernels.step` does."""
        block = self._blocks[0]
        if self._layers is None:
            self._panels = [self._kernels.pack(x.detach()) for each in self._blocks for x in each.matrices()]
            panels = iter(self._panels)
            layers = (
                each.layer(panels, *memory) for each, memory in zip(self._blocks, self._memory, strict=True)
            )
            self._layers = (LayerWeights * len(self._blocks))(*layers)
        return self._kernels.step(
            self._layers,
            self._embeddings,
            self._norm,
            tokens,
            rows,
            positions,
            asked,
            heads=block.heads,
            inner=block.up.shape[1],
            room=self._memory[0][0].shape[2],
            lengths=lengths,
        )

    def keep(self, rows: IntArray) -> None:
        """Implement `KVCache`."""
        self._rows = self._rows[torch.from_numpy(rows)]

    def renew(self) -> None:
        """Implement `KVCache`."""
        self._layers = None


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
    k, v = layer.append(k, v)
    q = q.reshape(len(k), 1, -1)  # batched products: on CPUs twice as fast as PyTorch's own attention
    weights = torch.bmm(q, k).mul_(block.scale)  # (n · heads, 1, W)
    if mask is not None:
        weights.view(n, block.heads, 1, -1).add_(mask)
    return torch.bmm(torch.softmax(weights, -1), v).view(n, -1)
