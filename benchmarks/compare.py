"""How fast we are next to others, and how much memory we need: a table, and JSON.

    python benchmarks/compare.py --json FILE --trl112 PYTHON --trl116 PYTHON

`rollout` is the sampler against `model.generate`; `ppo`, `grpo` and `rloo` are whole iterations (play, score
under the reference, 4 epochs of 4 minibatches) against TRL's trainers; `scaling` is PPO with other numbers of
episodes and tokens; `memory` is what PPO needs at a vocabulary of 50,257. TRL dropped PPO after 1.12, so that
two versions take part: each option names an interpreter with one of them installed, and what is not named is
left out. Contestants are processes of one thread that take turns; figures are medians, of CPU time. Run it on
an idle machine. TRL's PPO has a critic of its own, while ours is a head on the policy's trunk: it is the only
kind we have.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from machine import machine
from rich.console import Console
from rich.table import Table
from test_rollout_speed import NEW_TOKENS, TURNS, contestants, in_turns

from text_gym.report import write_json

Row = dict[str, Any]
What = Literal["rollout", "ppo", "grpo", "rloo", "scaling", "memory"]
HERE = Path(__file__).resolve().parent
SHAPES = {  # GPT-2 shapes
    "tiny": {"layers": 2, "width": 128, "heads": 4, "vocabulary": 1024},
    "small": {"layers": 6, "width": 256, "heads": 8, "vocabulary": 4096},
    "gpt2": {"layers": 12, "width": 768, "heads": 12, "vocabulary": 50257},
    "large-vocabulary": {"layers": 2, "width": 128, "heads": 4, "vocabulary": 50257},
}
BATCH = {"gpt2": 8}
Size = Literal["tiny", "small", "gpt2", "large-vocabulary"]


@dataclass(frozen=True)
class Options:
    """Compare with peers.

    Args:
        only: What to measure.
        sizes: Models: tiny (2 layers, width 128, 1,024 ids), small (6, 256, 4,096), gpt2 (124M; batches of 8)
            and large-vocabulary (tiny with 50,257 ids). Scaling is of the tiny one, memory of the last.
        trl112: Interpreter with TRL 1.12, for PPO.
        trl116: Interpreter with TRL 1.16, for GRPO and RLOO.
        rounds: Iterations of each contestant, after one to warm up.
        memory_batches: Episodes of an iteration for which memory is measured.
        json: File for the rows.
    """

    only: tuple[What, ...] = ("rollout", "ppo", "grpo", "rloo", "scaling", "memory")
    sizes: tuple[Size, ...] = ("tiny", "small")
    trl112: str | None = None
    trl116: str | None = None
    rounds: int = 5
    memory_batches: tuple[int, ...] = (64,)
    json: Path | None = None


@dataclass(frozen=True)
class Trainer:
    """A contestant in a process of its own, that waits for its turns."""

    process: subprocess.Popen[str]

    def turn(self) -> Row:
        """Play and learn once; the trainer's report."""
        assert self.process.stdin is not None
        print("go", file=self.process.stdin, flush=True)
        return self.answer()

    def answer(self) -> Row:
        """The next line that it writes."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(map(str, self.process.args))} failed; see above")  # type: ignore[arg-type]
        return dict(json.loads(line))


@contextmanager
def trainer(python: str, contestant: str, size: str, batch: int, new_tokens: int) -> Iterator[Trainer]:
    """Start a contestant of `trainers.py`; it is stopped in the end."""
    shape = [f"--{name}={value}" for name, value in SHAPES[size].items()]
    command = [python, str(HERE / "trainers.py"), contestant, *shape]
    command += [f"--batch={batch}", f"--new-tokens={new_tokens}"]
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "TRL_EXPERIMENTAL_SILENCE": "1", "PYTHONWARNINGS": "ignore"}
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **quiet}
    if contestant.startswith("ours"):
        settings["PYTHONPATH"] = path
    log = None if os.environ.get("VERBOSE") else subprocess.DEVNULL
    process = subprocess.Popen(
        command, text=True, env=settings, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
    )
    try:
        found = Trainer(process)
        found.answer()
        yield found
    finally:
        process.terminate()
        process.wait()


def iterations(
    algorithm: str, size: str, peer: str | None, rounds: int, batch: int = 0, new_tokens: int = NEW_TOKENS
) -> list[Row]:
    """Tokens a second of whole iterations, and the memory they need on top of the models, ours and TRL's."""
    batch = batch or BATCH.get(size, 64)
    contestants = {"ours": sys.executable} | ({} if peer is None else {"trl": peer})
    reports: dict[str, list[Row]] = {name: [] for name in contestants}
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(trainer(python, f"{name}-{algorithm}", size, batch, new_tokens))
            for name, python in contestants.items()
        }
        for round_ in range(rounds + 1):
            for name, process in processes.items():
                report = process.turn()
                if round_:
                    reports[name].append(report)
    speed = {
        name: statistics.median(report["tokens"] / report["seconds"] for report in seen)
        for name, seen in reports.items()
    }
    memory = {name: max(report["added_bytes"] for report in seen) / 2**20 for name, seen in reports.items()}
    peer_name = f"TRL {'1.12' if algorithm == 'ppo' else '1.16'} {algorithm.upper()}"
    what = f"{algorithm} iteration" + ("" if new_tokens == NEW_TOKENS else f", {new_tokens} new tokens")
    return [
        row(what, size, batch, speed, peer_name, "tokens/s"),
        row(f"{what}, memory added", size, batch, memory, peer_name, "MiB"),
    ]


def row(what: str, model: str, batch: int, figures: dict[str, float], peer_name: str, unit: str) -> Row:
    """A row of the table; `ratio` is ours over theirs, None where they did not take part."""
    ours, peer = figures["ours"], figures.get("trl")
    return {
        "what": what,
        "model": model,
        "batch": batch,
        "ours": ours,
        "peer": peer,
        "peer_name": peer_name,
        "ratio": None if peer is None else ours / peer,
        "unit": unit,
    }


def rollouts(size: str) -> list[Row]:
    """Tokens a second of the sampler, which also steps the environment and keeps what learning needs.

    With lengths that are drawn, `generate` is taken to have written as many tokens.
    """
    rows = []
    for lengths in ("full", "geometric"):
        slow, fast = contestants(size, lengths)
        tokens = fast()
        seconds = in_turns(slow, fast, TURNS.get(size, 5))
        speed = {"trl": tokens / seconds[0], "ours": tokens / seconds[1]}
        rows.append(row(f"rollout, {lengths} lengths", size, 64, speed, "model.generate", "tokens/s"))
    return rows


def measure(options: Options) -> Iterator[Row]:
    """All rows that were asked for and whose peers there are."""
    for what in options.only:
        peer = options.trl116 if what in ("grpo", "rloo") else options.trl112
        if peer is None and what != "rollout":
            print(f"{what}: TRL does not take part; see --trl112 and --trl116", flush=True)
        if what == "rollout":
            for size in options.sizes:
                yield from rollouts(size) if size in TURNS else ()
        elif what == "scaling":
            for batch, new_tokens in ((16, 48), (256, 48), (64, 16), (64, 96)):
                yield from iterations("ppo", "tiny", peer, options.rounds, batch, new_tokens)
        elif what == "memory":
            for batch in options.memory_batches:
                yield from iterations("ppo", "large-vocabulary", peer, 1, batch)
        else:
            for size in options.sizes:
                yield from iterations(what, size, peer, options.rounds)


def show(rows: Sequence[Row]) -> None:
    """Print the table."""
    table = Table("what", "model", "batch", "ours", "peer", "", "ratio", "unit", box=None)
    for entry in rows:
        numbers = (
            "–" if entry[name] is None else f"{entry[name]:,.{digits}f}"
            for name, digits in (("ours", 0), ("peer", 0), ("ratio", 2))
        )
        ours, peer, ratio = numbers
        table.add_row(
            entry["what"],
            entry["model"],
            str(entry["batch"]),
            ours,
            peer,
            entry["peer_name"],
            ratio,
            entry["unit"],
        )
    Console(width=140).print(table)


def main(options: Options) -> None:
    """Measure, print the table, and write the rows."""
    torch.set_num_threads(1)
    rows = []
    for entry in measure(options):
        print(json.dumps(entry), flush=True)
        rows.append(entry)
    show(rows)
    if options.json is not None:
        write_json(options.json, {"machine": machine() | {"load": os.getloadavg()[0]}, "rows": rows})


if __name__ == "__main__":
    main(tyro.cli(Options))
