"""Log-probabilities and gradients of small models of many architectures, against float64: a table, and JSON.

    python benchmarks/architectures.py [--only REGEX] [--json FILE]

Eight texts are written by a rollout, after prompts of 1 to 256 tokens, up to 512 tokens in all. What the
rollout says of every token, what an update says of it, and the update's gradients are compared with those of
the model's own code in float64, which reads one text at a time, without padding and without a cache. The
weights are random, so the table says nothing about speed. Exit status 1: an error was above its tolerance.
"""

from __future__ import annotations

import argparse
import copy
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from machine import Row, save
from torch import Tensor

from text_gym import Prompt, TextVectorEnv, WordTokenizer
from text_gym.agents import Policy, Rollout, rollout
from text_gym.models.cpu.fast_path import fast_path

RESULT = Path(__file__).parent / "results" / "architectures.json"
LOG_PROB_TOLERANCE = 1e-4  # nats, of every token
GRADIENT_TOLERANCE = 1e-4  # of the largest entry of a weight's gradient
TOKENS, IDS = 512, 256
PROMPTS = (1, 3, 10, 31, 64, 100, 180, 256)  # tokens
_ROPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": TOKENS,
    "initializer_range": 0.15,
}
_LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "original_max_position_embeddings": 64}
_LLAMA3 |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
_SOFT = {"head_dim": 16, "query_pre_attn_scalar": 16}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT-2": ("gpt2", {}),
    "Llama": ("llama", {}),
    "Llama 3": ("llama", {"rope_parameters": _LLAMA3}),
    "SmolLM2": (
        "llama",
        {"num_attention_heads": 8, "tie_word_embeddings": True, "rms_norm_eps": 1e-5},
    ),
    "SmolLM3": ("smollm3", {"no_rope_layers": [1, 1, 0]}),
    "Mistral": ("mistral", {"sliding_window": None}),
    "Mistral, window of 64": ("mistral", {"sliding_window": 64}),
    "Qwen2": ("qwen2", {}),
    "Qwen3": ("qwen3", {"head_dim": 16}),
    "Gemma": ("gemma", {"head_dim": 16}),
    "Gemma 2": ("gemma2", {**_SOFT, "sliding_window": 64, "final_logit_softcapping": 30.0}),
    "Gemma 3": ("gemma3_text", {**_SOFT, "sliding_window": 64}),
    "Phi-3": ("phi3", {"pad_token_id": None}),
    "OLMo 2": ("olmo2", {}),
    "StableLM": ("stablelm", {}),
    "GPT-NeoX": ("gpt_neox", {"num_key_value_heads": None}),
    "Granite": ("granite", {"logits_scaling": 2.0}),
    "Cohere": ("cohere", {"logit_scale": 0.3}),
}


class Found(NamedTuple):
    """What one architecture was found to say, and how it was read."""

    fast: bool
    log_probs: float  # nats, the largest error of a rollout's
    update: float  # nats, likewise of an update's
    gradients: float  # the largest error in a weight's gradient over that gradient's largest entry
    tokens: int  # that were written
    longest: int  # tokens of the longest text, its prompt included

    @property
    def fine(self) -> bool:
        """All errors are within the tolerances."""
        near = max(self.log_probs, self.update) < LOG_PROB_TOLERANCE
        return near and self.gradients < GRADIENT_TOLERANCE


def words() -> WordTokenizer:
    """A vocabulary of `IDS` ids, padding and EOS among them."""
    return WordTokenizer([f"w{i}" for i in range(IDS - 2)])


def make(name: str) -> Policy:
    """Make a small policy of an architecture; gains and biases are not all alike."""
    kind, changes = ARCHITECTURES[name]
    settings: dict[str, Any] = {"vocab_size": IDS, "pad_token_id": None, "bos_token_id": None}
    if kind == "gpt2":
        settings |= {
            "n_embd": 64,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": TOKENS,
            "initializer_range": 0.15,
        }
        settings |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    else:
        settings |= _ROPE
    settings |= {"eos_token_id": None, **changes}
    settings = {key: value for key, value in settings.items() if value is not None or key.endswith("_id")}
    settings |= {"sliding_window": None} if changes.get("sliding_window", 0) is None else {}
    config = transformers.AutoConfig.for_model(kind, **settings)
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        for weight in model.parameters():
            if weight.ndim == 1:
                weight += torch.randn(weight.shape, generator=generator) * 0.1
    return Policy(model, words(), device="cpu")


def play(policy: Policy) -> Rollout:
    """Write a text after each of the prompts."""
    rng = np.random.default_rng(0)
    prompts = [Prompt(" ".join(f"w{i}" for i in rng.integers(0, IDS - 2, n))) for n in PROMPTS]
    env = TextVectorEnv(
        prompts, policy.tokenizer, len, TOKENS - max(PROMPTS), num_envs=len(prompts), numbering="global"
    )
    return rollout(policy, env, np.arange(len(prompts)))


def exact(policy: Policy, batch: Rollout, weights: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Read each text alone with the model's own code in float64.

    Args:
        policy: Whose model is copied.
        batch: The texts.
        weights: `(B, T)`, of the log-probabilities in the number whose gradient is taken.

    Returns:
        The log-probabilities of each completion, `(T_i,)` nats, and the gradients by name.
    """
    model = copy.deepcopy(policy.model).double()
    found, total = [], torch.zeros((), dtype=torch.float64)
    for i, n in enumerate(batch.host_lengths):
        start = int(batch.starts[i])
        ids = batch.tokens[i, : start + n][None]
        logits = model(input_ids=ids, use_cache=False).logits[0, start - 1 : -1, : policy.vocab_size]
        said = logits.log_softmax(-1).gather(1, ids[0, start:, None])[:, 0]
        total = total + (said * weights[i, :n]).sum()
        found.append(said.detach())
    total.backward()
    return found, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def compare(name: str) -> Found:
    """Compare an architecture's rollout and update with float64."""
    policy = make(name)
    batch = play(policy)
    said = policy.evaluate(batch.tokens, batch.starts, batch.lengths).log_probs
    weights = torch.randn(said.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    policy.zero_grad()
    (said * weights.float()).sum().backward()
    wanted, slopes = exact(policy, batch, weights)

    def off(ours: Tensor) -> float:
        return max(float((ours[i, : len(x)] - x).abs().max()) for i, x in enumerate(wanted))

    ours = {key: p.grad for key, p in policy.model.named_parameters() if p.grad is not None}
    if ours.keys() != slopes.keys():
        raise AssertionError(f"{name}: gradients of {sorted(ours.keys() ^ slopes.keys())} on one side only")
    errors = [
        float((ours[key] - slope).abs().max() / slope.abs().max().clamp_min(1e-12))
        for key, slope in slopes.items()
    ]
    fast = fast_path(policy.model.base_model) is not None
    longest = max(int(start) + n for start, n in zip(batch.starts, batch.host_lengths, strict=True))
    tokens = sum(batch.host_lengths)
    return Found(fast, off(batch.log_probs), off(said.detach()), max(errors), tokens, longest)


def main() -> int:
    """Compare all architectures, and write what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name in filter(re.compile(args.only).search, ARCHITECTURES):
        found = compare(name)
        rows.append({"architecture": name, **found._asdict(), "fine": found.fine})
        way = "fast path" if found.fast else "own code"
        print(
            f"{name:24}{way:10} rollout {found.log_probs:.1e}  update {found.update:.1e}  "
            f"gradients {found.gradients:.1e}  {found.tokens} tokens, longest text {found.longest}",
            flush=True,
        )
    save(args.json, rows, transformers=transformers.__version__)
    return 0 if all(row["fine"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
