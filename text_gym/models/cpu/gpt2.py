"""GPT-2's arithmetic written out: its blocks, and its states in a batch of texts, with gradients for updates.

The last layer is computed only where a state is asked for. Matrix products are PyTorch's; attention and GELU,
forward and backward, are kernels where there are any. Reading token by token is in `gpt2_cache`. The Llama
family shares the embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from text_gym.models.runtime import upload

from .kernel_cache import LayerParts, Norm
from .kernel_types import Texts
from .kernels import Kernels, kernels_for


def fits_gpt2(trunk: nn.Module) -> bool:
    """Return True if a trunk is an unmodified GPT-2: no adapters, foreign modules or hooks."""
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


def gpt2_states(trunk: Any, tokens: Tensor, starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the states from which the completions' tokens are drawn, as `ComputeStates` describes it.

    Args:
        trunk: One that `fits_gpt2`.
        tokens: `(B, S)` int64, right-padded; `S` is at least the largest `P + T - 1`.
        starts: `(B,)` int64 on the host, prompt lengths `P`.
        lengths: `(B,)` int64 on the host, completion lengths `T`; `N` is their sum.
    """
    n, size = tokens.shape
    everywhere, drawn, asked = queries_of(size, starts, lengths)
    asked = upload(asked, tokens.device)
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


class _Embedding(torch.autograd.Function):
    """Looks up rows of the embedding `(V, D)`, and passes the weights on, for a tied output layer.

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


embed: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = _Embedding.apply  # of weights and tokens


class Queries(NamedTuple):
    """The query tokens of a batch of texts, each of which attends to itself and those before it.

    Args:
        begins: `(B,)` int64 on the host, the number of each text's first one.
        counts: `(B,)` int64 likewise, how many there are of each text.
        firsts: `(B,)` int64 likewise, the column of its first one.
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
        starts: `(B,)` int64 on the host, prompt lengths.
        lengths: `(B,)` int64 on the host, completion lengths; `N` is their sum.

    Returns:
        Both, and `(N,)` int64 on the host: which of the `B · S` tokens the latter are, row by row.
    """
    n = len(starts)
    everywhere = Queries(
        torch.arange(0, n * size, size), starts + lengths - 1, torch.zeros_like(starts), size
    )
    drawn = Queries(lengths.cumsum(0) - lengths, lengths, starts - 1, size)
    rows, steps = (torch.arange(int(lengths.max())) < lengths[:, None]).nonzero(as_tuple=True)
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
    device, steps = qkv[0].device, torch.arange(int(counts.max()))
    mask = steps < counts[:, None]  # (B, T), the queries that exist
    there = tuple(upload(x, device) for x in mask.nonzero(as_tuple=True))
    q = qkv[0].new_zeros(*mask.shape, qkv[0].shape[1]).index_put(there, qkv[0])
    q = q.view(*mask.shape, block.heads, block.size).transpose(1, 2)
    columns = upload(firsts[:, None] + steps, device)
    seen = torch.arange(size, device=device) <= columns[:, None, :, None]
    h = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=block.scale)
    return h.transpose(1, 2)[there].flatten(1)


class _Attention(torch.autograd.Function):
    """`attend` by kernels, with its backward pass."""

    @staticmethod
    def forward(ctx: Any, kernels: Kernels, texts: Texts, *qkv: Tensor) -> Tensor:
        out, log_sums = kernels.attention(texts, *_split(qkv, texts))
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
        parts = _split(qkv, ctx.texts), log_sums, gradient.contiguous(), _split(found, ctx.texts)
        kernels.attention_backward(ctx.texts, *parts)
        return None, None, *found


def _split(qkv: Sequence[Tensor], texts: Texts) -> tuple[Tensor, Tensor, Tensor]:
    """Split `attend`'s input into queries `(…, D)`, keys and values `(…, groups · size)`."""
    if len(qkv) == 2:
        q, (k, v) = qkv[0], qkv[1].chunk(2, 1)
    else:
        shared = texts.groups * texts.size
        q, k, v = qkv[0].split([texts.heads * texts.size, shared, shared], 1)
    return q, k, v
