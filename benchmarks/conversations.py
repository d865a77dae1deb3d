"""How the tasks that are conversations are learnt: returns over iterations, by task, algorithm and seed.

    python benchmarks/conversations.py guess mastermind --algorithms grpo ppo --seeds 0 1 2 --json curves.json

Tasks without a corpus are learnt from nothing; `calculator` begins with fine-tuning on its corpus. A run ends
when the mean return of ten iterations in a row reaches 95 % of the optimum, or after `--iterations`.
Seconds are processor seconds of one thread; what is said at the end is measured on held-out prompts.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from machine import save

from text_gym import TextVectorEnv, load_task
from text_gym.agents import GRPO, PPO, SFT, GRPOConfig, Policy, PPOConfig, SFTConfig, evaluate

EPISODES = 256  # of an iteration
SIZES: dict[str, dict[str, int]] = {"calculator": {"digits": 2}}


@dataclass(frozen=True)
class Options:
    """What to learn.

    Args:
        tasks: Names of tasks.
        algorithms: `grpo`, `ppo` or both.
        seeds: One run each.
        iterations: At most, of 256 episodes each.
        seconds: Processor seconds of a run, at most.
        json: File for the rows.
    """

    tasks: tyro.conf.Positional[tuple[str, ...]] = ("guess", "mastermind")
    algorithms: tuple[str, ...] = ("grpo", "ppo")
    seeds: tuple[int, ...] = (0, 1, 2)
    iterations: int = 400
    seconds: float = 180.0
    json: Path | None = None


def run(task_name: str, algorithm: str, seed: int, options: Options) -> dict[str, Any]:
    """Train once; returns the curve and where it ended."""
    task = load_task(task_name, **SIZES.get(task_name, {}))
    policy = Policy.new(task.tokenizer, context=task.max_context or 128, seed=seed, device="cpu")
    began = time.process_time()
    if task.corpus is not None:
        SFT(policy, task.corpus()[0], SFTConfig(seed=seed)).learn()
    env = TextVectorEnv(task=task, num_envs=EPISODES)
    held_out = TextVectorEnv(**task.env_kwargs(prompts=task.held_out), num_envs=64)
    repeat = max(1, 512 // len(task.held_out))
    start = evaluate(policy, held_out, episodes_per_prompt=repeat, seed=seed).reward
    learning: dict[str, Any] = {
        "iterations": options.iterations,
        "seed": seed,
        "kl_coef": 0.0,
        "anneal": False,
        "learning_rate": 1e-3,
    }
    if algorithm == "grpo":
        agent: Any = GRPO(policy, env, GRPOConfig(**learning))
    else:
        agent = PPO(policy, env, PPOConfig(**learning, target_kl=0.05, entropy_coef=0.01))
    curve: list[float] = []

    def watch(_: Any, metrics: Any) -> bool:
        curve.append(float(metrics["reward"]))
        recent = curve[-10:]
        solved = len(recent) == 10 and sum(recent) / 10 >= 0.95 * (task.optimum or 1.0)
        return not solved and time.process_time() - began < options.seconds

    agent.learn(callback=watch)
    seconds = time.process_time() - began
    found = evaluate(policy, held_out, episodes_per_prompt=repeat, seed=seed).reward
    row = {
        "task": task_name,
        "algorithm": algorithm,
        "seed": seed,
        "optimum": task.optimum,
        "random": task.random_return,
        "start": start.mean,
        "held_out": found.mean,
        "ci95": list(found.ci95),
        "iterations": len(curve),
        "cpu_seconds": round(seconds, 1),
        "curve": [round(x, 4) for x in curve],
    }
    print({k: v for k, v in row.items() if k != "curve"}, flush=True)
    return row


def main() -> None:
    """Train and tell."""
    options = tyro.cli(Options)
    torch.set_num_threads(1)
    rows = [run(t, a, s, options) for t in options.tasks for a in options.algorithms for s in options.seeds]
    if options.json is not None:
        save(options.json, rows)


if __name__ == "__main__":
    main()
