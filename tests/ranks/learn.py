"""What each rank runs in `tests/models/test_world.py`: it learns with the others, then rank 0 alone.

    python -m tests.ranks.learn FILE ITERATIONS DTYPE CASE...

Rank 0 writes how far weights and metrics are apart, by case.
"""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from text_gym import FunctionReward, Prompt, TextVectorEnv, WordTokenizer
from text_gym.agents import DPO, SFT, DPOConfig, Policy, SFTConfig
from text_gym.agents.algorithms.by_name import load_algorithm
from text_gym.models import gradients
from text_gym.models.world import World, meeting
from text_gym.reward_models import PreferencePair, RewardModel, RewardTrainer, RewardTrainingConfig

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ppo": ("ppo", {"minibatches": 3, "whiten_advantages": True}),
    "ppo-shared": ("ppo", {"critic": "shared", "kl_target": 3.0}),
    "ppo-separate": ("ppo", {"critic": "separate", "entropy_coef": 0.01, "overlap_scoring": 2}),
    "grpo": ("grpo", {"target_kl": 0.01, "micro_batch_size": 3}),
    "rloo": ("rloo", {"minibatches": 2, "epochs": 2}),
    "reinforce": ("reinforce", {"baseline": "mean"}),
    "best_of_n": ("best_of_n", {}),
}
WRITTEN = ("sft", "dpo", "reward")
TIMES = ("seconds", "tokens_per_second", "memory")


def vowels(completion: str) -> float | None:
    """A vowel pays 1; of a text that begins with c the judge has no opinion."""
    return None if completion.startswith("c") else float(sum(c in "ae" for c in completion))


def learn(
    case: str, world: World | None, iterations: int, dtype: torch.dtype
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Learn from scratch; return the weights and the rows of metrics."""
    if case in WRITTEN:
        return learn_written(case, world, -(-iterations // 4), dtype)  # 4 steps or 5 an epoch
    name, settings = CASES[case]
    tokenizer = WordTokenizer("abcde", separator="")
    policy = Policy.new(tokenizer, width=32, layers=2, heads=4, context=32, device="cpu").to(dtype)
    env = TextVectorEnv(
        ["a", "bcd", "ddde"],
        tokenizer,
        FunctionReward(vowels, abstains=True),
        10,
        num_envs=24,
        numbering="global",
        limit="truncate",
    )
    kind = load_algorithm(name)
    agent = kind(policy, env, kind.config_class(iterations=iterations, seed=3, **settings))
    if world is not None:
        if world.rank:  # what rank 0 has is what counts
            torch.nn.init.normal_(policy.value_head.weight)
        agent.join(world)
    rows: list[dict[str, Any]] = []
    agent.learn(callback=lambda _, row: rows.append(row))
    return {name: p.detach() for name, p in policy.named_parameters()}, rows


def learn_written(
    case: str, world: World | None, epochs: int, dtype: torch.dtype
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Learn from written texts or from preferences; return the weights and the rows of metrics."""
    tokenizer, rng = WordTokenizer("abcde", separator=""), random.Random(5)

    def text() -> str:
        return "".join(rng.choices("abcde", k=rng.randint(1, 9)))

    written = [(Prompt(rng.choice("abcde")), text(), text()) for _ in range(29)]
    rows: list[dict[str, Any]] = []
    if case == "reward":
        pairs = [
            PreferencePair(prompt, one, other, weight=rng.choice((0.0, 0.5, 1.0)), tie=rng.random() < 0.2)
            for prompt, one, other in written
        ]
        model = RewardModel.new(tokenizer, layers=1, width=16, heads=2, context=32, device="cpu")
        model.model.to(dtype)
        trainer = RewardTrainer(model, pairs, RewardTrainingConfig(epochs=epochs, batch_size=7))
        trainer.world = world
        trainer.learn(rows.append)
        return {name: p.detach() for name, p in model.model.named_parameters()}, rows
    policy = Policy.new(tokenizer, width=32, layers=2, heads=4, context=32, device="cpu").to(dtype)
    sft = SFT(policy, [(p, one) for p, one, _ in written], SFTConfig(epochs=epochs, batch_size=7))
    dpo = DPO(policy, written, DPOConfig(epochs=epochs, batch_size=7, learning_rate=3e-3))
    learner = sft if case == "sft" else dpo
    learner.world = world
    learner.learn(rows.append)
    return {name: p.detach() for name, p in policy.named_parameters()}, rows


def felt(name: str, weight: Tensor) -> Tensor:
    """Leave the biases of keys out, which nothing depends on: softmax forgets what all keys share.

    Their gradients are rounding alone, and in float32 Adam takes steps of full length by it.
    """
    if not name.endswith("attn.c_attn.bias") or weight.dtype == torch.float64:
        return weight
    queries, _, values = weight.chunk(3)
    return torch.cat([queries, values])


def apart(a: Any, b: Any) -> float:
    """How far two numbers are apart; NaN is NaN."""
    return 0.0 if a == b or (math.isnan(a) and math.isnan(b)) else abs(a - b)


def main() -> None:
    """Learn together and alone, case by case."""
    torch.set_num_threads(1)
    gradients.BUCKET_BYTES = 20_000  # models are small; so they have several buckets
    file, iterations, named, *cases = sys.argv[1:]
    dtype = {"float32": torch.float32, "float64": torch.float64}[named]
    found: dict[str, Any] = {}
    with meeting("cpu") as world:
        assert world is not None
        for case in cases:
            weights, rows = learn(case, world, int(iterations), dtype)
            if world.rank:
                continue
            alone, expected = learn(case, None, int(iterations), dtype)
            found[case] = {
                "weights": max(float(felt(n, weights[n] - alone[n]).abs().max()) for n in alone),
                "moved": max(float(p.abs().max()) for p in alone.values()),
                "fields": [sorted(row) for row in rows] == [sorted(row) for row in expected],
                "metrics": max(
                    apart(row[k], other[k])
                    for row, other in zip(rows, expected, strict=True)
                    for k in other
                    if isinstance(other[k], (int, float)) and not any(t in k for t in TIMES)
                ),
            }
    if found:
        Path(file).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
