"""How the tasks that are conversations are learnt, by the settings that `text-gym train` takes for them.

    python benchmarks/conversations.py guess mastermind --algorithms grpo ppo --seeds 0 1 2 \\
        --json benchmarks/results/conversations.json --figure docs/conversations.png

A run takes the settings of `Task.recommended`, and ends after its iterations, or after `--seconds`. Those are
processor seconds of one thread. When ten iterations in a row first reached 95 % of the optimum on average is
told as well; whoever stops a run there has what one more step made of the policy. Returns before and after
are measured on held-out prompts, with fresh noise and at temperature 1. `calculator` and `shop` begin
with fine-tuning on their corpus, anew for each seed, whose time is told apart. Rows replace those of the same
task, algorithm and seed in `--json`; with no task, the file's table is printed and its figure drawn.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import tyro
from machine import save

from text_gym import Task, TextVectorEnv, load_task
from text_gym.agents import SFT, Policy, SB3Config, SFTConfig, evaluate
from text_gym.agents.adapters.sb3.evaluation import evaluate_sb3
from text_gym.agents.adapters.sb3.training import SB3Learner
from text_gym.agents.algorithms.by_name import load_algorithm
from text_gym.agents.sampling.evaluation import Report
from text_gym.cli.options.checks import HEADS
from text_gym.cli.options.train import TrainOptions
from text_gym.episode import FloatArray
from text_gym.plot import Line, curves, panels
from text_gym.plot import save as save_figure

Row = dict[str, Any]
LONG, ENOUGH = 10, 0.95  # iterations in a row, and the share of the optimum that they reach
POINTS = 60  # of a curve, each the mean over as many iterations
EVALUATED = 1024  # episodes, about


@dataclass(frozen=True)
class Options:
    """What to learn.

    Args:
        tasks: Names of tasks; none draws what the file has.
        algorithms: Of those that a task has settings for; all of them if left out.
        seeds: One run each.
        seconds: Processor seconds of a run, at most.
        json: File for the rows.
        figure: Picture of the curves.
    """

    tasks: tyro.conf.Positional[tuple[str, ...]] = ()
    algorithms: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    seconds: float = 180.0
    json: Path | None = None
    figure: Path | None = None


class Clock:
    """Collects a run's curve, and says when it is over."""

    def __init__(self, optimum: float, seconds: float) -> None:
        self.optimum, self.seconds = optimum, seconds
        self.began = time.process_time()
        self.points: list[tuple[float, float]] = []  # processor seconds and mean return of each iteration
        self.reached: float | None = None  # processor seconds until 95 % of the optimum

    def __call__(self, metrics: Any) -> bool:
        """Note an iteration; False is the end."""
        self.points.append((time.process_time() - self.began, float(metrics["reward"])))
        now, recent = self.points[-1][0], [reward for _, reward in self.points[-LONG:]]
        if self.reached is None and len(recent) == LONG and sum(recent) >= LONG * ENOUGH * self.optimum:
            self.reached = round(now, 1)
        return now < self.seconds

    def curve(self) -> list[list[float]]:
        """Return at most `POINTS` points, the means of as many iterations each."""
        parts = np.array_split(np.array(self.points), min(POINTS, len(self.points)))
        return [[round(float(x), 3) for x in part.mean(axis=0)] for part in parts]


@cache
def fine_tuned(task_name: str, seed: int) -> tuple[dict[str, Any], float]:
    """Return the weights of a policy that has learnt the task's corpus, and the processor seconds it took."""
    task = load_task(task_name)
    assert task.corpus is not None
    policy = new_policy(task, task.recommended.get("sft", {}), seed)
    began = time.process_time()
    known = {f.name for f in dataclasses.fields(SFTConfig)}
    settings = {k: v for k, v in task.recommended.get("sft", {}).items() if k in known}
    SFT(policy, task.corpus()[0], SFTConfig(seed=seed, **settings)).learn()
    return policy.state_dict(), time.process_time() - began


def new_policy(task: Task, settings: Mapping[str, Any], seed: int) -> Policy:
    """Make the small policy that `--policy new` is, or `text-gym sft` makes."""
    context = max(len(p.encode(task.tokenizer)) for p in (*task.prompts, *task.held_out))
    return Policy.new(
        task.tokenizer,
        layers=settings.get("layers", TrainOptions.layers),
        width=settings.get("width", TrainOptions.width),
        heads=HEADS,
        context=context + task.room(context) + 1,
        seed=seed,
        device="cpu",
    )


def run(task_name: str, algorithm: str, seed: int, seconds: float) -> Row:
    """Train once; returns the curve, and returns before and after."""
    task = load_task(task_name)
    assert task.optimum is not None
    settings = dict(task.recommended[algorithm])
    times = max(1, EVALUATED // len(task.held_out))
    learn = with_sb3 if algorithm.startswith("sb3.") else with_agent
    judge, train, sft_seconds = learn(task, algorithm, settings, seed, times)
    before = judge(seed)
    clock = Clock(task.optimum, seconds)
    train(clock)
    after = judge(seed + 1_000)
    row: Row = {
        "task": task_name,
        "algorithm": algorithm,
        "seed": seed,
        "optimum": task.optimum,
        "random": task.random_return,
        "before": before.reward.mean,
        "after": after.reward.mean,
        "after_ci95": list(after.reward.ci95),
        "terms": {k: [before.terms[k].mean, after.terms[k].mean] for k in after.terms},
        "iterations": len(clock.points),
        "cpu_seconds": round(clock.points[-1][0], 1),
        "cpu_seconds_to_95_percent": clock.reached,
        "sft_cpu_seconds": round(sft_seconds, 1),
        "settings": settings,
        "gains": gains(task, before, after, times),
        "curve": clock.curve(),
    }
    print({k: v for k, v in row.items() if k not in ("curve", "gains", "settings")}, flush=True)
    return row


Parts = tuple[Callable[[int], Report], Callable[[Clock], Any], float]


def with_agent(task: Task, algorithm: str, settings: Row, seed: int, times: int) -> Parts:
    """An agent of ours: how it is judged, how it learns, and the seconds of fine-tuning before that."""
    sft_seconds = 0.0
    if task.corpus is not None:
        weights, sft_seconds = fine_tuned(task.name, seed)
        policy = new_policy(task, task.recommended.get("sft", {}), seed)
        policy.load_state_dict(weights)
    else:
        policy = new_policy(task, settings, seed)
    made = load_algorithm(algorithm)
    known = {f.name for f in dataclasses.fields(made.config_class)}
    config = made.config_class(seed=seed, **{k: v for k, v in settings.items() if k in known})
    env = TextVectorEnv(task=task, num_envs=settings.get("episodes", TrainOptions.episodes))
    held_out = TextVectorEnv(**task.env_kwargs(prompts=task.held_out), num_envs=64)
    agent: Any = made(policy, env, config)

    def judge(noise: int) -> Report:
        return evaluate(policy, held_out, episodes_per_prompt=times, seed=noise)

    return judge, lambda clock: agent.learn(callback=lambda _, metrics: clock(metrics)), sft_seconds


def with_sb3(task: Task, algorithm: str, settings: Row, seed: int, times: int) -> Parts:
    """An algorithm of Stable-Baselines3, from nothing."""
    config = SB3Config(seed=seed, **settings)
    learner = SB3Learner(algorithm.removeprefix("sb3."), task, config, device="cpu")

    def judge(noise: int) -> Report:
        return evaluate_sb3(learner.model, task, seed=noise, episodes_per_prompt=times)

    return judge, learner.learn, 0.0


def gains(task: Task, before: Report, after: Report, times: int) -> list[float]:
    """Return what was gained on each text to begin with, of which several prompts may share one."""
    texts = [p.text if len(task.held_out) > 16 else p.id for p in task.held_out for _ in range(times)]
    places: dict[Any, list[int]] = {}
    for i, text in enumerate(texts):
        places.setdefault(text, []).append(i)
    found = after.rewards - before.rewards
    return [round(float(found[rows].mean()), 3) for rows in places.values()]


def mean_gain(rows: Sequence[Row], resamples: int = 2000) -> tuple[float, float, float]:
    """Return the mean gain with its 95 % interval: seeds are drawn anew, and texts within each of them."""
    table: FloatArray = np.array([row["gains"] for row in rows])  # (seeds, texts)
    rng = np.random.default_rng(0)

    def means(drawn: npt.NDArray[np.intp]) -> FloatArray:  # (R, seeds) -> (R,)
        texts = rng.integers(table.shape[1], size=(*drawn.shape, table.shape[1]))
        found: FloatArray = np.take_along_axis(table[drawn], texts, axis=2).mean(axis=(1, 2))
        return found

    drawn = rng.integers(len(table), size=(resamples, len(table)))
    low, high = np.quantile(means(drawn), [0.025, 0.975])
    return float(table.mean()), float(low), float(high)


def figure_of(rows: Sequence[Row]) -> Any:
    """Draw a panel for each task: return over processor seconds, a line for each seed."""
    names = list(dict.fromkeys(row["task"] for row in rows))
    figure, places = panels(len(names), columns=2, size=(4.6, 3.4))
    for ax, name in zip(places, names, strict=True):
        own = [row for row in rows if row["task"] == name]
        algorithms = list(dict.fromkeys(row["algorithm"] for row in own))
        end = max(row["curve"][-1][0] for row in own)
        lines = [
            Line(
                [seconds for seconds, _ in row["curve"]],
                [reward for _, reward in row["curve"]],
                algorithm if i == 0 else "",
                colour=k,
                style=("-", "--", "-.")[k % 3],
                width=1.2,
            )
            for k, algorithm in enumerate(algorithms)
            for i, row in enumerate(row for row in own if row["algorithm"] == algorithm)
        ]
        for value, label, style in ((own[0]["optimum"], "optimum", "--"), (own[0]["random"], "random", ":")):
            lines.append(Line([0, end], [value] * 2, label, colour="soft", style=style, width=1.0))
        curves(
            lines,
            x_label="processor seconds of training",
            y_label="return of an episode",
            title=name,
            reach=(0, 1),
            ax=ax,
        )
    return figure


def print_table(rows: Sequence[Row]) -> None:
    """Print a line of Markdown for each task and algorithm."""
    print("| task | algorithm | random | before | after, by seed | gain | processor s |\n|" + "---|" * 7)
    for task, algorithm in dict.fromkeys((row["task"], row["algorithm"]) for row in rows):
        own = [row for row in rows if (row["task"], row["algorithm"]) == (task, algorithm)]
        before = f"{np.mean([row['before'] for row in own]):.3f}"
        after = ", ".join(f"{row['after']:.3f}" for row in own)
        seconds = ", ".join(f"{row['cpu_seconds']:.0f}" for row in own)
        mean, low, high = mean_gain(own)
        gain = f"{mean:.3f} [{low:.3f}, {high:.3f}]"
        print(f"| {task} | {algorithm} | {own[0]['random']:.4f} | {before} | {after} | {gain} | {seconds} |")


def main() -> None:
    """Train, write, print and draw."""
    options = tyro.cli(Options)
    torch.set_num_threads(1)
    file = options.json
    rows: list[Row] = []
    if file is not None and file.is_file():
        rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    for task in options.tasks:
        recommended = [name for name in load_task(task).recommended if name != "sft"]
        for algorithm in options.algorithms or recommended:
            for seed in options.seeds:
                new = run(task, algorithm, seed, options.seconds)
                key = ("task", "algorithm", "seed")
                rows = [row for row in rows if any(row[k] != new[k] for k in key)] + [new]
                if file is not None:
                    save(file, rows)
    print_table(rows)
    if options.figure is not None:
        save_figure(figure_of(rows), options.figure)


if __name__ == "__main__":
    main()
