"""How fast we are next to others, and how much memory we need: a table, and JSON.

    python benchmarks/compare.py --json FILE --trl112 PYTHON --trl116 PYTHON

Parts, which `--only` chooses from: `rollout` is the sampler against `model.generate`; `ppo`, `ppo-separate`
(with a critic apart, as TRL's), `grpo` and `rloo` are whole iterations (play, score under the reference, 4
epochs of 4 minibatches) against TRL's trainers, in time and in memory; `scaling` is PPO with other numbers
of episodes and tokens; `memory` is an iteration of PPO on 256 episodes at a vocabulary of 50,257. TRL
dropped PPO after 1.12, so that two versions take part: each option names an interpreter with one of them
installed, and what is not named is left out. Contestants are processes of one thread that take turns;
figures are medians, of CPU time, and iterations have the bootstrap's interval (95 %) of the rounds' median
ratio. Run it on an idle machine: all of it takes about 25 minutes.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from machine import interval_of_median, machine
from rich.console import Console
from rich.table import Table
from test_rollout_speed import FLOORS, NEW_TOKENS, TURNS, contestants, in_turns

from text_gym.utils.json_files import write_json

Row = dict[str, Any]
HERE = Path(__file__).resolve().parent
SHAPES: dict[str, dict[str, int | str]] = {  # GPT-2 shapes, and Qwen3's as wide and as deep
    "tiny": {"layers": 2, "width": 128, "heads": 4, "vocabulary": 1024},
    "small": {"layers": 6, "width": 256, "heads": 8, "vocabulary": 4096},
    "gpt2": {"layers": 12, "width": 768, "heads": 12, "vocabulary": 50257},
    "large-vocabulary": {"layers": 2, "width": 128, "heads": 4, "vocabulary": 50257},
    "qwen3-tiny": {"layers": 2, "width": 128, "heads": 4, "vocabulary": 1024, "family": "qwen3"},
    "qwen3-small": {"layers": 6, "width": 256, "heads": 8, "vocabulary": 4096, "family": "qwen3"},
}


@dataclass(frozen=True)
class Options:
    """Compare with peers.

    Args:
        only: Regular expression of what to measure, of the names that `--list` shows.
        list: Show what there is, with estimates of its time, and measure nothing.
        trl112: Interpreter with TRL 1.12, for PPO.
        trl116: Interpreter with TRL 1.16, for GRPO and RLOO.
        rounds: Iterations of each contestant; 0 takes as many as each part has.
        json: File for the rows.
    """

    only: str = ""
    list: bool = False
    trl112: str | None = None
    trl116: str | None = None
    rounds: int = 0
    json: Path | None = None


@dataclass(frozen=True)
class Part:
    """What is measured together.

    Args:
        what: `rollout`, an algorithm, `scaling` or `memory`.
        model: One of `SHAPES`, or `products`, the policy that is shipped.
        seconds: About what it takes on one core of a server, TRL included.
        batch: Episodes.
        new_tokens: Of each.
        rounds: Iterations of each contestant, after one to warm up; 0 is that one alone.
    """

    what: str
    model: str
    seconds: int
    batch: int = 64
    new_tokens: int = NEW_TOKENS
    rounds: int = 5

    @property
    def name(self) -> str:
        """As on the command line."""
        tokens = "" if self.new_tokens == NEW_TOKENS else f"/{self.new_tokens} new tokens"
        return f"{self.what}/{self.model}/B={self.batch}{tokens}"

    @property
    def algorithm(self) -> str:
        """Of whole iterations."""
        return self.what if self.what.startswith(("ppo", "grpo", "rloo")) else "ppo"


PARTS = [
    *(Part("rollout", model, 15) for model in TURNS),
    Part("rollout", "gpt2", 90),
    *(Part(what, "tiny", 35) for what in ("ppo", "ppo-separate", "grpo", "rloo")),
    *(Part(what, "small", 110, rounds=3) for what in ("ppo", "ppo-separate", "grpo", "rloo")),
    *(Part(what, "qwen3-tiny", 40) for what in ("ppo", "grpo", "rloo")),
    *(Part(what, "qwen3-small", 130, rounds=3) for what in ("ppo", "grpo", "rloo")),
    Part("ppo", "gpt2", 150, batch=8, rounds=2),
    *(Part(what, "large-vocabulary", 140, rounds=2) for what in ("ppo", "grpo")),
    Part("scaling", "tiny", 20, batch=16, rounds=3),
    Part("scaling", "tiny", 55, batch=256, rounds=3),
    Part("scaling", "tiny", 20, new_tokens=16, rounds=3),
    Part("scaling", "tiny", 35, new_tokens=96, rounds=3),
    Part("memory", "large-vocabulary", 200, batch=256, rounds=0),
]


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
def trainer(python: str, contestant: str, part: Part, *, own: bool | None = None) -> Iterator[Trainer]:
    """Start a contestant of `trainers.py`; it is stopped in the end.

    Args:
        python: Its interpreter.
        contestant: A name that `trainers.py` knows.
        part: What to play.
        own: Run the package of this folder, not the installed one; None: if it is one of ours.
    """
    shape = [f"--{name}={value}" for name, value in SHAPES[part.model].items()]
    command = [python, str(HERE / "trainers.py"), contestant, *shape]
    command += [f"--batch={part.batch}", f"--new-tokens={part.new_tokens}"]
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "TRL_EXPERIMENTAL_SILENCE": "1", "PYTHONWARNINGS": "ignore"}
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **quiet}
    if contestant.startswith("ours") if own is None else own:
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


def iterations(part: Part, peer: str | None) -> list[Row]:
    """Tokens a second of whole iterations, and the memory they need on top of the models, ours and TRL's."""
    contestants = {"ours": sys.executable} | ({} if peer is None else {"trl": peer})
    reports: dict[str, list[Row]] = {name: [] for name in contestants}
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(trainer(python, f"{name}-{part.algorithm}", part))
            for name, python in contestants.items()
        }
        for round_ in range(part.rounds + 1):
            for name, process in processes.items():
                report = process.turn()
                if round_ or not part.rounds:
                    reports[name].append(report)
    speeds = {
        name: [report["tokens"] / report["seconds"] for report in seen] for name, seen in reports.items()
    }
    speed = {name: statistics.median(seen) for name, seen in speeds.items()}
    memory = {name: max(report["added_bytes"] for report in seen) / 2**20 for name, seen in reports.items()}
    algorithm = part.algorithm.split("-")[0]
    peer_name = f"TRL {'1.12' if algorithm == 'ppo' else '1.16'} {algorithm.upper()}"
    what = f"{algorithm} iteration" + (
        "" if part.new_tokens == NEW_TOKENS else f", {part.new_tokens} new tokens"
    )
    what += ", separate critic" if part.algorithm == "ppo-separate" else ""
    rows = [row(what, part, speed, peer_name, "tokens/s")] if part.rounds else []
    if rows and peer is not None:
        ratios = [ours / theirs for ours, theirs in zip(speeds["ours"], speeds["trl"], strict=True)]
        rows[0]["ci95"] = interval_of_median(ratios)
    return [*rows, row(f"{what}, memory added", part, memory, peer_name, "MiB")]


def row(what: str, part: Part, figures: dict[str, float], peer_name: str, unit: str) -> Row:
    """A row of the table; `ratio` is ours over theirs, None where they did not take part."""
    ours, peer = figures["ours"], figures.get("trl")
    return {
        "what": what,
        "model": part.model,
        "batch": part.batch,
        "ours": ours,
        "peer": peer,
        "peer_name": peer_name,
        "ratio": None if peer is None else ours / peer,
        "unit": unit,
    }


def rollouts(part: Part) -> list[Row]:
    """Tokens a second of the sampler, which also steps the environment and keeps what learning needs.

    With lengths that are drawn, `generate` is taken to have written as many tokens.
    """
    rows = []
    for lengths, batch in ((lengths, batch) for model, lengths, batch in FLOORS if model == part.model):
        slow, fast = contestants(part.model, lengths, batch)
        tokens = fast()
        seconds = in_turns(slow, fast, TURNS.get(part.model, 1))
        speed = {"trl": tokens / seconds[0], "ours": tokens / seconds[1]}
        this = replace(part, batch=batch)
        rows.append(row(f"rollout, {lengths} lengths", this, speed, "model.generate", "tokens/s"))
    return rows


def measure(parts: Sequence[Part], options: Options) -> Iterator[Row]:
    """All rows of some parts."""
    for part in parts:
        option = "trl116" if part.algorithm in ("grpo", "rloo") else "trl112"
        peer: str | None = getattr(options, option)
        if part.what == "rollout":
            yield from rollouts(part)
            continue
        if peer is None:
            print(f"{part.name}: TRL does not take part without --{option} PYTHON", flush=True)
        yield from iterations(part, peer)


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
    parts = [part for part in PARTS if re.search(options.only, part.name)]
    if options.rounds:
        parts = [replace(part, rounds=options.rounds) if part.rounds else part for part in parts]
    if options.list or not parts:
        for part in parts or PARTS:
            print(f"{part.seconds:4} s  {part.name}")
        raise SystemExit(0 if parts else f"nothing is called {options.only!r}; see above")
    print(f"about {sum(part.seconds for part in parts) / 60:.0f} minutes", flush=True)
    torch.set_num_threads(1)
    rows = []
    for entry in measure(parts, options):
        print(json.dumps(entry), flush=True)
        rows.append(entry)
    show(rows)
    if options.json is not None:
        write_json(options.json, {"machine": machine() | {"load": os.getloadavg()[0]}, "rows": rows})


if __name__ == "__main__":
    main(tyro.cli(Options))
