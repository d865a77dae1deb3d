"""How well and how fast the algorithms learn: held-out figures over seeds, as a table and JSON.

    python benchmarks/learning.py products --algorithms ppo --seeds 0 1 2
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

import tyro
from machine import save
from rich.console import Console

from text_gym import load_task
from text_gym.agents import SFTConfig, load_algorithm
from text_gym.cli import SFTOptions
from text_gym.commands import sft
from text_gym.train import Data, resolve_task, train

Row = dict[str, Any]


@dataclass(frozen=True)
class Products:
    """Train on the embedded task.

    Args:
        algorithms: Names of algorithms.
        seeds: One run each.
        json: File for the rows.
    """

    algorithms: tuple[str, ...] = ("ppo",)
    seeds: tuple[int, ...] = (0, 1, 2)
    json: Path | None = None


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
    return rows


def run_slots(options: Slots, folder: Path) -> list[Row]:
    """A row for each algorithm and seed."""
    rows: list[Row] = []
    data = Data(options.data, options.prompt, options.reference)
    for seed in options.seeds:
        policy = folder / f"sft-{seed}"
        started = time.perf_counter()
        sft(SFTOptions(**dataclasses.asdict(data), out=str(policy)), SFTConfig(seed=seed), quiet())
        sft_seconds = time.perf_counter() - started
        for algorithm in options.algorithms:
            task, reward = resolve_task("products", data, "slots", str(policy), None)
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
