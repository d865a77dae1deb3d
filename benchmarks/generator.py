"""GRPO on a real model with texts by vLLM, and by the policy itself, with the same settings; speed of both.

python -m tests.vllm --model FOLDER [--iterations 20] [--episodes 16] [--tokens 12] [--seed 0]

It runs in vLLM's environment, which `tests.vllm` makes. The reward is cheap and easy to raise: how long a
text's words are. Seconds are of the CPU, one thread: what else the machine does hardly changes them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine
from torch import Tensor

from text_gym import TextVectorEnv
from text_gym.agents import GRPO, Completion, GRPOConfig, LoRAPolicy, Policy, VLLMGenerator, rollout

RESULT = Path(__file__).parent / "results" / "generator.json"
PROMPTS = ["The weather today", "My favourite animal", "When I was young", "The best way to learn"]


def word_length(completion: str) -> float:
    """The mean length of the words, at most 12, as a share of 12."""
    words = completion.split()
    return min(12.0, sum(map(len, words)) / len(words)) / 12 if words else 0.0


class Timed:
    """A generator that counts the CPU seconds of handing over, and of writing."""

    def __init__(self, engine: VLLMGenerator) -> None:
        self.engine, self.tolerance = engine, engine.tolerance
        self.loading = self.writing = 0.0

    def load(self, weights: Mapping[str, Tensor]) -> None:
        began = time.process_time()
        self.engine.load(weights)
        self.loading += time.process_time() - began

    def generate(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], **how: Any
    ) -> list[Completion]:
        began = time.process_time()
        found = self.engine.generate(prompts, seeds, **how)
        self.writing += time.process_time() - began
        return found


def learnt(args: argparse.Namespace, dtype: str | None) -> dict[str, Any]:
    """Run GRPO, with vLLM in a dtype or without it; every iteration's figures, and CPU seconds."""
    torch.manual_seed(0)
    policy = LoRAPolicy(Policy.from_pretrained(args.model, device="cpu"), 8)
    env = TextVectorEnv(PROMPTS, policy.tokenizer, word_length, args.tokens, num_envs=args.episodes)
    engine = (
        None if dtype is None else Timed(VLLMGenerator(policy, dtype=dtype, max_model_len=args.tokens + 32))
    )
    config = GRPOConfig(
        iterations=args.iterations, learning_rate=2e-3, warmup=0, anneal=False, kl_coef=0.01, epochs=1,
        minibatches=2, group_size=4, seed=args.seed,
    )  # fmt: skip
    agent = GRPO(policy, env, config, generator=engine)
    collect, spent = agent.collect, [0.0]

    def timed_collect() -> Any:
        began = time.process_time()
        batch = collect()
        spent[0] += time.process_time() - began
        return batch

    vars(agent)["collect"] = timed_collect
    rows: list[dict[str, Any]] = []
    names = (
        "iteration",
        "reward",
        "kl",
        "grad_norm",
        "generator_gap",
        "generator_gap_max",
        "generator_ratio",
    )

    def keep(_: object, metrics: Mapping[str, Any]) -> None:
        rows.append({name: metrics[name] for name in names if name in metrics})
        print(dtype or "native", rows[-1], flush=True)

    agent.learn(callback=keep)
    found = {"rows": rows, "tokens": agent.tokens_played, "rollout_cpu_seconds": spent[0]}
    if engine is not None:
        found |= {"handover_cpu_seconds": engine.loading, "writing_cpu_seconds": engine.writing}
    return found


def speeds(args: argparse.Namespace, size: int) -> dict[str, float]:
    """Tokens per CPU second of `size` texts of exactly 24 tokens: ours, `model.generate`, vLLM's."""
    policy = Policy.from_pretrained(args.model, device="cpu")
    tokens = 24
    env = TextVectorEnv(PROMPTS, policy.tokenizer, word_length, tokens, num_envs=size)
    engines = {dtype: VLLMGenerator(policy, dtype=dtype, max_model_len=64) for dtype in args.dtypes}
    env.batch.begin(np.arange(size), np.zeros(size, dtype=np.int64), np.arange(size))
    longest = int(env.batch.starts.max())
    ids = torch.full((size, longest), policy.tokenizer.pad_id)  # padded on the left, as `generate` wants it
    for row, start in enumerate(env.batch.starts.tolist()):
        ids[row, longest - start :] = torch.from_numpy(env.batch.tokens[row, :start])
    there = torch.arange(longest) >= longest - torch.from_numpy(env.batch.starts)[:, None]

    def generate() -> int:
        out = policy.model.generate(
            ids, attention_mask=there.long(), do_sample=True, top_k=0, max_new_tokens=tokens,
            pad_token_id=policy.tokenizer.pad_id,
        )  # fmt: skip
        return int((out[:, longest:] != policy.tokenizer.pad_id).sum())

    ways: dict[str, Callable[[], int]] = {"generate": generate}
    ways["native rollout"] = lambda: rollout(policy, env, np.arange(size)).num_tokens
    for name, engine in engines.items():
        engine.load(policy.weights())
        ways[f"vLLM {name} rollout"] = lambda e=engine: (
            rollout(  # type: ignore[misc]
                policy, env, np.arange(size), generator=e
            ).num_tokens
        )
    found = {}
    for name, work in ways.items():
        work()  # once to warm up
        began = time.process_time()
        found[name] = work() / (time.process_time() - began)
    return found


def main() -> None:
    """Measure, and write the figures after each part."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sizes", type=int, nargs="*", default=[16])
    parser.add_argument("--speed-only", action="store_true", help="keep the runs that were written before")
    parser.add_argument("--dtypes", nargs="*", default=["float32", "bfloat16"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = {k: v for k, v in vars(args).items() if k != "speed_only"}
    found: dict[str, Any] = {"machine": machine(), "settings": {**settings, "model": Path(args.model).name}}
    if args.speed_only:
        found = json.loads(RESULT.read_text(encoding="utf-8"))
    for name, dtype in () if args.speed_only else (("vllm", "float32"), ("native", None)):
        found[name] = learnt(args, dtype)
        RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    found["tokens_per_cpu_second"] = {str(size): speeds(args, size) for size in args.sizes}
    print(json.dumps(found["tokens_per_cpu_second"]))
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
