"""Is this code slower than the code before it? Whole iterations, and steps, of two versions that take turns.

    python benchmarks/old_and_new.py --old PYTHON [--json FILE] [--only REGEX]

`PYTHON` is the interpreter of an environment in which the older version is installed. A pair is one turn of
each; which of them goes first alternates. The ratio is the old version's CPU time over the new one's, on one
thread: above 1 the new one is faster. The interval is the bootstrap's of the pairs' median ratio (95 %). A
version may not be slower than the last: the lower bound must be at least 0.9 on every row. Exit status 1 if
it is not.
"""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from compare import PARTS, Part, trainer
from machine import interval_of_median, machine
from rich.console import Console
from rich.table import Table

from text_gym.utils.json_files import write_json

FLOOR = 0.9


@dataclass(frozen=True)
class Options:
    """Compare two versions of this package.

    Args:
        old: Interpreter with the older version.
        new: Interpreter with the newer one.
        only: Regular expression of what to measure, e.g. "ppo/tiny".
        pairs: Turns of each version per row, after one to warm up.
        json: File for the rows.
    """

    old: str
    new: str = sys.executable
    only: str = ""
    pairs: int = 12
    json: Path | None = None


def rows_to_measure(only: str) -> list[Part]:
    """The parts of `compare.py` that are whole iterations or rollouts, and steps of the environment alone."""
    parts = [part for part in PARTS if part.what != "memory"]
    parts += [Part("rollout", "tiny", 5, batch=1), Part("rollout", "large-vocabulary", 30)]
    parts += [Part("steps", "tiny", 10)]
    return [part for part in parts if part.model != "products" and re.search(only, part.name)]


def measure(part: Part, options: Options) -> dict[str, Any]:
    """Seconds of both versions in turn, and the ratio of old over new with its interval."""
    part = replace(part, what="ppo") if part.what == "scaling" else part
    pairs = options.pairs if part.model != "gpt2" else max(4, options.pairs // 3)
    seconds = np.empty((pairs + 1, 2))
    with ExitStack() as stack:
        versions = [
            stack.enter_context(trainer(python, f"ours-{part.what}", part, own=python == options.new))
            for python in (options.old, options.new)
        ]
        for pair in range(pairs + 1):
            for which in (0, 1) if pair % 2 else (1, 0):
                seconds[pair, which] = versions[which].turn()["seconds"]
    ratios = seconds[1:, 0] / seconds[1:, 1]
    return {
        "what": part.name,
        "old_seconds": float(np.median(seconds[1:, 0])),
        "new_seconds": float(np.median(seconds[1:, 1])),
        "ratio": float(np.median(ratios)),
        "ci95": interval_of_median(ratios.tolist()),
        "pairs": pairs,
    }


def main(options: Options) -> int:
    """Measure, print the table, write the rows; 1 if a row is below the floor."""
    table = Table("what", "old s", "new s", "old/new", "95 %", box=None)
    rows = []
    for part in rows_to_measure(options.only):
        rows.append(row := measure(part, options))
        print(json.dumps(row), flush=True)
        low, high = row["ci95"]
        table.add_row(
            row["what"],
            f"{row['old_seconds']:.3f}",
            f"{row['new_seconds']:.3f}",
            f"{row['ratio']:.2f}",
            f"{low:.2f}–{high:.2f}",
        )
    Console(width=110).print(table)
    if options.json is not None:
        write_json(options.json, {"machine": machine() | {"load": os.getloadavg()[0]}, "rows": rows})
    return int(any(row["ci95"][0] < FLOOR for row in rows))


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
