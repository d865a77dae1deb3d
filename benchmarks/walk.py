"""How far a reader walks through the code of one PPO iteration: files, functions, changes of file.

    python benchmarks/walk.py            # the table
    python benchmarks/walk.py --list     # and every function with its calls, file by file

One iteration on the products task, 8 episodes, after one that warms up. A call of one of our functions is a
change of file where the nearest of our functions above it on the stack stands in another file. What one
minibatch needs is what a second one adds. Comprehensions are no functions; library code in between, PyTorch
and transformers, is passed over.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch

import text_gym
from text_gym import TextVectorEnv, load_task
from text_gym.agents import PPO, Policy, PPOConfig

EPISODES = 8
ROOT = Path(text_gym.__file__).parent.resolve().parent
FOLDERS = ("text_gym", "agents", "reward_models")
CPU = "text_gym/models/cpu/"  # stands in for operators of PyTorch


class Call(NamedTuple):
    """One function of ours called by another."""

    caller: str  # the file, relative to the repository; empty if nobody of ours is above
    file: str
    function: str


Walk = Counter[Call]


def main() -> None:
    """Print the table and, if asked for, the functions."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--list", action="store_true", help="list every function with its calls")
    options = parser.parse_args()
    torch.set_num_threads(1)
    whole = iteration(epochs=4, minibatches=4)
    minibatch = iteration(epochs=2, minibatches=1) - iteration(epochs=1, minibatches=1)
    parts: dict[str, Callable[[str], bool]] = {
        "all of our code": lambda file: True,
        f"without {CPU}": lambda file: not file.startswith(CPU),
        "agents/ alone": lambda file: file.startswith("agents/"),
    }
    print(f"{'':38}{'files':>7}{'functions':>11}{'calls':>8}{'changes of file':>17}")
    for what, walk in (("iteration", whole), ("minibatch", minibatch)):
        for name, belongs in parts.items():
            print(f"{f'{what}, {name}':38}" + row(walk, belongs))
    for what, walk in (("iteration", whole), ("minibatch", minibatch)) if options.list else ():
        print(f"\nOne {what}")
        show(walk)


def iteration(**settings: Any) -> Walk:
    """Walk through one iteration of PPO with these settings."""
    task = load_task("products")
    assert task.policy is not None
    policy = Policy.from_pretrained(task.policy, device="cpu")
    env = TextVectorEnv(task=task, num_envs=EPISODES, numbering="global")
    agent = PPO(policy, env, PPOConfig(iterations=2, target_kl=None, **settings))
    agent.learn(1)
    return walk_through(lambda: agent.learn(1))


def walk_through(work: Callable[[], object]) -> Walk:
    """Count the calls of our functions during some work."""
    walk: Walk = Counter()
    known: dict[CodeType, str] = {}

    def place(frame: FrameType | None) -> str:
        """The file of a frame, empty if it is none of our functions."""
        if frame is None:
            return ""
        code = frame.f_code
        if code not in known:
            file = Path(code.co_filename).resolve()
            name = file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else ""
            comprehension = code.co_name in ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>")
            known[code] = name if name.startswith(FOLDERS) and not comprehension else ""
        return known[code]

    def look(frame: FrameType, event: str, _: object) -> None:
        if event != "call" or not (file := place(frame)):
            return
        above = frame.f_back
        while above is not None and not place(above):
            above = above.f_back
        walk[Call(place(above), file, frame.f_code.co_qualname)] += 1

    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(None)
    return walk


def row(walk: Walk, belongs: Callable[[str], bool]) -> str:
    """The numbers of the table, of calls within some of the files."""
    inside = {call: n for call, n in walk.items() if belongs(call.file)}
    functions = {(call.file, call.function) for call in inside}
    changes = sum(n for c, n in inside.items() if c.caller and belongs(c.caller) and c.caller != c.file)
    files = {file for file, _ in functions}
    return f"{len(files):7}{len(functions):11}{sum(inside.values()):8}{changes:17}"


def show(walk: Walk) -> None:
    """Print the functions by file, with how often each was called."""
    calls: Counter[tuple[str, str]] = Counter()
    for call, n in walk.items():
        calls[call.file, call.function] += n
    for file in sorted({file for file, _ in calls}):
        inside = {function: n for (name, function), n in calls.items() if name == file}
        print(f"{file}: {len(inside)} functions, {sum(inside.values())} calls")
        for function, n in sorted(inside.items(), key=lambda item: -item[1]):
            print(f"    {n:6}  {function}")


if __name__ == "__main__":
    main()
