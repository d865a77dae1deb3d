"""Computes GPT-2's states in a batch of texts with gradients, as an update needs them.

The last layer is computed only where a state is asked for. Attention and GELU, forward and backward, are
kernels where there are any; matrix products are PyTorch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .gpt2_block import Block, after_attention, layer_norm, linear, norm_of
from .kernels import Texts, kernels_for, required_kernels


def states(trunk: Any, tokens: Tensor, starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the states from which the completions' tokens are drawn, with gradients.

    Args:
        trunk: One that `can_read`.
        tokens: `(B, S)` int64, right-padded; `S` is at least the largest `P + T - 1`.
        starts: `(B,)` int64, prompt lengths `P`.
        lengths: `(B,)` int64, completion lengths `T`; `N` is their sum.

    Returns:
        `(N, D)`, one completion after another; and the embedding's weights `(V, D)`, for an output layer that
        has the same ones.
    """
    n, size = tokens.shape
    embedded, weight = _Embedding.apply(trunk.wte.weight, tokens)  # type: ignore[no-untyped-call]
    x = (embedded + trunk.wpe.weight[:size]).view(n * size, -1)
    everywhere, drawn = _Queries.everywhere(starts, lengths, size), _Queries.drawn(starts, lengths, size)
    *blocks, last = [Block(block) for block in trunk.h]
    for block in blocks:
        h = linear(layer_norm(x, block.norm_1), block.qkv, block.qkv_bias)
        x = after_attention(block, x, _attend(block, everywhere, h))
    h, width = layer_norm(x, last.norm_1), x.shape[1]
    q = linear(h[drawn.tokens], last.qkv[:, :width], last.qkv_bias[:width])
    kv = linear(h, last.qkv[:, width:], last.qkv_bias[width:])
    x = after_attention(last, x[drawn.tokens], _attend(last, drawn, q, kv))
    return layer_norm(x, norm_of(trunk.ln_f)), weight


class _Embedding(torch.autograd.Function):
    """Looks up rows of the embedding and passes the weights on, for a tied output layer.

    The gradient of the rows is added to what comes back through the second way. A matrix of its own, of zeros
    but for some rows, would take longer than a layer where the vocabulary is large.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(tokens)
        ctx.shape = weight.shape
        ctx.set_materialize_grads(False)
        return torch.embedding(weight, tokens), weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_rows: Tensor | None, of_weight: Tensor | None) -> tuple[Tensor | None, None]:
        (tokens,) = ctx.saved_tensors
        if of_rows is None:
            return of_weight, None
        if of_weight is None:  # otherwise the output layer has weights of its own
            of_weight = of_rows.new_zeros(ctx.shape)
        return of_weight.index_add_(0, tokens.flatten(), of_rows.flatten(0, 1)), None


@dataclass(frozen=True)
class _Queries:
    """The query tokens of a batch of texts, each of which attends to itself and those before it.

    Args:
        begins: `(B,)` int64, the number of each text's first one.
        counts: `(B,)` int64, how many there are of each text.
        firsts: `(B,)` int64, the column of its first one.
        size: `S`, columns of the batch.
    """

    begins: Tensor
    counts: Tensor
    firsts: Tensor
    size: int

    @classmethod
    def everywhere(cls, starts: Tensor, lengths: Tensor, size: int) -> _Queries:
        """All tokens as queries; what padding sees does not matter."""
        begins = torch.arange(0, len(starts) * size, size, device=starts.device)
        return cls(begins, starts + lengths - 1, torch.zeros_like(starts), size)

    @classmethod
    def drawn(cls, starts: Tensor, lengths: Tensor, size: int) -> _Queries:
        """Only the tokens from whose states completions are drawn."""
        return cls(lengths.cumsum(0) - lengths, lengths, starts - 1, size)

    @cached_property
    def columns(self) -> Tensor:
        """The queries' columns, `(B, T)`; beyond a text's last one, where they would be."""
        return self.firsts[:, None] + torch.arange(int(self.counts.max()), device=self.firsts.device)

    @cached_property
    def mask(self) -> Tensor:
        """The queries that exist, `(B, T)` bool."""
        return self.columns - self.firsts[:, None] < self.counts[:, None]

    @cached_property
    def tokens(self) -> Tensor:
        """The queries' token numbers, `(N,)`, counted row by row."""
        rows = torch.arange(0, len(self.begins) * self.size, self.size, device=self.begins.device)
        return (rows[:, None] + self.columns)[self.mask]


def _attend(block: Block, queries: _Queries, *qkv: Tensor) -> Tensor:
    """Compute causal attention.

    Args:
        block: Of which layer.
        queries: `N` of them.
        qkv: `(B · S, 3 · D)` of all tokens; or `(N, D)` of the queries, and `(B · S, 2 · D)`.

    Returns:
        `(N, D)`, or `(B · S, D)`.
    """
    if kernels_for(qkv[0]) is not None:
        places = (x.contiguous() for x in (queries.begins, queries.counts, queries.firsts))
        texts = Texts(*places, tokens=queries.size, heads=block.heads, size=block.size, scale=block.scale)
        out: Tensor = _Attention.apply(texts, *qkv)  # type: ignore[no-untyped-call]
        return out
    shape = len(queries.begins), queries.size, -1, block.heads, block.size
    if len(qkv) == 1:
        q, k, v = qkv[0].view(shape).permute(2, 0, 3, 1, 4)  # (B, heads, S, size) each
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=block.scale)
        return h.transpose(1, 2).reshape(len(qkv[0]), -1)
    k, v = qkv[1].view(shape).permute(2, 0, 3, 1, 4)
    mask = queries.mask
    q = qkv[0].new_zeros(*mask.shape, qkv[0].shape[1]).masked_scatter(mask[..., None], qkv[0])
    q = q.view(*mask.shape, block.heads, block.size).transpose(1, 2)
    seen = torch.arange(queries.size, device=mask.device) <= queries.columns[:, None, :, None]
    h = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=block.scale)
    return h.transpose(1, 2)[mask].flatten(1)


class _Attention(torch.autograd.Function):
    """`_attend` by kernels, with its backward pass."""

    @staticmethod
    def forward(ctx: Any, texts: Texts, *qkv: Tensor) -> Tensor:
        out, log_sums = required_kernels(qkv[0]).attention(texts, *_split(qkv))
        ctx.save_for_backward(*qkv, log_sums)
        ctx.texts = texts
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *qkv, log_sums = ctx.saved_tensors
        found = [(torch.zeros_like if ctx.texts.ragged else torch.empty_like)(x) for x in qkv]
        parts = _split(qkv), log_sums, gradient.contiguous(), _split(found)
        required_kernels(gradient).attention_backward(ctx.texts, *parts)
        return None, *found


def _split(qkv: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Split `_attend`'s input into queries, keys and values `(…, D)`."""
    q, k, v = qkv[0].chunk(3, 1) if len(qkv) == 1 else (qkv[0], *qkv[1].chunk(2, 1))
    return q, k, v
