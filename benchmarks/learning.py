"""How well and how fast the algorithms learn: held-out figures over seeds, as a table and JSON.

    python benchmarks/learning.py products --algorithms ppo grpo rloo --seeds 0 1 2 3 4 --figure products.png
    python benchmarks/learning.py slots --data devset.csv --prompt mr --reference ref

`products` starts from the shipped policy; `slots` trains a tokenizer and a policy from nothing first.
Seconds are wall time and mean nothing on a busy machine.
"""

from __future__ import annotations

import dataclasses
import io
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tyro
from machine import save
from rich.console import Console

from text_gym import load_task
from text_gym.agents import SFTConfig
from text_gym.agents.algorithms.by_name import load_algorithm
from text_gym.cli.options.sft import SFTOptions
from text_gym.cli.sft import sft
from text_gym.data import Data
from text_gym.plot import Line, curves, intervals, panels
from text_gym.plot import save as save_figure
from text_gym.runs.data import resolve_task
from text_gym.runs.train import train
from text_gym.utils.interval import Interval

Row = dict[str, Any]


@dataclass(frozen=True)
class Products:
    """Train on the embedded task.

    Args:
        algorithms: Names of algorithms.
        seeds: One run each.
        json: File for the rows.
        figure: Picture of the learning curves, and of where they end on held-out prompts.
    """

    algorithms: tuple[str, ...] = ("ppo",)
    seeds: tuple[int, ...] = (0, 1, 2)
    json: Path | None = None
    figure: Path | None = None


@dataclass(frozen=True)
class Slots:
    """Train on meaning representations `slot[value], ...`.

    Args:
        data: CSV or JSON-lines file.
        prompt: Column of the meaning representations.
        reference: Column of the texts.
        algorithms: Names of algorithms.
        seeds: One fine-tuning and one run of each algorithm for each.
        json: File for the rows.
    """

    data: str
    prompt: str = "mr"
    reference: str = "ref"
    algorithms: tuple[str, ...] = ("ppo",)
    seeds: tuple[int, ...] = (0, 1, 2)
    json: Path | None = None


def run_products(options: Products, folder: Path) -> list[Row]:
    """A row for each algorithm and seed."""
    rows: list[Row] = []
    for algorithm in options.algorithms:
        for seed in options.seeds:
            config = load_algorithm(algorithm).config_class(seed=seed)
            summary = train(
                algorithm, config, load_task("products"), out=folder / f"{algorithm}-{seed}", console=quiet()
            )
            rows.append(row("products", algorithm, summary))
            print(json.dumps(rows[-1]), flush=True)
    if options.figure is not None:
        save_figure(figure_of(options, rows, folder), options.figure)
    return rows


def run_slots(options: Slots, folder: Path) -> list[Row]:
    """A row for each algorithm and seed."""
    rows: list[Row] = []
    data = Data(options.data, options.prompt, options.reference, gold="slots")
    for seed in options.seeds:
        policy = folder / f"sft-{seed}"
        started = time.perf_counter()
        sft(SFTOptions(**dataclasses.asdict(data), out=str(policy)), SFTConfig(seed=seed), quiet())
        sft_seconds = time.perf_counter() - started
        for algorithm in options.algorithms:
            task, reward = resolve_task("products", data, None, str(policy), None)
            config = load_algorithm(algorithm).config_class(seed=seed)
            out = folder / f"{algorithm}-{seed}"
            summary = train(algorithm, config, task, reward=reward, policy=policy, out=out, console=quiet())
            rows.append({**row("slots", algorithm, summary), "sft_seconds": sft_seconds})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def row(what: str, algorithm: str, summary: Row) -> Row:
    """What matters of a run's summary."""
    before, after = summary["before"], summary["after"]
    return {
        "what": what,
        "algorithm": algorithm,
        "seed": summary["seed"],
        "gold_before": before["gold"]["mean"],
        "gold_after": after["gold"]["mean"],
        "gold_ci95": after["gold"]["ci95"],
        "perfect_before": before["perfect"]["mean"],
        "perfect_after": after["perfect"]["mean"],
        "greedy_gold_after": after["greedy"]["gold"]["mean"],
        "greedy_perfect_before": before["greedy"]["perfect"]["mean"],
        "greedy_perfect_after": after["greedy"]["perfect"]["mean"],
        "kl_nats": summary["kl_nats"],
        "perplexity_before": before["perplexity"],
        "perplexity_after": after["perplexity"],
        "seconds": summary["seconds"],
        "tokens": summary["tokens"],
    }


def table(rows: list[Row]) -> str:
    """Markdown: mean over seeds, with the smallest and largest."""
    columns = (
        "gold_before", "gold_after", "perfect_after", "greedy_perfect_before", "greedy_perfect_after",
        "kl_nats", "perplexity_after", "seconds",
    )  # fmt: skip
    lines = ["| algorithm | seeds | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for algorithm in dict.fromkeys(r["algorithm"] for r in rows):
        own = [r for r in rows if r["algorithm"] == algorithm]
        cells = []
        for column in columns:
            values = [float(r[column]) for r in own]
            cells.append(f"{statistics.mean(values):.3g} ({min(values):.3g}–{max(values):.3g})")
        lines.append(f"| {algorithm} | {', '.join(str(r['seed']) for r in own)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def figure_of(options: Products, rows: list[Row], folder: Path) -> Any:
    """Training reward over seconds (mean, range), and held-out gold with the interval of each run."""
    figure, (left, right) = panels(2, columns=2, size=(4.6, 3.4))
    lines, labels, gold = [], [], []
    for place, algorithm in enumerate(options.algorithms):
        found = [curve(folder / f"{algorithm}-{seed}" / "metrics.jsonl") for seed in options.seeds]
        at = np.linspace(max(c[0, 0] for c in found), min(c[0, -1] for c in found), 100)
        rewards = np.array([np.interp(at, *c) for c in found])
        low, high = rewards.min(axis=0), rewards.max(axis=0)
        lines.append(Line(at, rewards.mean(axis=0), algorithm.upper(), low, high, colour=place))
        own = [r for r in rows if r["algorithm"] == algorithm]
        labels += [f"{algorithm.upper()}, seed {r['seed']}" for r in own]
        gold += [Interval(r["gold_after"], r["gold_ci95"][0], r["gold_ci95"][1], 0) for r in own]
    curves(lines, x_label="seconds of training", y_label="gold of the training episodes", ax=left)
    intervals(labels, {"": gold}, x_label="held-out gold after it, 95 % intervals", ax=right)
    return figure


def curve(file: Path) -> npt.NDArray[np.float64]:
    """`(2, n)`: seconds since the beginning, and the reward, of each iteration."""
    metrics = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return np.array([np.cumsum([m["seconds"] for m in metrics]), [m["reward"] for m in metrics]])


def quiet() -> Console:
    """A console that prints nowhere."""
    return Console(file=io.StringIO())


def main(options: Products | Slots) -> None:
    """Run everything and print the table."""
    with tempfile.TemporaryDirectory() as name:
        run = run_products if isinstance(options, Products) else run_slots
        rows = run(options, Path(name))  # type: ignore[arg-type]
    print("\n" + table(rows))
    if options.json:
        save(options.json, rows)


if __name__ == "__main__":
    main(tyro.cli(Products | Slots, prog="learning.py"))
