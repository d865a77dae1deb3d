"""A data set of reasoning-gym learnt from a fine-tuned start: its own judge's reward before and after.

    python benchmarks/learn_reasoning.py --json reasoning_gym.json

The start is fine-tuned on some right answers of the problems to learn on, GRPO does the rest. Rewards are
measured with sampled answers, on problems that were learnt on and on held-out ones. Seconds are processor
seconds of one thread. Needs `pip install -e '.[reasoning-gym]'`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import tyro
from machine import save

from text_gym import Task, TextVectorEnv, load_task
from text_gym.agents import GRPO, SFT, GRPOConfig, Policy, SFTConfig, evaluate

EPISODES = 256  # of an iteration
SUMS = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}


@dataclass(frozen=True)
class Options:
    """What to learn.

    Args:
        dataset: A data set of reasoning-gym.
        arguments: Its parameters.
        seeds: One run each.
        epochs: Of fine-tuning.
        iterations: Of GRPO, 256 episodes each.
        json: File for the rows.
    """

    dataset: str = "chain_sum"
    arguments: dict[str, int] = field(default_factory=lambda: dict(SUMS))
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 50
    iterations: int = 30
    json: Path | None = None


def measured(policy: Policy, task: Task, seed: int) -> dict[str, float]:
    """Return the mean reward of sampled answers to problems learnt on, and to held-out ones."""
    sets = {"train": task.prompts[:64], "held_out": task.held_out}
    envs = {
        name: TextVectorEnv(**task.env_kwargs(prompts=prompts), num_envs=64) for name, prompts in sets.items()
    }
    return {
        name: evaluate(policy, env, episodes_per_prompt=4, seed=seed).reward.mean
        for name, env in envs.items()
    }


def run(task: Task, seed: int, options: Options) -> dict[str, Any]:
    """Learn once."""
    assert task.corpus is not None
    pairs, _ = task.corpus()
    longest = max(len(task.tokenizer.encode(p.text)) for p in [*task.prompts, *task.held_out])
    policy = Policy.new(task.tokenizer, context=longest + task.max_tokens, seed=seed, device="cpu")
    began = time.process_time()
    SFT(policy, pairs, SFTConfig(epochs=options.epochs, learning_rate=2e-3, seed=seed)).learn()
    fine_tuned = time.process_time() - began
    start = measured(policy, task, seed)
    config = GRPOConfig(
        iterations=options.iterations, seed=seed, kl_coef=0.0, anneal=False, learning_rate=5e-4
    )
    began = time.process_time()
    GRPO(policy, TextVectorEnv(task=task, num_envs=EPISODES), config).learn()
    seconds = time.process_time() - began
    row = {
        "seed": seed,
        "start": start,
        "end": measured(policy, task, seed),
        "sft_seconds": fine_tuned,
        "seconds": seconds,
    }
    print(row, flush=True)
    return row


def main() -> None:
    """Learn with each seed, and say how much the reward rose."""
    options = tyro.cli(Options)
    torch.set_num_threads(1)
    task = load_task(f"reasoning_gym:{options.dataset}", **options.arguments)
    print(f"{task}, e.g. {task.prompts[0].text!r}", flush=True)
    rows = [run(task, seed, options) for seed in options.seeds]
    for name in ("train", "held_out"):
        for when in ("start", "end"):
            values = [row[when][name] for row in rows]
            spread = stdev(values) if len(values) > 1 else 0.0
            print(f"{name} at the {when}: {mean(values):.3f} ± {spread:.3f} (standard deviation of the runs)")
    if options.json is not None:
        settings = {"dataset": options.dataset, "arguments": options.arguments, "epochs": options.epochs}
        save(options.json, rows, **settings, iterations=options.iterations)


if __name__ == "__main__":
    main()
