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

from text_gym import Task, load_task
from text_gym.agents import SB3Config, train_sb3
from text_gym.plot import Line, curves, panels
from text_gym.plot import save as save_figure
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


def draw(ax: Any, name: str, task: Task, runs: list[Curve]) -> None:
    """One panel: mean and range over the seeds, optimum and random policy."""
    assert task.optimum is not None
    assert task.random_return is not None
    end = min(curve[0, -1] for curve in runs)
    seconds = np.linspace(max(curve[0, 0] for curve in runs), end, 200)
    returns = np.array([np.interp(seconds, *curve) for curve in runs])  # (seeds, 200)
    mean = returns.mean(axis=0)
    curves(
        [
            Line(seconds, mean, "mean and range of the seeds", returns.min(axis=0), returns.max(axis=0)),
            Line([0, end], [task.optimum] * 2, "optimum", colour="soft", style="--", width=1.0),
            Line([0, end], [task.random_return] * 2, "random policy", colour="soft", style=":", width=1.2),
        ],
        x_label="processor seconds of training",
        y_label="return of an episode",
        title=name,
        reach=(0, 1.05 * task.optimum),
        ax=ax,
    )


def figure_of(results: dict[str, tuple[Task, list[Curve]]]) -> Any:
    """All panels, four in a row."""
    figure, places = panels(len(results), columns=4, size=(3.4, 3.0))
    for ax, (name, (task, runs)) in zip(places, results.items(), strict=True):
        draw(ax, name, task, runs)
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
        save_figure(figure_of(results), options.figure)
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
