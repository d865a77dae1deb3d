"""Reads GPT-2 token by token with a KV cache, faster than `transformers` and with the same states."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from text_gym.models.layer_cache import LayerCache

from .gpt2_block import Block, after_attention, layer_norm, norm_of
from .kernels import Kernels, LayerWeights, Panels, kernels_for


class GPT2Reader:
    """Reads with a KV cache, several times as fast as a small model's own code.

    With kernels it keeps a copy of the weights' matrices, until they change (`renew`).

    Args:
        trunk: A GPT-2 as it comes (`GPT2Path.fits`).
    """

    def __init__(self, trunk: Any) -> None:
        self._tokens, self._positions, self._norm = trunk.wte.weight, trunk.wpe.weight, norm_of(trunk.ln_f)
        self._blocks = [Block(block) for block in trunk.h]
        whole = all(weight.is_contiguous() for weight in trunk.parameters())
        self._kernels = kernels_for(self._tokens) if whole else None
        self._layers: ctypes.Array[LayerWeights] | None = None
        self._panels: list[Panels] = []

    def renew(self) -> None:
        """Implement `Reader`."""
        self._layers = None

    @property
    def reads_in_place(self) -> bool:
        """Implement `Reader`."""
        return self._kernels is not None

    def __call__(
        self,
        layers: list[LayerCache],
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        last: Tensor | None,
    ) -> Tensor:
        """Implement `Reader`."""
        if self._kernels is not None:
            return self._step(self._kernels, layers, tokens, positions, last)
        # Inference mode spares views and writes their bookkeeping, a twentieth of a small step by operators.
        with torch.inference_mode():
            states = self._read(layers, tokens, positions, mask, last)
        return states.clone()  # as any other tensor, which training may keep

    def _step(
        self,
        found: Kernels,
        layers: list[LayerCache],
        tokens: Tensor,
        positions: Tensor,
        last: Tensor | None,
    ) -> Tensor:
        """Rows need no mask, nothing after a token's own column is looked at; and padding is not read."""
        block = self._blocks[0]
        if self._layers is None:
            self._panels = [found.pack(x.detach()) for each in self._blocks for x in each.matrices()]
            panels = iter(self._panels)
            self._layers = (LayerWeights * len(layers))(*(each.layer(panels) for each in self._blocks))
        rooms = [layer.room(block.heads, block.size, self._tokens) for layer in layers]
        for layer, (keys, values) in zip(self._layers, rooms, strict=True):
            layer.keys, layer.values = keys.data_ptr(), values.data_ptr()
        rows, lengths = layers[0].rows, None
        assert isinstance(rows, Tensor)
        if last is None:
            asked, tokens, positions = torch.arange(len(tokens)), tokens[:, 0], positions[:, 0]
        else:
            there = positions <= last[:, None]
            lengths = (last + 1).tolist()
            asked = torch.full(tokens.shape, -1)
            asked[torch.arange(len(tokens)), last] = torch.arange(len(tokens))
            rows = rows[:, None].expand(tokens.shape)[there]
            asked, tokens, positions = asked[there], tokens[there], positions[there]
        places = (x.contiguous() for x in (tokens, rows, positions, asked))
        return found.step(
            self._layers,
            (self._tokens, self._positions),
            self._norm,
            *places,
            heads=block.heads,
            inner=block.up.shape[1],
            room=rooms[0][0].shape[2],
            lengths=lengths,
        )

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
