"""Learning curves of the classic tasks: Stable-Baselines3's PPO from scratch, a panel a task.

    python benchmarks/classic_curves.py --figure docs/classic_curves.png --json classic_curves.json

Runs are made one after another. Seconds are the
processor's, of all threads together: never less than wall time on an idle machine, and hardly more on a
busy one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import tyro
from machine import machine
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from text_gym import Task, load_task
from text_gym.agents import SB3Config, train_sb3
from text_gym.utils.json_files import write_json

# What `load_task` makes of them, in the order of the panels.
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "sort": ("sort", {}),
    "slots": ("slots", {}),
    "reverse": ("reverse", {}),
    "copy": ("copy", {}),
    "count": ("count", {}),
    "brackets": ("brackets", {}),
    "add": ("add", {}),
    "sparse reverse": ("reverse", {"sparse": True}),
}
SOLVED = 0.95  # of the optimum
ENDLESS = 1_000_000  # iterations; the clock stops a run
PACKAGES = ("stable-baselines3", "gymnasium", "torch", "numpy")
Curve = npt.NDArray[np.float64]  # (2, n): seconds of training and mean return of each iteration


@dataclass(frozen=True)
class Options:
    """Draw learning curves.

    Args:
        figure: Where to draw them.
        json: File for the figures.
        tasks: Which panels.
        seconds: Processor time of each run, which ends sooner where the task is soon solved.
        seeds: One run each.
        threads: Of PyTorch.
    """

    figure: Path | None = None
    json: Path | None = None
    tasks: tuple[str, ...] = tuple(TASKS)
    seconds: float = 60.0
    seeds: tuple[int, ...] = (0, 1, 2)
    threads: int = 1


def learn(task: Task, seed: int, seconds: float) -> tuple[Curve, dict[str, Any]]:
    """Train for so long; the curve, and what to write down of the run."""
    points: list[tuple[float, float]] = []
    started = time.process_time()

    assert task.optimum is not None
    goal = SOLVED * task.optimum

    def note(metrics: dict[str, float]) -> bool:
        points.append((time.process_time() - started, metrics["reward"]))
        first = next((at for at, reward in points if reward >= goal), seconds)
        return points[-1][0] < min(seconds, 2 * first + 2)

    run = train_sb3("ppo", task, SB3Config(seed=seed, iterations=ENDLESS, anneal=False), callback=note)
    curve = np.array(points).T
    solved = np.flatnonzero(curve[1] >= goal)
    return curve, {
        "seed": seed,
        "seconds_to_95_percent": round(float(curve[0, solved[0]]), 2) if len(solved) else None,
        "last_return": round(float(curve[1, -1]), 4),
        "held_out_return": round(run.after.reward.mean, 4),
        "held_out_return_greedy": round(run.greedy.reward.mean, 4),
        "tokens": run.tokens,
        "seconds": round(float(curve[0, -1]), 2),
    }


def draw(axes: Axes, name: str, task: Task, curves: list[Curve]) -> None:
    """One panel: mean and range over the seeds, optimum and random policy as dashed lines."""
    assert task.optimum is not None
    assert task.random_return is not None
    end = min(curve[0, -1] for curve in curves)
    seconds = np.linspace(max(curve[0, 0] for curve in curves), end, 200)
    returns = np.array([np.interp(seconds, *curve) for curve in curves])  # (seeds, 200)
    axes.fill_between(seconds, returns.min(axis=0), returns.max(axis=0), alpha=0.25, linewidth=0)
    axes.plot(seconds, returns.mean(axis=0))
    axes.axhline(task.optimum, linestyle="--", color="0.3", linewidth=1)
    axes.axhline(task.random_return, linestyle="--", color="tab:red", linewidth=1)
    axes.set_title(name)
    axes.set_xlim(0, end)
    axes.set_ylim(-0.03, 1.05 * task.optimum)
    axes.grid(alpha=0.25)


def figure_of(results: dict[str, tuple[Task, list[Curve]]]) -> Figure:
    """All panels, four in a row."""
    columns = min(4, len(results))
    rows = -(-len(results) // columns)
    figure = Figure(figsize=(max(4.5, 3.2 * columns), 2.7 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, (task, curves)) in zip(panels, results.items(), strict=False):
        draw(axes, name, task, curves)
    for axes in panels[len(results) :]:
        axes.remove()
    for place in range(0, len(results), columns):
        panels[place].set_ylabel("return of an episode")
    for axes in panels[max(0, len(results) - columns) : len(results)]:
        axes.set_xlabel("processor seconds of training")
    labels = ["range of the seeds", "mean of the seeds", "optimum", "random policy"]
    figure.legend(panels[0].collections + panels[0].lines, labels, loc="outside lower center", ncols=2)
    return figure


def main(options: Options) -> None:
    """Train, draw and write."""
    torch.set_num_threads(options.threads)
    results: dict[str, tuple[Task, list[Curve]]] = {}
    rows: dict[str, Any] = {}
    for name in options.tasks:
        task_name, parameters = TASKS[name]
        task = load_task(task_name, **parameters)
        runs = [learn(task, seed, options.seconds) for seed in options.seeds]
        results[name] = task, [curve for curve, _ in runs]
        rows[name] = {
            "optimum": task.optimum,
            "random_return": task.random_return,
            "runs": [row for _, row in runs],
        }
        solved = [row["seconds_to_95_percent"] for _, row in runs]
        print(f"{name}: seconds to 95 % of the optimum {solved}", flush=True)
    if options.figure is not None:
        figure_of(results).savefig(options.figure, dpi=110)
    if options.json is not None:
        about = {
            "machine": machine(),
            "versions": {p: version(p) for p in PACKAGES},
            "algorithm": "sb3.ppo",
            "seconds_per_run": options.seconds,
            "seeds": list(options.seeds),
        }
        write_json(options.json, {**about, "tasks": rows})


if __name__ == "__main__":
    main(tyro.cli(Options))
