"""GPT-2's arithmetic written out: its states in a batch of texts, and its states token by token.

The same numbers as the model's own code but for rounding, with less work: the last layer is computed only
where a state is asked for, and on the CPU kernels do what PyTorch needs many operators for. Other
architectures go through their own code, which is not here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from . import kernels
from .kernels import Panels, Texts, kernels_for, product


def is_plain(trunk: nn.Module) -> bool:
    """Whether a trunk is GPT-2 as it comes: no adapters, no other modules put in, no hooks."""
    from transformers import GPT2Model
    from transformers.activations import GELUTanh, NewGELUActivation
    from transformers.models.gpt2.modeling_gpt2 import GPT2MLP, GPT2Attention, GPT2Block
    from transformers.pytorch_utils import Conv1D

    if type(trunk) is not GPT2Model or trunk.config.add_cross_attention:
        return False
    plain = {GPT2Model, GPT2Block, GPT2Attention, GPT2MLP, Conv1D, NewGELUActivation, GELUTanh}
    plain |= {nn.Embedding, nn.LayerNorm, nn.Dropout, nn.ModuleList, nn.GELU}
    return trunk.dtype in (torch.float32, torch.float64) and all(
        type(m) in plain
        and getattr(m, "approximate", "tanh") == "tanh"
        and not (m._forward_hooks or m._forward_pre_hooks)
        for m in trunk.modules()
    )


def can_read(trunk: nn.Module) -> bool:
    """Whether `states` is for this trunk as it is now: plain, no dropout, no gradient checkpointing."""
    return is_plain(trunk) and not any(
        (m.training and getattr(m, "p", 0.0) > 0) or getattr(m, "gradient_checkpointing", False)
        for m in trunk.modules()
    )


def states(trunk: Any, tokens: Tensor, starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The states from which the tokens of completions are drawn, differentiable.

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
    *blocks, last = [_Block(block) for block in trunk.h]
    for block in blocks:
        h = _linear(_layer_norm(x, block.norm_1), block.qkv, block.qkv_bias)
        x = _after_attention(block, x, _attend(block, everywhere, h))
    h, width = _layer_norm(x, last.norm_1), x.shape[1]
    q = _linear(h[drawn.tokens], last.qkv[:, :width], last.qkv_bias[:width])
    kv = _linear(h, last.qkv[:, width:], last.qkv_bias[width:])
    x = _after_attention(last, x[drawn.tokens], _attend(last, drawn, q, kv))
    return _layer_norm(x, _norm(trunk.ln_f)), weight


class _Embedding(torch.autograd.Function):
    """Rows of weights, and the weights again, for the output layer.

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
        if of_weight is None:  # other weights are the output layer's
            of_weight = of_rows.new_zeros(ctx.shape)
        return of_weight.index_add_(0, tokens.flatten(), of_rows.flatten(0, 1)), None


@dataclass(frozen=True)
class _Queries:
    """The tokens of a batch of texts that look at those before them and at themselves.

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
        """All tokens; what padding sees is nobody's business."""
        begins = torch.arange(0, len(starts) * size, size, device=starts.device)
        return cls(begins, starts + lengths - 1, torch.zeros_like(starts), size)

    @classmethod
    def drawn(cls, starts: Tensor, lengths: Tensor, size: int) -> _Queries:
        """Those from whose states completions are drawn."""
        return cls(lengths.cumsum(0) - lengths, lengths, starts - 1, size)

    @cached_property
    def columns(self) -> Tensor:
        """`(B, T)`, where they are; beyond a text's last one, where they would be."""
        return self.firsts[:, None] + torch.arange(int(self.counts.max()), device=self.firsts.device)

    @cached_property
    def mask(self) -> Tensor:
        """`(B, T)`, which of these there are."""
        return self.columns - self.firsts[:, None] < self.counts[:, None]

    @cached_property
    def tokens(self) -> Tensor:
        """`(N,)`, which tokens of the batch they are, counted row by row."""
        rows = torch.arange(0, len(self.begins) * self.size, self.size, device=self.begins.device)
        return (rows[:, None] + self.columns)[self.mask]


def _attend(block: _Block, queries: _Queries, *qkv: Tensor) -> Tensor:
    """Attention.

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


def _after_attention(block: _Block, x: Tensor, attended: Tensor) -> Tensor:
    x = x + _linear(attended, block.projection, block.projection_bias)
    h = _linear(_layer_norm(x, block.norm_2), block.up, block.up_bias)
    return x + _linear(_gelu(h), block.down, block.down_bias)


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`x · weight + bias`."""
    if kernels_for(x) is None:
        return torch.addmm(bias, x, weight)
    return _Linear.apply(x, weight, bias)  # type: ignore[no-any-return,no-untyped-call]


class _Linear(torch.autograd.Function):
    """`torch.addmm(bias, x, weight)` by kernels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            product(gradient, weight.T) if for_x else None,
            product(x.T, gradient) if for_weight else None,
            gradient.sum(0) if for_bias else None,
        )


def _gelu(x: Tensor) -> Tensor:
    if kernels_for(x) is None:
        return F.gelu(x, approximate="tanh")
    return _GELU.apply(x)  # type: ignore[no-any-return,no-untyped-call]


def _layer_norm(x: Tensor, norm: tuple[Any, ...]) -> Tensor:
    weight, bias, epsilon = norm
    return torch.layer_norm(x, weight.shape, weight, bias, epsilon)


class _GELU(torch.autograd.Function):
    """`F.gelu(x, approximate="tanh")` of a contiguous tensor, by kernels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _kernels(x).gelu(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _kernels(x).gelu_backward(x, gradient.contiguous())


class _Attention(torch.autograd.Function):
    """`_attend` by kernels."""

    @staticmethod
    def forward(ctx: Any, texts: Texts, *qkv: Tensor) -> Tensor:
        out, log_sums = _kernels(qkv[0]).attention(texts, *_split(qkv))
        ctx.save_for_backward(*qkv, log_sums)
        ctx.texts = texts
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *qkv, log_sums = ctx.saved_tensors
        found = [(torch.zeros_like if ctx.texts.ragged else torch.empty_like)(x) for x in qkv]
        parts = _split(qkv), log_sums, gradient.contiguous(), _split(found)
        _kernels(gradient).attention_backward(ctx.texts, *parts)
        return None, *found


def _split(qkv: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values `(…, D)` of what `_attend` takes."""
    q, k, v = qkv[0].chunk(3, 1) if len(qkv) == 1 else (qkv[0], *qkv[1].chunk(2, 1))
    return q, k, v


def _kernels(x: Tensor) -> kernels.Kernels:
    found = kernels_for(x)
    assert found is not None
    return found


class _Block:
    """The parameters of a block of GPT-2, looked up once: a step of a small model has few other costs."""

    def __init__(self, block: Any) -> None:
        attention, mlp = block.attn, block.mlp
        self.heads, self.size, self.scale = attention.num_heads, attention.head_dim, attention.scaling
        self.norm_1, self.norm_2 = _norm(block.ln_1), _norm(block.ln_2)
        self.qkv, self.qkv_bias = attention.c_attn.weight, attention.c_attn.bias
        self.projection, self.projection_bias = attention.c_proj.weight, attention.c_proj.bias
        self.up, self.up_bias = mlp.c_fc.weight, mlp.c_fc.bias
        self.down, self.down_bias = mlp.c_proj.weight, mlp.c_proj.bias

    def matrices(self) -> tuple[Tensor, ...]:
        """For the kernels to lay out."""
        return self.qkv, self.projection, self.up, self.down

    def layer(self, panels: Iterator[Panels]) -> kernels.Layer:
        """For the kernels, without keys and values; the next panels are of its `matrices`."""
        (gain_1, offset_1, epsilon_1), (gain_2, offset_2, epsilon_2) = self.norm_1, self.norm_2
        qkv, projection, up, down = (next(panels).memory for _ in self.matrices())
        first = (gain_1, offset_1, qkv, self.qkv_bias, projection, self.projection_bias)
        second = (gain_2, offset_2, up, self.up_bias, down, self.down_bias)
        pointers = (x.data_ptr() for x in (*first, *second))
        return kernels.Layer(*pointers, None, None, self.scale, epsilon_1, epsilon_2)


def _norm(module: Any) -> tuple[Any, ...]:
    """Weight, bias and epsilon of a layer norm."""
    return module.weight, module.bias, module.eps
