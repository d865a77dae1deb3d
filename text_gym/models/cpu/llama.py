"""The Llama family's arithmetic written out: RMSNorm, RoPE, grouped-query attention, gated perceptrons.

Llama, Mistral, Qwen2, Qwen3, Gemma (the first) and SmolLM3 are one architecture with a few switches.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from .kernel_cache import LayerParts, Linear, Norm, TrunkParts

FAMILY = {
    f"transformers.models.{name.lower()}.modeling_{name.lower()}": name
    for name in ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "SmolLM3")
}
# RoPE whose angles depend on nothing but the position.
STATIC_ROPE = {"default", "linear", "llama3", "yarn"}
ACTIVATIONS = {"silu": "gated silu", "swish": "gated silu", "gelu_pytorch_tanh": "gated gelu"}


def fits(trunk: nn.Module) -> bool:
    """Return True if a trunk is an unmodified member of the family: no adapters, foreign modules or hooks."""
    place = type(trunk).__module__
    name = FAMILY.get(place)
    if name is None or type(trunk).__name__ != f"{name}Model" or trunk.dtype != torch.float32:
        return False
    config: Any = trunk.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None)
    if "sliding_attention" in kinds or (window is not None and name == "Mistral"):
        return False
    if config.rope_parameters["rope_type"] not in STATIC_ROPE or config.hidden_act not in ACTIVATIONS:
        return False
    own = {value for value in vars(sys.modules[place]).values() if isinstance(value, type)}
    plain = {nn.Linear, nn.Embedding, nn.ModuleList}
    return all(
        (type(m) in plain or type(m) in own or not list(m.parameters()))
        and not (m._forward_hooks or m._forward_pre_hooks)
        for m in trunk.modules()
    )


def llama_parts(trunk: Any) -> TrunkParts:
    """Take a trunk that `fits` apart for the kernels, with its weights as they are."""
    config, attention = trunk.config, trunk.layers[0].self_attn
    angles = rope_angles(trunk)
    return TrunkParts(
        [layer_parts(layer, angles) for layer in trunk.layers],
        embedding=trunk.embed_tokens.weight.detach(),
        norm=norm_of(trunk.norm),
        heads=config.num_attention_heads,
        groups=config.num_key_value_heads,
        size=attention.head_dim,
        inner=config.intermediate_size,
        activation=ACTIVATIONS[config.hidden_act],  # type: ignore[arg-type]
        context=config.max_position_embeddings,
        embedding_scale=float(getattr(trunk.embed_tokens, "scalar_embed_scale", 1.0)),
    )


def rope_angles(trunk: Any) -> tuple[Tensor, Tensor]:
    """Ask the model for the cosines and sines of all its positions, `(context, size / 2)` each."""
    positions = torch.arange(trunk.config.max_position_embeddings)[None]
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
    gain = norm.weight.detach()
    if type(norm).__name__ == "GemmaRMSNorm":
        return 1.0 + gain, None, norm.eps
    return gain, None, norm.variance_epsilon


def side_by_side(*layers: Any) -> Linear:
    """Join linear layers that read the same input into one, `(inputs, outputs)`."""
    weights = [layer.weight.detach() for layer in layers]
    weight = weights[0] if len(weights) == 1 else torch.cat(weights)
    biases = [layer.bias for layer in layers if layer.bias is not None]
    return weight.t(), torch.cat([bias.detach() for bias in biases]) if biases else None
