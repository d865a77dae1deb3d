"""How much faster several processes are than one, on the products task: iterations of PPO and GRPO.

    python benchmarks/ranks.py [--json FILE]

Each process has one thread; `torchrun` starts them on this machine, and they talk by gloo over the loopback.
A batch has 256 episodes however many processes play it. Numbers of processes take turns; seconds are wall
time of the iterations after the first, so the machine must be idle. Two ratios are told. That of the fastest
iterations is the program's own: whoever else uses a core, as another guest of the host, can only make it
slower. That of medians is what this machine gave: of several processes the slowest decides, so that it falls
where cores differ from moment to moment.

As many processes run side by side, too, each for itself on the whole batch. They slow each other down, since
cores share caches, memory and perhaps a host with others: `at_most` is how much faster so many processes
would be than one if the work could be divided without a rest and they had nothing to say to each other.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from machine import Row, machine
from rich.console import Console
from rich.table import Table

from text_gym import TextVectorEnv, load_task
from text_gym.agents import Policy
from text_gym.agents.algorithms.by_name import load_algorithm
from text_gym.models.world import meeting
from text_gym.utils.json_files import write_json

EPISODES, ITERATIONS = 256, 4
SETTINGS: dict[str, dict[str, Any]] = {"ppo": {"target_kl": None}, "grpo": {"group_size": 8}}


@dataclass(frozen=True)
class Options:
    """Compare numbers of processes.

    Args:
        processes: How many there are at a time.
        algorithms: Whose iterations.
        turns: How often each number of processes is started.
        json: File for the rows.
    """

    processes: tuple[int, ...] = (1, 2, 4)
    algorithms: tuple[str, ...] = ("ppo", "grpo")
    turns: int = 3
    json: Path | None = None


def main() -> None:
    """Print a table, and write the rows."""
    options = tyro.cli(Options)
    seconds: dict[tuple[str, int, bool], list[float]] = {}
    for _ in range(options.turns):
        for algorithm in options.algorithms:
            for n in options.processes:
                for apart in (False, True) if n > 1 else (False,):
                    seconds.setdefault((algorithm, n, apart), []).extend(launch(algorithm, n, apart))
    rows: list[Row] = []
    shown = ("seconds", "ratio", "fastest", "fastest_ratio", "at_most")
    table = Table("algorithm", "processes", *(name.replace("_", " ") for name in shown))
    for (algorithm, n, apart), found in seconds.items():
        if not apart:
            alone = seconds.get((algorithm, n, True), found)
            row = figures(n, found, seconds[algorithm, options.processes[0], False], alone)
            rows.append({"algorithm": algorithm, "processes": n, **row})
            table.add_row(algorithm, str(n), *(f"{row[name]:.2f}" for name in shown))
    Console().print(table)
    if options.json is not None:
        write_json(options.json, {"machine": machine(), "load": os.getloadavg()[0], "rows": rows})


def figures(n: int, found: list[float], one: list[float], alone: list[float]) -> Row:
    """Compare so many processes with one.

    Args:
        n: How many there are.
        found: Seconds of their iterations together …
        one: … of one process's …
        alone: … and of each one's that has the whole work to itself, side by side with the others.
    """
    took, fastest = statistics.median(found), min(found)
    return {
        "seconds": took,
        "ratio": statistics.median(one) / took,
        "fastest": fastest,
        "fastest_ratio": min(one) / fastest,
        "at_most": n * statistics.median(one) / statistics.median(alone),
        "all": found,
        "apart": alone,
    }


def launch(algorithm: str, n: int, apart: bool) -> list[float]:
    """Run iterations in so many processes; return the wall seconds of each but the first.

    Args:
        algorithm: Whose iterations.
        n: How many processes.
        apart: Each does all of the work by itself, side by side with the others.
    """
    with tempfile.TemporaryDirectory() as place:
        files = [Path(place) / f"{number}.json" for number in range(n if apart else 1)]
        together = n > 1 and not apart
        start = (
            ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)] if together else []
        )
        command = [sys.executable, *start, __file__, "--worker", algorithm]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        # Sessions of their own, as torchrun gives its workers: Linux may share out cores by sessions.
        processes = [
            subprocess.Popen([*command, str(file)], env=env, start_new_session=True) for file in files
        ]
        codes = [process.wait() for process in processes]
        if any(codes):
            raise SystemExit(f"{algorithm} with {n} processes failed, as said above")
        return [took for file in files for took in json.loads(file.read_text(encoding="utf-8"))]


def worker(algorithm: str, file: Path) -> None:
    """Be one of the processes."""
    torch.set_num_threads(1)
    task = load_task("products")
    assert task.policy is not None
    policy = Policy.from_pretrained(task.policy, device="cpu")
    env = TextVectorEnv(task=task, num_envs=EPISODES, numbering="global")
    kind = load_algorithm(algorithm)
    with meeting("cpu") as world:
        agent = kind(policy, env, kind.config_class(iterations=ITERATIONS + 1, **SETTINGS[algorithm]))
        if world is not None:
            agent.join(world)
        seconds, began = [], time.perf_counter()
        for _ in range(ITERATIONS + 1):
            agent.learn(1)
            now = time.perf_counter()
            seconds.append(now - began)
            began = now
        if world is None or world.rank == 0:
            file.write_text(json.dumps(seconds[1:]), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
