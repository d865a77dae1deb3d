"""What each rank runs in `tests/agents/policies/test_sharded.py`: it learns with sharded weights, then alone.

    python -m tests.ranks.sharded FOLDER CASE...

Rank 0 writes how far losses and weights are apart from those of rank 0 alone, unsharded, by case.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from text_gym import TextVectorEnv, WordTokenizer
from text_gym.agents import SFT, LoRAPolicy, Policy, SFTConfig
from text_gym.agents.algorithms.by_name import load_algorithm
from text_gym.episode import Prompt
from text_gym.models.sharding import is_sharded, local
from text_gym.models.world import World, meeting

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ppo": ("ppo", {"minibatches": 2, "target_kl": None}),
    "ppo-shared": ("ppo", {"critic": "shared", "micro_batch_size": 3, "target_kl": None}),
    "grpo": ("grpo", {"minibatches": 2}),
    "grpo-bf16": ("grpo", {"minibatches": 2}),
    "lora": ("grpo", {"learning_rate": 1e-2}),
}
ITERATIONS = 3


def tiny_qwen(tokenizer: WordTokenizer) -> Policy:
    """Make a Qwen2 with random weights."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    return Policy(Qwen2ForCausalLM(config), tokenizer, "cpu")


def learn(case: str, world: World | None) -> tuple[Policy, list[dict[str, Any]], float]:
    """Learn; return the whole policy, rows of metrics, and the share of the block's weights that are here."""
    tokenizer = WordTokenizer("abcde", separator="")
    policy = tiny_qwen(tokenizer).use_less_memory(bf16="bf16" in case)
    rows: list[dict[str, Any]] = []
    blocks = policy.model.base_model.layers
    if case == "sft":
        texts = [(Prompt("abcde"[i % 5]), "abcde"[: i % 4 + 1]) for i in range(9)]
        sft = SFT(policy, texts, SFTConfig(epochs=3, batch_size=4))  # the last batch has one text
        sft.world, sft.shard = world, world is not None
        sft.learn(lambda row: rows.append(dict(row)))
        return sft.policy, rows, here(blocks)
    if case == "lora":
        policy = LoRAPolicy(policy, 4)
        blocks = policy.model.base_model.layers
    name, settings = CASES[case]
    env = TextVectorEnv(
        ["a", "bcd", "ddde"],
        tokenizer,
        lambda completion: float(sum(c in "ae" for c in completion)),
        8,
        num_envs=16,
        numbering="global",
    )
    kind = load_algorithm(name)
    agent = kind(policy, env, kind.config_class(iterations=ITERATIONS, seed=3, **settings))
    if world is not None:
        agent.join(world, shard=True)
    agent.learn(callback=lambda _, row: rows.append(row))
    return agent.whole_policy(), rows, here(blocks)


def here(blocks: torch.nn.Module) -> float:
    """Return the share of some weights that this process has."""
    found = list(blocks.parameters())
    return sum(local(p).numel() for p in found) / sum(p.numel() for p in found)


def main() -> None:
    """Learn together and alone, case by case."""
    torch.set_num_threads(1)
    place, *cases = sys.argv[1:]
    found: dict[str, Any] = {}
    with meeting("cpu") as world:
        assert world is not None
        for case in cases:
            whole, rows, share = learn(case, world)
            assert not any(is_sharded(p) for p in whole.parameters())
            if world.rank:
                continue
            weights = {name: tensor.clone() for name, tensor in whole.weights().items()}
            whole.save(Path(place) / case)
            loaded = Policy.from_pretrained(Path(place) / case, whole.tokenizer, device="cpu").weights()
            alone, expected, _ = learn(case, None)
            known: dict[str, Tensor] = alone.weights()
            start = tiny_qwen(WordTokenizer("abcde", separator="")).weights()
            found[case] = {
                "share": share,
                "weights": apart(weights, known),
                "loaded": apart(weights, loaded),
                "moved": apart(known, start),
                "loss": max(abs(a["loss"] - b["loss"]) for a, b in zip(rows, expected, strict=True)),
                "first": abs(rows[0]["loss"] - expected[0]["loss"]),
            }
            print(case, found[case], flush=True)
    if found:
        (Path(place) / "found.json").write_text(json.dumps(found), encoding="utf-8")


def apart(some: dict[str, Tensor], others: dict[str, Tensor]) -> float:
    """How far weights are apart."""
    assert some.keys() == others.keys()
    return max(float((some[name] - others[name]).detach().abs().max()) for name in some)


if __name__ == "__main__":
    main()
