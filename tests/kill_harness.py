"""Ends training runs at random moments, resumes them, and compares the results with an uninterrupted run.

`PYTHONPATH=. python tests/kill_harness.py VICTIM FOLDER TRIALS SEED SIGNAL...` prints one JSON object. A
trial starts a run in a process of its own, ends it up to three times, by the signals in turn, resuming it
in between, and then lets it finish. Processes are forked from this one, which saves them the imports.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
import torch.utils.tensorboard  # what the runs import lazily
from rich.console import Console

from tests import bench_world, rlhf_world
from text_gym import Prompt, RewardSource, Task, WordTokenizer, as_reward_source
from text_gym.agents import GRPOConfig, Policy, PPOConfig, REINFORCEConfig, RLOOConfig
from text_gym.agents.adapters.sb3.config import SB3Config
from text_gym.agents.training.metrics import TIMES
from text_gym.bench.matrix import matrix
from text_gym.cli.main import main as text_gym
from text_gym.rewards.transforms import RunningStandardize
from text_gym.runs.folder import RunFolder
from text_gym.runs.train import train

TOKENIZER = WordTokenizer("abcdefghi", separator="")
GOLD = as_reward_source(lambda completion: completion.count("a") + 0.1 * completion.count("b"))


def task() -> Task:
    prompts = [Prompt(text) for text in ("a", "bcd", "ef", "ghi")]
    return Task("letters", prompts, prompts[:2], TOKENIZER, GOLD, max_tokens=6)


def reward() -> RewardSource:
    """One whose answers depend on all that it was asked before."""
    return RunningStandardize(GOLD)


def run(folder: Path, resume: bool = False, algorithm: str = "ppo", **changes: Any) -> dict[str, Any]:
    """A run of ten iterations that adapts its KL coefficient and takes many checkpoints."""
    policy = Policy.new(TOKENIZER, layers=1, width=16, heads=2, context=16, device="cpu")
    config = PPOConfig(iterations=10, learning_rate=1e-2, kl_target=1.0, epochs=2)
    settings: dict[str, Any] = {
        "config": config,
        "reward": reward(),
        "policy": policy,
        "episodes": 8,
        "checkpoint_every": 2,
        "keep_rollouts": 0 if algorithm.startswith("sb3.") else 4,
    } | changes
    quiet = Console(file=Path(os.devnull).open("w"))  # noqa: SIM115
    return train(algorithm, task=task(), out=folder, console=quiet, resume=resume, **settings)


def result(folder: Path) -> dict[str, Any]:
    """What a run left, less what tells of the machine."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    files = [f for f in sorted((folder / "policy").rglob("*")) if f.is_file()] + [folder / "samples.md"]
    files += sorted([*(folder / "rollouts").glob("*"), *folder.glob("view.html")])
    return {
        "metrics": [{k: v for k, v in row.items() if k not in TIMES} for row in rows],
        "summary": {k: v for k, v in summary.items() if k != "seconds"},
        **{file.name: file.read_bytes() for file in files},
    }


@dataclass(frozen=True)
class Victim:
    """A command that is killed.

    Args:
        run: Runs it in a folder, or goes on with what is there; returns its exit status.
        result: What it left that must not depend on the kills.
    """

    run: Callable[[Path], int]
    result: Callable[[Path], dict[str, Any]]


def learner(algorithm: str, config: Any) -> Victim:
    """A training run with this algorithm."""

    def go_on(folder: Path) -> int:
        summary = run(folder, (folder / "config.json").exists(), algorithm, config=config)
        return 130 if summary["interrupted"] else 0

    return Victim(go_on, result)


def fine_tune(folder: Path) -> int:
    """`text-gym sft` on 20 texts; given again, the command does all of it again."""
    data = folder.with_name("data.csv")
    data.write_text("prompt,text\n" + "".join(f"ab{i},c{'de' * i}\n" for i in range(20)))
    options = ["--data", str(data), "--completion", "text", "--width", "8", "--layers", "1", "--heads", "2"]
    options += ["--vocab-size", "258", "--epochs", "3", "--device", "cpu", "--out", str(folder)]
    return text_gym(["sft", *options])


def learn_reward(folder: Path) -> int:
    """`text-gym reward train` on 60 pairs; given again, the command does it anew, or finds it done."""
    if (folder / "summary.json").exists():
        return 0
    pairs = folder.with_name("data.csv")
    rows = "".join(f"p{i},{'good ' * (i % 5 + 1)},{'bad ' * (i % 3)}\n" for i in range(60))
    pairs.write_text("prompt,chosen,rejected\n" + rows)
    return text_gym(["reward", "train", "--pairs", str(pairs), "--out", str(folder)])


def files(folder: Path) -> dict[str, Any]:
    """Every file, less the seconds in it and the place of the folder."""
    vary = re.compile(rb'"seconds": [0-9.e-]+|' + str(folder.parent).encode())
    found = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(file.relative_to(folder)): vary.sub(b"", file.read_bytes()) for file in found}


def cycle_of_rlhf(folder: Path) -> int:
    """Two rounds in a tiny world."""
    rlhf_world.run(folder)
    return 0


def benchmark(folder: Path) -> int:
    """Two designs under two optimisers, in this process."""
    cells = [
        bench_world.tiny_cell("keywords", "rloo"),
        bench_world.tiny_cell("keywords", "best_of_n", None),
        bench_world.tiny_cell(bench_world.FEW_PAIRS, "rloo"),
        bench_world.tiny_cell(bench_world.FEW_PAIRS, "best_of_n", None),
    ]
    matrix.run_matrix(cells, folder, "small", "local", 0, Console(file=io.StringIO()), None)
    return 0


def rows_of(folder: Path) -> dict[str, Any]:
    """The results of a benchmark."""
    return {name: (folder / name).read_bytes() for name in ("results.json", "results.csv")}


VICTIMS = {
    "ppo": learner("ppo", PPOConfig(iterations=10, learning_rate=1e-2, kl_target=1.0, epochs=2)),
    "grpo": learner("grpo", GRPOConfig(iterations=10, learning_rate=1e-2)),
    "rloo": learner("rloo", RLOOConfig(iterations=10, learning_rate=1e-2)),
    "reinforce": learner("reinforce", REINFORCEConfig(iterations=10, learning_rate=1e-2)),
    "sb3.ppo": learner("sb3.ppo", SB3Config(iterations=6, num_envs=4, n_steps=6, batch_size=8)),
    "sft": Victim(fine_tune, files),
    "reward": Victim(learn_reward, files),
    "rlhf": Victim(cycle_of_rlhf, rlhf_world.result),
    "bench": Victim(benchmark, rows_of),
}


def start(victim: Victim, folder: Path) -> int:
    """Run, or go on with what is there, in a new process; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        log = os.open(folder.with_name("stderr"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = victim.run(folder)
    except SystemExit as end:
        code = int(end.code or 0)
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        import traceback

        traceback.print_exc()
    os._exit(code)


def wait(pid: int) -> int:
    """Exit status of a process, negative if it died by a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def holds(folder: Path, pid: int) -> bool:
    """Whether a process has begun to write a folder."""
    try:
        return (folder / "run.lock").read_text() == f"{pid}\n"
    except FileNotFoundError:
        return False


def end_at_random(pid: int, folder: Path, number: signal.Signals, seconds: float) -> str:
    """Send a signal to a run within this time; returns signal and exit status, as in `SIGTERM 143`."""
    while number != signal.SIGKILL and not holds(folder, pid):
        time.sleep(0.001)  # before that a run does not take signals yet
    time.sleep(seconds)
    os.kill(pid, number)
    return f"{number.name} {wait(pid)}"


def _new_place(folder: Path) -> Path:
    """A folder to be made, of the same name each time, in a new folder."""
    folder.mkdir(parents=True)
    return folder / "run"


def difference(found: Any, expected: Any, where: str = "") -> list[str]:
    """Where two results differ, and how they do."""
    if found == expected:
        return []
    if isinstance(found, dict) and isinstance(expected, dict):
        names = sorted({*found, *expected})
        return [d for n in names for d in difference(found.get(n), expected.get(n), f"{where}/{n}")]
    if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        pairs = enumerate(zip(found, expected, strict=True))
        return [d for i, (a, b) in pairs for d in difference(a, b, f"{where}/{i}")]
    return [f"{where}: {str(found)[:80]} for {str(expected)[:80]}"]


def main(
    victim: Victim, folder: Path, trials: int, seed: int, signals: list[signal.Signals]
) -> dict[str, Any]:
    """Carry out the trials; which of them failed or differ, and how often a signal gave which status."""
    torch.set_num_threads(1)
    RunFolder.draw_curves = lambda self, title, reward="", first=None: self.path  # type: ignore[method-assign]
    setattr(matrix, "write_report", lambda folder: None)  # noqa: B010 - it is imported there
    chance = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.redirect_stdout(io.StringIO()):
        victim.run(_new_place(folder / "imports"))
    whole = _new_place(folder / "whole")
    began = time.perf_counter()
    assert wait(start(victim, whole)) == 0, whole.with_name("stderr").read_text()
    took = time.perf_counter() - began
    expected = victim.result(whole)
    codes: Counter[str] = Counter()
    failed, differ, in_turn = [], [], cycle(signals)
    for trial in range(trials):
        place = _new_place(folder / str(trial))
        for _ in range(chance.randint(1, 3)):
            pid, seconds = start(victim, place), chance.uniform(0, 0.7 * took)
            codes[end_at_random(pid, place, next(in_turn), seconds)] += 1
        if wait(start(victim, place)) != 0:
            failed.append(trial)
        elif other := difference(victim.result(place), expected):
            differ.append([trial, other])
        else:
            shutil.rmtree(place.parent)
    return {"trials": trials, "codes": codes, "failed": failed, "differ": differ, "seconds": took}


if __name__ == "__main__":
    name, where, count, number, *names = sys.argv[1:]
    chosen = [signal.Signals[name] for name in names]
    print(json.dumps(main(VICTIMS[name], Path(where), int(count), int(number), chosen)))
