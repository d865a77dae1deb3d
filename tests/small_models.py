"""Tiny causal LMs with random weights, and what they say of a text when only `transformers` is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import Tensor

from text_gym import Tokenizer, WordTokenizer
from text_gym.agents import Policy

_ROPE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.4,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
_SPECIAL: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 4},
    "mistral": {"sliding_window": 6},  # shorter than the texts: the window has to move
    "gemma": {"head_dim": 4},
    "smollm3": {"no_rope_layers": [1, 0]},  # the second layer does not turn
    "gemma2": {
        "head_dim": 4,
        "sliding_window": 6,
        "final_logit_softcapping": 3.0,
        "query_pre_attn_scalar": 4,
    },
    "cohere": {"logit_scale": 0.3},
    "granite": {"logits_scaling": 2.0},
}
KINDS = ("gpt2", *_SPECIAL)
# What other architectures keep while they read: a window by another name, states narrower than the blocks,
# recurrent states in `transformers`' cache and in one of their own, chunks of attention, nothing at all.
_OTHERS: dict[str, dict[str, Any]] = {
    "gpt_neo": {
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 6,
        "max_position_embeddings": 64,
        "initializer_range": 0.4,
    },
    "opt": {
        "hidden_size": 16,
        "word_embed_proj_dim": 8,
        "ffn_dim": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "do_layer_norm_before": False,
        "max_position_embeddings": 64,
        "init_std": 0.4,
    },
    "lfm2": {**_ROPE, "layer_types": ["conv", "full_attention"], "conv_L_cache": 3},
    "mamba": {"hidden_size": 16, "state_size": 4, "num_hidden_layers": 2, "initializer_range": 0.4},
    "biogpt": {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "initializer_range": 0.4,
    },
    "llama4_text": {
        **_ROPE,
        "head_dim": 4,
        "num_local_experts": 2,
        "intermediate_size_mlp": 24,
        "attention_chunk_size": 6,
    },
    "openai-gpt": {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.4},
}
OTHER_KINDS = tuple(_OTHERS)
_OTHERS["recurrent_gemma"] = {
    **_ROPE,
    "num_hidden_layers": 3,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "lru_width": 16,
    "attention_window_size": 6,
    "logits_soft_cap": 1.5,
}
_OTHERS["mpt"] = {"d_model": 16, "n_layers": 2, "n_heads": 4, "max_seq_len": 24}
_OTHERS["deepseek_v4"] = {
    **_ROPE,
    "num_key_value_heads": 1,
    "num_hidden_layers": 3,
    "layer_types": ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"],
    "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
    "mlp_layer_types": ["moe", "moe", "moe"],
    "head_dim": 8,
    "q_lora_rank": 8,
    "moe_intermediate_size": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "o_groups": 2,
    "o_lora_rank": 4,
    "index_n_heads": 2,
    "index_head_dim": 8,
    "index_topk": 64,
    "sliding_window": 6,
}
_OTHERS["mixtral"] = {**_ROPE, "num_local_experts": 4, "num_experts_per_tok": 2}  # never in float64


def small_model(kind: str = "gpt2", rows: int = 12, seed: int = 0, **changes: Any) -> Any:
    """A causal LM of two layers with random weights, large enough for very uneven predictions."""
    settings: dict[str, Any] = {"vocab_size": rows}
    if kind == "gpt2":
        settings |= {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.4}
        settings |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        settings |= {"bos_token_id": None, "eos_token_id": None}
    elif kind in _OTHERS:
        settings |= _OTHERS[kind] | dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    else:
        settings |= _ROPE | _SPECIAL[kind]
    config = transformers.AutoConfig.for_model(kind, **(settings | changes))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.AutoModelForCausalLM.from_config(config)


def small_policy(
    kind: str = "gpt2",
    tokenizer: Tokenizer | None = None,
    *,
    rows: int = 0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> Policy:
    """A policy on a `small_model` with a random value head; by default of 9 symbols, EOS and padding."""
    tokenizer = tokenizer or WordTokenizer("abcdefghi", separator="")
    model = small_model(kind, rows or tokenizer.vocab_size, seed, **changes)
    policy = Policy(model.to(dtype), tokenizer, device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        policy.value_head.weight.normal_(generator=generator)
        policy.value_head.bias.normal_(generator=generator)
    return policy


def plain_forward(policy: Policy, ids: Sequence[int], start: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities `(T, V)` and values `(T,)` of the places `start …`, by the model's own forward pass.

    One text, no padding, no cache, no position ids.
    """
    said = policy.model(torch.tensor([list(ids)]), output_hidden_states=True)
    logits = said.logits[0, start - 1 : -1, : policy.tokenizer.vocab_size]
    values = said.hidden_states[-1][0, start - 1 : -1] @ policy.value_head.weight[0] + policy.value_head.bias
    return torch.log_softmax(logits, dim=-1), values


def parameters_of(policy: Policy) -> list[Tensor]:
    """A copy of every parameter, to compare with later."""
    return [p.detach().clone() for p in policy.parameters()]


def same_parameters(policy: Policy, before: Sequence[Tensor]) -> bool:
    """Whether no bit has changed (NaN equals NaN here)."""
    pairs = zip(policy.parameters(), before, strict=True)
    return all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in pairs)
