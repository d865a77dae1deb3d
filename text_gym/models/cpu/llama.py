"""The Llama family's arithmetic written out: RMSNorm, RoPE, grouped-query attention, gated perceptrons.

Llama, Mistral, Qwen2, Qwen3, Gemma (the first) and SmolLM3 are one architecture with a few switches. An
update reads texts without padding, and a prompt once that several of them share (`packing`), layer by layer
(`llama_layer`).
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from text_gym.models.kv_cache import KVCache, RolloutWeights

from .gpt2 import embed
from .kernel_cache import KernelCache, LayerParts, Linear, TrunkParts
from .kernels import Kernels, kernels_for
from .llama_layer import GATES, Layer, TextLayout, norm_of, root_norm
from .packing import pack_texts

FAMILY = {
    f"transformers.models.{name.lower()}.modeling_{name.lower()}": name
    for name in ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "SmolLM3")
}
# RoPE whose angles depend on nothing but the position.
STATIC_ROPE = {"default", "linear", "llama3", "yarn"}


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


def side_by_side(*layers: Any) -> Linear:
    """Join linear layers that read the same input into one, `(inputs, outputs)`."""
    biases = [layer.bias for layer in layers if layer.bias is not None]
    return [layer.weight.t() for layer in layers], torch.cat(biases) if biases else None


def llama_states(trunk: Any, tokens: Tensor, starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the states from which the completions' tokens are drawn, as `ComputeStates` describes it.

    Args:
        trunk: One that `fits_llama`.
        tokens: `(B, S)` int64, right-padded; `S` is at least the largest `P + T - 1`.
        starts: `(B,)` int64, prompt lengths `P`.
        lengths: `(B,)` int64, completion lengths `T`; `N` is their sum.
    """
    packed = pack_texts(tokens, starts, lengths)
    angles = rope_angles(trunk, packed.longest)
    *layers, last = [Layer(layer, trunk, angles) for layer in trunk.layers]
    shape = last.heads, last.groups, last.size, last.scale
    everywhere, drawn = (packed.texts(which, *shape) for which in (packed.everywhere, packed.drawn))

    embedded, weight = embed(trunk.embed_tokens.weight, packed.tokens[None])
    x = embedded[0]
    if hasattr(trunk.embed_tokens, "embed_scale"):
        x = x * trunk.embed_tokens.embed_scale
    for layer in layers:
        x = layer(x, TextLayout(everywhere, packed.positions))
    x = last(x, TextLayout(drawn, packed.positions, packed.asked))
    gain, _, epsilon = norm_of(trunk.norm)
    return root_norm(x, gain, epsilon).index_select(0, packed.states), weight


def _kernels(x: Tensor) -> Kernels:
    """Return the kernels, for a trunk that fits them."""
    found = kernels_for(x)
    assert found is not None
    return found
