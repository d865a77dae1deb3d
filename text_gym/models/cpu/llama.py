"""The Llama family's arithmetic written out: RMSNorm, RoPE, grouped-query attention, gated perceptrons.

Llama, Mistral, Qwen2, Qwen3, Gemma (the first) and SmolLM3 are one architecture with a few switches. An
update reads texts without padding, and a prompt once that several of them share (`packing`).
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from text_gym.models.kv_cache import KVCache, RolloutWeights

from .gpt2 import attend_by_kernels, embed
from .kernel_cache import ACTIVATIONS, KernelCache, LayerParts, Linear, Norm, TrunkParts
from .kernels import Kernels, kernels_for
from .packing import pack_texts

FAMILY = {
    f"transformers.models.{name.lower()}.modeling_{name.lower()}": name
    for name in ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "SmolLM3")
}
# RoPE whose angles depend on nothing but the position.
STATIC_ROPE = {"default", "linear", "llama3", "yarn"}
GATES = {"silu": "gated silu", "swish": "gated silu", "gelu_pytorch_tanh": "gated gelu"}


def fits_llama(trunk: Any) -> bool:
    """Return True if the kernels can read a trunk: an unmodified member of the family on the CPU.

    It has no adapters, foreign modules, hooks, or weights that are views with gaps.
    """
    place = type(trunk).__module__
    name = FAMILY.get(place)
    if name is None or type(trunk).__name__ != f"{name}Model" or trunk.dtype != torch.float32:
        return False
    from transformers.activations import ACT2FN

    config: Any = trunk.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None)
    if "sliding_attention" in kinds or (window is not None and name == "Mistral"):
        return False
    if config.rope_parameters["rope_type"] not in STATIC_ROPE or config.hidden_act not in GATES:
        return False
    own = {value for value in vars(sys.modules[place]).values() if isinstance(value, type)}
    own |= {nn.Linear, nn.Embedding, nn.ModuleList, *map(type, map(ACT2FN.__getitem__, GATES))}
    plain = all(type(m) in own and not (m._forward_hooks or m._forward_pre_hooks) for m in trunk.modules())
    return (
        plain
        and kernels_for(trunk.embed_tokens.weight) is not None
        and all(p.is_contiguous() for p in trunk.parameters())
    )


def llama_cache(trunk: Any, rows: int, width: int, weights: RolloutWeights = "float32") -> KVCache:
    """Make a KV cache, as `MakeCache` describes it, for a trunk that `fits_llama`."""
    return KernelCache(_kernels(trunk.embed_tokens.weight), partial(llama_parts, trunk), rows, width, weights)


def llama_parts(trunk: Any) -> TrunkParts:
    """Take a trunk that `fits_llama` apart for the kernels, with its weights as they are."""
    config, attention = trunk.config, trunk.layers[0].self_attn
    angles = rope_angles(trunk, config.max_position_embeddings)
    return TrunkParts(
        [layer_parts(layer, angles) for layer in trunk.layers],
        embedding=trunk.embed_tokens.weight,
        norm=norm_of(trunk.norm),
        heads=config.num_attention_heads,
        groups=config.num_key_value_heads,
        size=attention.head_dim,
        inner=config.intermediate_size,
        activation=GATES[config.hidden_act],  # type: ignore[arg-type]
        context=config.max_position_embeddings,
        embedding_scale=float(getattr(trunk.embed_tokens, "scalar_embed_scale", 1.0)),
    )


def rope_angles(trunk: Any, count: int) -> tuple[Tensor, Tensor]:
    """Ask the model for the cosines and sines of its first positions, `(count, size / 2)` each."""
    positions = torch.arange(count)[None]
    cosines, sines = trunk.rotary_emb(trunk.embed_tokens.weight, positions)
    half = cosines.shape[-1] // 2  # the second half repeats the first
    return cosines[0, :, :half].contiguous(), sines[0, :, :half].contiguous()


def layer_parts(layer: Any, angles: tuple[Tensor, Tensor]) -> LayerParts:
    """Take one layer apart."""
    attention, mlp = layer.self_attn, layer.mlp
    return LayerParts(
        norm_of(layer.input_layernorm),
        side_by_side(attention.q_proj, attention.k_proj, attention.v_proj),
        side_by_side(attention.o_proj),
        norm_of(layer.post_attention_layernorm),
        side_by_side(mlp.gate_proj, mlp.up_proj),
        side_by_side(mlp.down_proj),
        attention.scaling,
        norm_of(attention.q_norm)[0] if hasattr(attention, "q_norm") else None,
        norm_of(attention.k_norm)[0] if hasattr(attention, "k_norm") else None,
        angles if getattr(attention, "use_rope", True) else None,
    )


def norm_of(norm: Any) -> Norm:
    """Return the gain and epsilon of an RMSNorm; Gemma's keeps its gain less 1."""
    gain = norm.weight
    if type(norm).__name__ == "GemmaRMSNorm":
        return 1.0 + gain, None, norm.eps
    return gain, None, norm.variance_epsilon


def side_by_side(*layers: Any) -> Linear:
    """Join linear layers that read the same input into one, `(inputs, outputs)`."""
    biases = [layer.bias for layer in layers if layer.bias is not None]
    return [layer.weight.t() for layer in layers], torch.cat(biases) if biases else None


class Layer:
    """A layer's parameters, looked up once, for updates."""

    def __init__(self, layer: Any, trunk: Any, angles: tuple[Tensor, Tensor]) -> None:
        config, attention, mlp = trunk.config, layer.self_attn, layer.mlp
        self.heads, self.groups, self.size = (
            config.num_attention_heads,
            config.num_key_value_heads,
            attention.head_dim,
        )
        self.scale = attention.scaling
        self.norm_1, self.norm_2 = layer.input_layernorm, layer.post_attention_layernorm
        self.q, self.k, self.v, self.o = (
            attention.q_proj,
            attention.k_proj,
            attention.v_proj,
            attention.o_proj,
        )
        self.of_queries, self.of_keys = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
        self.gate, self.up, self.down = mlp.gate_proj, mlp.up_proj, mlp.down_proj
        self.activation = ACTIVATIONS.index(GATES[config.hidden_act])
        self.angles = angles if getattr(attention, "use_rope", True) else None

    def queries(self, h: Tensor, positions: Tensor) -> Tensor:
        """Compute the queries of tokens `(n, D)` at their positions, `(n, heads · size)`."""
        return self._placed(linear(h, self.q), self.of_queries, positions)

    def keys_and_values(self, h: Tensor, positions: Tensor) -> Tensor:
        """Compute keys and values, `(n, 2 · groups · size)`."""
        return torch.cat([self._placed(linear(h, self.k), self.of_keys, positions), linear(h, self.v)], 1)

    def _placed(self, x: Tensor, norm: Any, positions: Tensor) -> Tensor:
        if norm is not None:
            x = normed(x.view(-1, self.size), norm).view(x.shape)
        if self.angles is None:
            return x
        return rope(x, self.angles, positions, self.size)

    def after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """Compute the rest of the layer, from the states before it and its attention's output."""
        x = x + linear(attended, self.o)
        h = normed(x, self.norm_2)
        h = gated(linear(h, self.gate), linear(h, self.up), self.activation)
        return x + linear(h, self.down)


def llama_states(trunk: Any, tokens: Tensor, starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the states from which the completions' tokens are drawn, as `ComputeStates` describes it.

    Args:
        trunk: One that `fits_llama`.
        tokens: `(B, S)` int64, right-padded; `S` is at least the largest `P + T - 1`.
        starts: `(B,)` int64, prompt lengths `P`.
        lengths: `(B,)` int64, completion lengths `T`; `N` is their sum.
    """
    packed = pack_texts(tokens, starts, lengths)
    positions, asked = packed.positions, packed.asked
    angles = rope_angles(trunk, packed.longest)
    *layers, last = [Layer(layer, trunk, angles) for layer in trunk.layers]
    shape = last.heads, last.groups, last.size, last.scale
    everywhere, drawn = (packed.texts(which, *shape) for which in (packed.everywhere, packed.drawn))
    attend = partial(attend_by_kernels, _kernels(trunk.embed_tokens.weight))

    embedded, weight = embed(trunk.embed_tokens.weight, packed.tokens[None])
    x = embedded[0]
    if hasattr(trunk.embed_tokens, "embed_scale"):
        x = x * trunk.embed_tokens.embed_scale
    for layer in layers:
        h = normed(x, layer.norm_1)
        q, kv = layer.queries(h, positions), layer.keys_and_values(h, positions)
        x = layer.after_attention(x, attend(everywhere, q, kv))
    h = normed(x, last.norm_1)
    q, kv = last.queries(h[asked], positions[asked]), last.keys_and_values(h, positions)
    x = last.after_attention(x[asked], attend(drawn, q, kv))
    return normed(x, trunk.norm)[packed.states], weight


def linear(x: Tensor, layer: Any) -> Tensor:
    """Apply a linear layer."""
    return F.linear(x, layer.weight, layer.bias)


def normed(x: Tensor, norm: Any) -> Tensor:
    """Apply an RMSNorm to `(n, D)`."""
    gain, _, epsilon = norm_of(norm)
    return root_norm(x, gain, epsilon)


# Operators by kernels, with their gradients


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


def _kernels(x: Tensor) -> Kernels:
    """Return the kernels, for an operator that is called only where there are some."""
    found = kernels_for(x)
    assert found is not None
    return found
