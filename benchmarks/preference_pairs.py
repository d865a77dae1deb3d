"""Reward models from simulated preferences on the products task: agreement, calibration, seconds.

    python benchmarks/preference_pairs.py --seeds 0 1 2 --members 5 --json results.json

Texts are sampled from the shipped policy, a noisy rater compares them two by two, and what is learnt is held
against the same rater without noise (agreement) and with it (calibration) on held-out prompts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from machine import save

from text_gym import ByteTokenizer, Episode, Prompt, RewardSource, Task, TextVectorEnv, load_task
from text_gym.agents import Policy, evaluate
from text_gym.episode import FloatArray
from text_gym.reward_models import (
    Ensemble,
    NgramModel,
    PreferencePair,
    RewardModel,
    RewardTrainer,
    RewardTrainingConfig,
)
from text_gym.reward_models.people.raters import collect_pairs
from text_gym.reward_models.people.simulated import SimulatedRater, Vices
from text_gym.reward_models.preferences.measures import measure_calibration, pair_accuracy

Row = dict[str, Any]
Sides = tuple[list[Episode], list[Episode]]


@dataclass(frozen=True)
class Options:
    """Train reward models on simulated preferences.

    Args:
        pairs: Pairs to learn from.
        noise: Of the rater: scale of the logistic noise on a difference of gold reward.
        members: Size of the ensemble.
        epochs: Passes of a transformer over the pairs.
        seeds: Texts, rater, and models of one run each.
        threads: Of torch.
        json: File for the rows.
    """

    pairs: int = 2048
    noise: float = 0.1
    members: int = 4
    epochs: int = 2
    seeds: tuple[int, ...] = (0, 1, 2)
    threads: int = 1
    json: Path | None = None


def sample(task: Task, prompts: Sequence[Prompt], seed: int, pairs_per_prompt: int = 1) -> Sides:
    """Texts of the shipped policy, in two lists of completions of the same prompts."""
    assert task.policy is not None
    policy = Policy.from_pretrained(task.policy, device="cpu")
    env = TextVectorEnv(**task.env_kwargs(prompts=prompts), shuffle=False)
    report = evaluate(policy, env, seed=seed, episodes_per_prompt=2 * pairs_per_prompt)
    return report.episodes[::2], report.episodes[1::2]


def ahead(source: RewardSource, pairs: Sequence[PreferencePair]) -> FloatArray:
    """`(n,)` reward of the chosen text minus that of the rejected one."""
    tokenizer = ByteTokenizer()
    texts = [Episode.of(p.prompt, text, tokenizer) for p in pairs for text in (p.chosen, p.rejected)]
    totals = source(texts).totals
    difference: FloatArray = totals[::2] - totals[1::2]
    return difference


def run(options: Options, seed: int) -> list[Row]:
    """A row for each model."""
    task = load_task("products")
    rater = SimulatedRater(task.reward, Vices(noise=options.noise), seed=seed)
    clean = SimulatedRater(task.reward)
    train = collect_pairs(rater, *sample(task, task.prompts[: options.pairs], 2 * seed))
    sides = sample(task, task.held_out, 2 * seed + 1, pairs_per_prompt=8)
    truth = [p for p in collect_pairs(clean, *sides) if not p.tie]
    noisy = [p for p in collect_pairs(rater, *sides) if not p.tie]
    both = zip(clean.compare(*sides), rater.compare(*sides), strict=True)
    upper = float(np.mean([a == b for a, b in both if a != "tie"]))
    rows: list[Row] = []

    def add(name: str, source: RewardSource, seconds: float) -> None:
        row = {"model": name, "seed": seed, "agreement": pair_accuracy(ahead(source, truth), seed).summary()}
        found = measure_calibration(ahead(source, noisy))
        rows.append({**row, "ece": found.ece, "seconds": seconds, "rater_agrees_with_itself": upper})
        print(f"seed {seed}, {name}: {rows[-1]['agreement']['value']:.3f}, ECE {found.ece:.3f}", flush=True)

    started = time.perf_counter()
    add("n-grams", NgramModel.fit(train), time.perf_counter() - started)
    members: list[RewardModel] = []
    for i in range(options.members):
        started = time.perf_counter()
        assert task.policy is not None
        model = RewardModel.from_backbone(task.policy, seed=100 * seed + i, device="cpu")
        config = RewardTrainingConfig(epochs=options.epochs, seed=100 * seed + i)
        RewardTrainer(model, train, config).learn()
        members.append(model)
        add("transformer", model, time.perf_counter() - started)
    if len(members) > 1:
        seconds = sum(row["seconds"] for row in rows if row["model"] == "transformer")
        add(f"ensemble of {len(members)}", Ensemble(members), seconds)
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown: means over seeds and members, smallest and largest."""
    lines = ["| model | agreement with the noiseless rater | ECE | seconds |", "|---|---|---|---|"]
    for name in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == name]
        cells = []
        for values in (
            [r["agreement"]["value"] for r in own],
            [r["ece"] for r in own],
            [r["seconds"] for r in own],
        ):
            cells.append(f"{np.mean(values):.3g} ({min(values):.3g}–{max(values):.3g})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(options: Options) -> None:
    """Run everything and print the table."""
    torch.set_num_threads(options.threads)
    rows = [row for seed in options.seeds for row in run(options, seed)]
    upper = np.mean([row["rater_agrees_with_itself"] for row in rows])
    print(f"\n{table(rows)}\nthe noisy rater agrees with itself without noise on {upper:.3f}")
    if options.json:
        save(options.json, rows)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="preference_pairs.py"))
