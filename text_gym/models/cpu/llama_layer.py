"""A layer of the Llama family for updates: its two branches, each one function with its backward pass.

For PyTorch a layer is twenty functions, and each writes its result to memory for the next one. Here the last
product of a branch is added to the states as it is made, and matrices that read the same numbers are one
product, as are their gradients. Nothing here reads token by token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .kernel_cache import ACTIVATIONS, Norm
from .kernel_types import Places, Texts
from .kernels import Kernels, kernels_for
from .products import matmul

GATES = {"silu": "gated silu", "swish": "gated silu", "gelu_pytorch_tanh": "gated gelu"}


class AttentionWeights(NamedTuple):
    """The tensors of a layer's first branch: matrices `(outputs, inputs)`, and biases and gains, if any."""

    norm: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    q_bias: Tensor | None
    k_bias: Tensor | None
    v_bias: Tensor | None
    o_bias: Tensor | None
    of_queries: Tensor | None
    of_keys: Tensor | None


class PerceptronWeights(NamedTuple):
    """The tensors of a layer's second branch."""

    norm: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor
    gate_bias: Tensor | None
    up_bias: Tensor | None
    down_bias: Tensor | None


@dataclass(frozen=True)
class TextLayout:
    """How a batch of texts lies before a layer, and what is asked of it.

    Args:
        texts: Which queries meet which keys.
        positions: `(n,)` int64, of all tokens.
        asked: `(m,)` int64, those that have queries; None means all.
    """

    texts: Texts
    positions: Tensor
    asked: Tensor | None = None

    def some(self, x: Tensor) -> Tensor:
        """Return the rows of `(n, …)` that have queries."""
        return x if self.asked is None else x[self.asked]


class Layer:
    """A layer's parameters, looked up once."""

    def __init__(self, layer: Any, trunk: Any, angles: tuple[Tensor, Tensor]) -> None:
        config, attention, mlp = trunk.config, layer.self_attn, layer.mlp
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.size, self.scale = attention.head_dim, attention.scaling
        self.activation = ACTIVATIONS.index(GATES[config.hidden_act])
        self.angles = angles if getattr(attention, "use_rope", True) else None
        gain, _, self.epsilon_1 = norm_of(layer.input_layernorm)
        norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
        linears = attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj
        gains = [None if norm is None else norm_of(norm)[0] for norm in norms]
        self.attention = AttentionWeights(gain, *_parameters(*linears), *gains)
        self.epsilon = 0.0 if norms[0] is None else norm_of(norms[0])[2]
        gain, _, self.epsilon_2 = norm_of(layer.post_attention_layernorm)
        self.perceptron = PerceptronWeights(gain, *_parameters(mlp.gate_proj, mlp.up_proj, mlp.down_proj))

    def __call__(self, x: Tensor, layout: TextLayout) -> Tensor:
        """Compute the states `(m, D)` after the layer from those of all tokens before it, `(n, D)`."""
        x = _Attention.apply(self, layout, x, *self.attention)  # type: ignore[no-untyped-call]
        return _Perceptron.apply(self, x, *self.perceptron)  # type: ignore[no-any-return,no-untyped-call]

    def places(self, positions: Tensor, gain: Tensor | None) -> Places:
        """Describe what becomes of queries or keys to the kernels."""
        return Places(positions, self.size, gain, self.epsilon, self.angles)


def _parameters(*linears: Any) -> list[Any]:
    """Return the weights of linear layers, then their biases."""
    return [*(linear.weight for linear in linears), *(linear.bias for linear in linears)]


def norm_of(norm: Any) -> Norm:
    """Return the gain and epsilon of an RMSNorm; Gemma's keeps its gain less 1."""
    gain = norm.weight
    if type(norm).__name__ == "GemmaRMSNorm":
        return 1.0 + gain, None, norm.eps
    return gain, None, norm.variance_epsilon


def root_norm(x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
    """Divide rows `(n, D)` by the root of their mean square, and multiply with a gain `(D,)`, by kernels."""
    return _RootNorm.apply(x.contiguous(), gain, epsilon)  # type: ignore[no-any-return,no-untyped-call]


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


class _Attention(torch.autograd.Function):
    """A layer's first branch: what attention makes of the normed states is added to the states."""

    @staticmethod
    def forward(ctx: Any, layer: Layer, layout: TextLayout, x: Tensor, *weights: Tensor | None) -> Tensor:
        w, kernels = AttentionWeights(*weights), _kernels(x)  # type: ignore[arg-type]
        h = kernels.root_norm(x, w.norm, layer.epsilon_1)
        q = matmul(layout.some(h), w.q.t(), w.q_bias)
        kv = matmul(h, (w.k.t(), w.v.t()), _joined(w.k_bias, w.v_bias))
        k, v = kv.chunk(2, 1)
        at = layout.positions
        kept_q = kernels.place(q, layer.places(layout.some(at), w.of_queries), keep=True)
        kept_k = kernels.place(k, layer.places(at, w.of_keys), keep=True)
        attended, log_sums = kernels.attention(layout.texts, q, k, v)
        ctx.save_for_backward(x, h, q, kv, kept_q, kept_k, attended, log_sums, *weights)
        ctx.layer, ctx.layout = layer, layout
        return _added(layout.some(x), attended, w.o, w.o_bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, h, q, kv, kept_q, kept_k, attended, log_sums, *weights = ctx.saved_tensors
        layer, layout, w, kernels = ctx.layer, ctx.layout, AttentionWeights(*weights), _kernels(x)
        gradient, of_q, of_kv = gradient.contiguous(), torch.empty_like(q), torch.empty_like(kv)
        (k, v), (of_k, of_v) = kv.chunk(2, 1), of_kv.chunk(2, 1)
        of_attended = matmul(gradient, w.o)
        kernels.attention_backward(layout.texts, (q, k, v), log_sums, of_attended, (of_q, of_k, of_v))
        at = layout.positions
        of_queries = kernels.place_backward(of_q, kept_q, layer.places(layout.some(at), w.of_queries))
        of_keys = kernels.place_backward(of_k, kept_k, layer.places(at, w.of_keys))
        of_h, beside = matmul(of_k, w.k), gradient
        matmul(of_v, w.v, out=of_h, add=True)
        if layout.asked is None:
            matmul(of_q, w.q, out=of_h, add=True)
        else:
            of_h.index_add_(0, layout.asked, matmul(of_q, w.q))
            beside = torch.zeros_like(x).index_copy_(0, layout.asked, gradient)
        of_x, of_norm = kernels.root_norm_backward(x, w.norm, layer.epsilon_1, of_h, beside)
        q_, q_bias = _of_linears(of_q, layout.some(h), (w.q, w.q_bias))
        k_, v_, k_bias, v_bias = _of_linears(of_kv, h, (w.k, w.k_bias), (w.v, w.v_bias))
        o_, o_bias = _of_linears(gradient, attended, (w.o, w.o_bias))
        biases = q_bias, k_bias, v_bias, o_bias
        return None, None, of_x, of_norm, q_, k_, v_, o_, *biases, of_queries, of_keys


class _Perceptron(torch.autograd.Function):
    """A layer's second branch: what its gated perceptron makes of the normed states is added to them."""

    @staticmethod
    def forward(ctx: Any, layer: Layer, x: Tensor, *weights: Tensor | None) -> Tensor:
        w, kernels = PerceptronWeights(*weights), _kernels(x)  # type: ignore[arg-type]
        h = kernels.root_norm(x, w.norm, layer.epsilon_2)
        u = matmul(h, (w.gate.t(), w.up.t()), _joined(w.gate_bias, w.up_bias))
        closed = kernels.gated(u, layer.activation)
        ctx.save_for_backward(x, h, u, closed, *weights)
        ctx.layer = layer
        return _added(x, closed, w.down, w.down_bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, h, u, closed, *weights = ctx.saved_tensors
        layer, w, kernels = ctx.layer, PerceptronWeights(*weights), _kernels(x)
        gradient = gradient.contiguous()
        of_u = kernels.gated_backward(u, layer.activation, matmul(gradient, w.down))
        of_gates, of_values = of_u.chunk(2, 1)
        of_h = matmul(of_gates, w.gate)
        matmul(of_values, w.up, out=of_h, add=True)
        of_x, of_norm = kernels.root_norm_backward(x, w.norm, layer.epsilon_2, of_h, gradient)
        gate, up, gate_bias, up_bias = _of_linears(of_u, h, (w.gate, w.gate_bias), (w.up, w.up_bias))
        down, down_bias = _of_linears(gradient, closed, (w.down, w.down_bias))
        return None, of_x, of_norm, gate, up, down, gate_bias, up_bias, down_bias


def _joined(*biases: Tensor | None) -> Tensor | None:
    """Join the biases of linear layers that read the same numbers; all of them have one, or none has."""
    found = [bias for bias in biases if bias is not None]
    return torch.cat(found) if found else None


def _added(x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Add to the states what a linear layer makes of a branch."""
    out = matmul(branch, weight.t(), plus=x)
    return out if bias is None else out.add_(bias)


def _of_linears(of_out: Tensor, x: Tensor, *layers: tuple[Tensor, Tensor | None]) -> list[Tensor | None]:
    """Compute the gradients of linear layers that stand side by side: of their weights, then of their biases.

    Args:
        of_out: `(n, outputs)`, the gradient of what they made, …
        x: … `(n, inputs)`, of this.
        layers: Weight `(outputs, inputs)` and bias of each.
    """
    sizes = [len(weight) for weight, _ in layers]
    of_weights: list[Tensor | None] = [None] * len(layers)
    if any(weight.requires_grad for weight, _ in layers):
        of_weights = [*matmul(of_out.t(), x).split(sizes)]
    parts = zip(of_out.split(sizes, 1), layers, strict=True)
    return [*of_weights, *(None if bias is None else part.sum(0) for part, (_, bias) in parts)]


def _kernels(x: Tensor) -> Kernels:
    """Return the kernels, for an operator that is called only where there are some."""
    found = kernels_for(x)
    assert found is not None
    return found
