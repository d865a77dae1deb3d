"""A data set of reasoning-gym learnt from a fine-tuned start, judged on problems that nobody learnt on.

    OMP_NUM_THREADS=1 python benchmarks/learn_reasoning.py --json benchmarks/results/reasoning_gym.json

The start is fine-tuned on right answers, for a moment; GRPO goes on with the data set's own judge alone.
Both learn on thousands of problems, so that a small model has to find the rule: 512 of them it knows by heart
in the end. Rewards are measured with sampled answers. Seconds are processor seconds of one thread. Needs
`pip install -e '.[reasoning-gym]'`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from machine import save

from text_gym import Prompt, Task, TextVectorEnv, load_task
from text_gym.agents import GRPO, SFT, GRPOConfig, Policy, SFTConfig, evaluate
from text_gym.agents.sampling.evaluation import Report
from text_gym.utils.interval import mean_interval, shown

DRAWS = 4  # answers to a problem


@dataclass(frozen=True)
class Options:
    """What to learn, and for how long.

    Args:
        dataset: A data set of reasoning-gym.
        arguments: Its parameters, as JSON.
        seeds: One run each.
        n_train: Problems to learn on.
        n_held_out: Problems to judge on.
        steps: Of fine-tuning, 32 right answers each.
        sft_rate: Its largest step size.
        iterations: Of GRPO.
        episodes: Of an iteration, 8 to a problem.
        rate: GRPO's step size at the start.
        json: File for the rows.
    """

    dataset: str = "spell_backward"
    arguments: str = '{"min_word_len": 3, "max_word_len": 5}'
    seeds: tuple[int, ...] = (0, 1, 2)
    n_train: int = 8000
    n_held_out: int = 256
    steps: int = 130
    sft_rate: float = 3e-3
    iterations: int = 80
    episodes: int = 256
    rate: float = 2e-3
    json: Path | None = None


def measured(policy: Policy, task: Task, prompts: Sequence[Prompt], seed: int) -> Report:
    """Return what sampled answers to some problems are worth."""
    env = TextVectorEnv(**task.env_kwargs(prompts=prompts), num_envs=128)
    return evaluate(policy, env, episodes_per_prompt=DRAWS, seed=seed)


def by_problem(report: Report) -> Any:
    """Return the mean reward of each problem's answers, `(problems,)`."""
    return np.asarray(report.rewards).reshape(-1, DRAWS).mean(axis=1)


def right(report: Report) -> float:
    """Return the share of answers that earn all there is."""
    return float((np.asarray(report.rewards) >= 1.0).mean())


def run(task: Task, seed: int, options: Options) -> dict[str, Any]:
    """Learn once."""
    assert task.corpus is not None
    pairs, _ = task.corpus()
    sets = {"train": task.prompts[: options.n_held_out], "held_out": task.held_out}
    longest = max(len(p.encode(task.tokenizer)) for p in (*task.prompts, *task.held_out))
    policy = Policy.new(task.tokenizer, context=longest + task.max_tokens, seed=seed, device="cpu")

    began = time.process_time()
    epochs = options.steps * 32 / len(pairs)
    SFT(policy, pairs, SFTConfig(epochs=epochs, learning_rate=options.sft_rate, seed=seed)).learn()
    sft_seconds = time.process_time() - began
    start = {name: measured(policy, task, prompts, seed) for name, prompts in sets.items()}

    began = time.process_time()
    config = GRPOConfig(iterations=options.iterations, learning_rate=options.rate, kl_coef=0.0, seed=seed)
    GRPO(policy, TextVectorEnv(task=task, num_envs=options.episodes), config).learn()
    seconds = time.process_time() - began
    end = {name: measured(policy, task, prompts, seed) for name, prompts in sets.items()}

    row: dict[str, Any] = {"seed": seed, "sft_seconds": sft_seconds, "seconds": seconds}
    for name in sets:
        gain = mean_interval(by_problem(end[name]) - by_problem(start[name]))
        row[name] = {
            "start": start[name].reward.mean,
            "end": end[name].reward.mean,
            "gain": gain.summary(),
            "right_at_the_start": right(start[name]),
            "right_at_the_end": right(end[name]),
        }
        print(
            f"seed {seed}, {name}: {row[name]['start']:.3f} → {row[name]['end']:.3f}, gain {shown(gain, 3)}; "
            f"right {right(start[name]):.3f} → {right(end[name]):.3f}",
            flush=True,
        )
    print(f"seed {seed}: {sft_seconds:.0f} s of fine-tuning, {seconds:.0f} s of GRPO", flush=True)
    return row


def main() -> None:
    """Learn with each seed, and say how much the reward rose."""
    options = tyro.cli(Options)
    torch.set_num_threads(1)
    sizes = {"n_train": options.n_train, "n_held_out": options.n_held_out}
    task = load_task(f"reasoning_gym:{options.dataset}", **sizes, **json.loads(options.arguments))
    print(f"{task}, e.g. {task.prompts[0].text!r}", flush=True)
    rows = []
    for seed in options.seeds:
        rows.append(run(task, seed, options))
        if options.json is not None:  # after each, so that what was run is kept
            settings = {k: v for k, v in asdict(options).items() if k not in ("seeds", "json")}
            save(options.json, rows, **settings, problems=len(task.prompts))


if __name__ == "__main__":
    main()
