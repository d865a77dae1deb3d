"""Operators with gradients, by kernels where there are any: what PyTorch does in several slower steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .kernels import Kernels, Texts, kernels_for


def embed(weight: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Look up rows of the embedding `(V, D)`, and pass the weights on, for a tied output layer.

    The gradient of the rows is added to what comes back through the second way. A matrix of its own, of zeros
    but for some rows, would take longer than a layer where the vocabulary is large.
    """
    return _Embedding.apply(weight, tokens)  # type: ignore[no-any-return,no-untyped-call]


class _Embedding(torch.autograd.Function):
    """`embed`, with its backward pass."""

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


def gelu(x: Tensor) -> Tensor:
    """Compute the tanh form of GELU for a contiguous tensor, by kernels where there are any."""
    kernels = kernels_for(x)
    if kernels is None:
        return F.gelu(x, approximate="tanh")
    return _GELU.apply(kernels, x)  # type: ignore[no-any-return,no-untyped-call]


class _GELU(torch.autograd.Function):
    """`gelu` by kernels, with its backward pass."""

    @staticmethod
    def forward(ctx: Any, kernels: Kernels, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return kernels.gelu(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        (x,) = ctx.saved_tensors
        kernels = kernels_for(x)
        assert kernels is not None
        return None, kernels.gelu_backward(x, gradient.contiguous())


def root_norm(x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
    """Divide rows `(n, D)` by the root of their mean square, and multiply with a gain `(D,)`, by kernels."""
    return _RootNorm.apply(x.contiguous(), gain, epsilon)  # type: ignore[no-any-return,no-untyped-call]


def rope(x: Tensor, angles: tuple[Tensor, Tensor], positions: Tensor, size: int) -> Tensor:
    """Turn heads `(n, heads · size)` by the angles of their positions, by kernels.

    Args:
        x: Queries or keys.
        angles: Cosines and sines, `(context, size / 2)` each.
        positions: `(n,)` int64.
        size: Of a head.
    """
    return _Rope.apply(x.contiguous(), angles, positions, size)  # type: ignore[no-any-return,no-untyped-call]


def gated(gates: Tensor, values: Tensor, activation: int) -> Tensor:
    """Multiply values with the activation of their gates (SwiGLU, GeGLU), by kernels.

    Args:
        gates: Of any shape, contiguous.
        values: Likewise.
        activation: Its number in `kernel_cache.ACTIVATIONS`.
    """
    return _Gated.apply(gates, values, activation)  # type: ignore[no-any-return,no-untyped-call]


class _RootNorm(torch.autograd.Function):
    """RMSNorm by kernels, with its backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
        ctx.save_for_backward(x, gain)
        ctx.epsilon = epsilon
        return _kernels(x).root_norm(x, gain, epsilon)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, gain = ctx.saved_tensors
        return *_kernels(x).root_norm_backward(x, gain, ctx.epsilon, gradient.contiguous()), None


class _Rope(torch.autograd.Function):
    """RoPE by kernels; its gradient is turned back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, angles: tuple[Tensor, Tensor], positions: Tensor, size: int) -> Tensor:
        ctx.place = angles, positions, size
        return _kernels(x).rope(x, angles, positions, size, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        angles, positions, size = ctx.place
        found = _kernels(gradient).rope(gradient.contiguous(), angles, positions, size, -1.0)
        return found, None, None, None


class _Gated(torch.autograd.Function):
    """A gated activation by kernels, with its backward pass."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, values: Tensor, activation: int) -> Tensor:
        ctx.save_for_backward(gates, values)
        ctx.activation = activation
        return _kernels(gates).gated(gates, values, activation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        gates, values = ctx.saved_tensors
        found = _kernels(gates).gated_backward(gates, values, ctx.activation, gradient.contiguous())
        return *found, None


class Queries(NamedTuple):
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


def queries_of(size: int, starts: Tensor, lengths: Tensor) -> tuple[Queries, Queries, Tensor]:
    """Return who looks back in a batch of texts: every token, and those before a completion's tokens.

    What padding sees does not matter; in the last layer only the states that are asked for need queries.

    Args:
        size: `S`, columns of the batch.
        starts: `(B,)` int64, prompt lengths.
        lengths: `(B,)` int64, completion lengths; `N` is their sum.

    Returns:
        Both, and `(N,)` int64: which of the `B · S` tokens the latter are, row by row.
    """
    n, device = len(starts), starts.device
    everywhere = Queries(
        torch.arange(0, n * size, size, device=device), starts + lengths - 1, torch.zeros_like(starts), size
    )
    drawn = Queries(lengths.cumsum(0) - lengths, lengths, starts - 1, size)
    rows, steps = (torch.arange(int(lengths.max()), device=device) < lengths[:, None]).nonzero(as_tuple=True)
    return everywhere, drawn, rows * size + starts[rows] - 1 + steps


class Heads(Protocol):
    """The shape of a layer's attention."""

    heads: int
    size: int
    scale: float


def attend(block: Heads, queries: Queries, *qkv: Tensor) -> Tensor:
    """Compute causal attention, by kernels where there are any.

    Args:
        block: Of which layer.
        queries: `N` of them.
        qkv: `(B · S, 3 · D)` of all tokens; or `(N, D)` of the queries, and `(B · S, 2 · D)`.

    Returns:
        `(N, D)`, or `(B · S, D)`.
    """
    kernels = kernels_for(qkv[0])
    if kernels is None:
        return attend_by_operators(block, queries, *qkv)
    places = (x.contiguous() for x in queries[:3])
    texts = Texts(*places, tokens=queries.size, heads=block.heads, size=block.size, scale=block.scale)
    return _Attention.apply(kernels, texts, *qkv)  # type: ignore[no-any-return,no-untyped-call]


def attend_by_operators(block: Heads, queries: Queries, *qkv: Tensor) -> Tensor:
    """Do what `attend` does, by PyTorch's operators."""
    begins, counts, firsts, size = queries
    shape = len(begins), size, -1, block.heads, block.size
    if len(qkv) == 1:
        q, k, v = qkv[0].view(shape).permute(2, 0, 3, 1, 4)  # (B, heads, S, size) each
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=block.scale)
        return h.transpose(1, 2).reshape(len(qkv[0]), -1)
    k, v = qkv[1].view(shape).permute(2, 0, 3, 1, 4)
    steps = torch.arange(int(counts.max()), device=begins.device)
    mask = steps < counts[:, None]  # (B, T), the queries that exist
    q = qkv[0].new_zeros(*mask.shape, qkv[0].shape[1]).masked_scatter(mask[..., None], qkv[0])
    q = q.view(*mask.shape, block.heads, block.size).transpose(1, 2)
    columns = firsts[:, None] + steps
    seen = torch.arange(size, device=mask.device) <= columns[:, None, :, None]
    h = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=block.scale)
    return h.transpose(1, 2)[mask].flatten(1)


class _Attention(torch.autograd.Function):
    """`attend` by kernels, with its backward pass."""

    @staticmethod
    def forward(ctx: Any, kernels: Kernels, texts: Texts, *qkv: Tensor) -> Tensor:
        out, log_sums = kernels.attention(texts, *_split(qkv))
        ctx.save_for_backward(*qkv, log_sums)
        ctx.texts = texts
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *qkv, log_sums = ctx.saved_tensors
        found = [(torch.zeros_like if ctx.texts.ragged else torch.empty_like)(x) for x in qkv]
        kernels = kernels_for(gradient)
        assert kernels is not None
        parts = _split(qkv), log_sums, gradient.contiguous(), _split(found)
        kernels.attention_backward(ctx.texts, *parts)
        return None, None, *found


def _split(qkv: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Split `attend`'s input into queries, keys and values `(…, D)`."""
    q, k, v = qkv[0].chunk(3, 1) if len(qkv) == 1 else (qkv[0], *qkv[1].chunk(2, 1))
    return q, k, v


def _kernels(x: Tensor) -> Kernels:
    """Return the kernels, for an operator that is called only where there are some."""
    found = kernels_for(x)
    assert found is not None
    return found
