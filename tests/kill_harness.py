"""Ends training runs at random moments, resumes them, and compares the results with an uninterrupted run.

`PYTHONPATH=. python tests/kill_harness.py FOLDER TRIALS SEED SIGNAL...` prints one JSON object. A trial
starts a run in a process of its own, ends it up to three times, by the signals in turn, resuming it in
between, and then lets it finish. Processes are forked from this one, which saves them the imports.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
import torch.utils.tensorboard  # what the runs import lazily
from rich.console import Console

from text_gym import Prompt, RewardSource, Task, WordTokenizer, as_reward_source
from text_gym.agents import Policy, PPOConfig
from text_gym.agents.training.metrics import TIMES
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


def run(folder: Path, resume: bool = False, **changes: Any) -> dict[str, Any]:
    """A run of ten iterations that adapts its KL coefficient and takes many checkpoints."""
    policy = Policy.new(TOKENIZER, layers=1, width=16, heads=2, context=16, device="cpu")
    config = PPOConfig(iterations=10, learning_rate=1e-2, kl_target=1.0, epochs=2)
    settings: dict[str, Any] = {
        "reward": reward(),
        "policy": policy,
        "episodes": 8,
        "checkpoint_every": 2,
    } | changes
    quiet = Console(file=Path(os.devnull).open("w"))  # noqa: SIM115
    return train("ppo", config, task(), out=folder, console=quiet, resume=resume, **settings)


def result(folder: Path) -> dict[str, Any]:
    """What a run left, less what tells of the machine."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "summary.json").read_text())
    files = [*sorted((folder / "policy").iterdir()), folder / "samples.md"]
    return {
        "metrics": [{k: v for k, v in row.items() if k not in TIMES} for row in rows],
        "summary": {k: v for k, v in summary.items() if k != "seconds"},
        **{file.name: file.read_bytes() for file in files},
    }


def start(folder: Path) -> int:
    """Run, or resume what is there, in a new process; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        log = os.open(folder.with_suffix(".err"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 2)
        summary = run(folder, resume=(folder / "config.json").exists())
        code = 130 if summary["interrupted"] else 0
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


def main(folder: Path, trials: int, seed: int, signals: list[signal.Signals]) -> dict[str, Any]:
    """Carry out the trials; which of them failed or differ, and how often a signal gave which status."""
    torch.set_num_threads(1)
    RunFolder.draw_curves = lambda self, title, reward="", first=None: self.path  # type: ignore[method-assign]
    chance = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run(folder / "imports")
    began = time.perf_counter()
    assert wait(start(folder / "whole")) == 0
    took = time.perf_counter() - began
    expected = result(folder / "whole")
    codes: Counter[str] = Counter()
    failed, differ, in_turn = [], [], cycle(signals)
    for trial in range(trials):
        place = folder / str(trial)
        for _ in range(chance.randint(1, 3)):
            codes[end_at_random(start(place), place, next(in_turn), chance.uniform(0, 0.7 * took))] += 1
        if wait(start(place)) != 0:
            failed.append(trial)
        elif result(place) != expected:
            differ.append(trial)
        else:
            shutil.rmtree(place)
    return {"trials": trials, "codes": codes, "failed": failed, "differ": differ, "seconds": took}


if __name__ == "__main__":
    chosen = [signal.Signals[name] for name in sys.argv[4:]]
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), chosen)))
