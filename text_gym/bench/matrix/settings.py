"""The settings all cells of a benchmark folder share, so that their rows can be compared.

Optimisers get the same number of episodes. Which cells there are is not said here: see `matrix`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from text_gym.bench.gold.e2e import GOLD_TASKS
from text_gym.errors import ConfigError, DataError, UnknownNameError
from text_gym.tasks.task import Task, load_task

Budget = Literal["small", "full"]

EngineName = Literal["local", "ray"]

FORMAT = 3  # version of the folder's files; cells of another version are made again
BEST_OF_N = "best_of_n"
# How each optimiser learns, apart from its defaults. One pass of four steps over each batch: half the
# time of two, and fast enough to reach the region where rewards are exploited.
OPTIMISERS: dict[str, dict[str, Any]] = {
    "ppo": {"learning_rate": 1e-3, "epochs": 2},
    "grpo": {"learning_rate": 1e-3, "epochs": 1, "kl_in": "reward", "kl_estimator": "k1"},
    "rloo": {"learning_rate": 1e-3, "epochs": 1},
    "reinforce": {"learning_rate": 3e-3},
    "sb3.ppo": {"learning_rate": 3e-4},
    "dpo": {"learning_rate": 1e-3, "epochs": 1, "n": 4},
    "distillation": {"learning_rate": 1e-3, "epochs": 1, "n": 4},
}


@dataclass(frozen=True)
class OwnAlgorithm:
    """An algorithm of the user's.

    Args:
        spec: Where it is, as `load_algorithm` takes it.
        content: A hash of the file or module: results of other code are none of this one's.
    """

    spec: str
    content: str


@dataclass(frozen=True)
class Settings:
    """The settings shared by all cells of a folder.

    Args:
        what: Whether reward designs or agents are compared.
        task: Name of the task; for agents, of each of the tasks in turn.
        policy: Folder of the policy that every cell starts from; the task's own if None, and a new small one,
            the same for all cells, where it has none.
        iterations: Batches that an optimiser learns from.
        episodes: Of a batch.
        points: Times that the policy is looked at on the way, the start not counted.
        watched: Texts that it is looked at by, of as many held-out prompts, or all there are.
        held_out: The same at the end.
        candidates: Texts of a prompt that best-of-n chooses from; the largest n.
        prompts: Held-out prompts of best-of-n.
        pool: Training prompts with two texts each, for raters to compare.
        override: Settings of optimisers in place of those of `OPTIMISERS`.
        algorithms: The user's own, by the names they have as optimisers.
        data: File that the task reads, for a task on the user's own data.
        made: Folder of the policy that the benchmark made for such a task, if none is given.
    """

    what: Literal["rewards", "agents"] = "rewards"
    task: str = "products"
    policy: str | None = None
    iterations: int = 40
    episodes: int = 64
    points: int = 8
    watched: int = 128
    held_out: int = 256
    candidates: int = 64
    prompts: int = 64
    pool: int = 2048
    override: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    algorithms: Mapping[str, OwnAlgorithm] = dataclasses.field(default_factory=dict)
    data: str | None = None
    made: str | None = None

    def __post_init__(self) -> None:
        for field in (
            "iterations",
            "episodes",
            "points",
            "watched",
            "held_out",
            "candidates",
            "prompts",
            "pool",
        ):
            if getattr(self, field) < 1:
                raise ConfigError(f"{field} is {getattr(self, field)}; it must be at least 1")

    def optimiser(self, name: str) -> dict[str, Any]:
        """Return an optimiser's own settings.

        Raises:
            UnknownNameError: There is no such optimiser; the nearest name is suggested.
        """
        if name == BEST_OF_N:
            return {"candidates": self.candidates, "prompts": self.prompts}
        if name not in OPTIMISERS and name not in self.algorithms:
            raise UnknownNameError("optimiser", name, [BEST_OF_N, *OPTIMISERS, *self.algorithms])
        return {**OPTIMISERS.get(name, {}), **self.override.get(name, {})}

    def code(self, optimiser: str) -> str | None:
        """A hash of the code of a user's own optimiser; None for ours."""
        return self.algorithms[optimiser].content if optimiser in self.algorithms else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for `config.json` and hashes."""
        found = dataclasses.asdict(self)
        found |= {"override": {k: dict(v) for k, v in self.override.items()}, "format": FORMAT}
        # Where these two lie is nobody's business; what is in them is among the folder's `contents`.
        data, _ = found.pop("data"), found.pop("made")
        return found if data is None else {**found, "data": Path(data).name}

    def load_task(self) -> Task:
        """Load the task, once per process."""
        return the_task(self.task, self.data, (self.policy or self.made) if self.data is not None else None)

    def text_settings(self) -> dict[str, Any]:
        """Return, as plain data, everything the starting policy's texts depend on."""
        policy = None if self.policy is None else digest_of_files(Path(self.policy))
        own = self.load_task().policy
        found = {"format": FORMAT, "task": self.task, "policy": policy, "own": own and _fingerprint(own)}
        return found if self.data is None else {**found, "data": _fingerprint(Path(self.data))}


@cache
def the_task(name: str, data: str | None = None, policy: str | None = None) -> Task:
    """Load a task by name, once per process.

    Args:
        name: One of `load_task`, or of `GOLD_TASKS`.
        data: The user's file, which the latter read.
        policy: Folder of the policy that they start from.

    Raises:
        ConfigError: The task reads a file and there is none, or the other way round.
    """
    if name in GOLD_TASKS:
        if data is None:
            raise ConfigError(
                f"task {name!r} reads a file of yours: pass --data FILE with columns mr and ref"
            )
        return GOLD_TASKS[name](data, policy)
    if data is not None:
        raise ConfigError(f"task {name!r} reads no data; --data FILE is for {', '.join(GOLD_TASKS)}")
    return load_task(name)


@cache
def _fingerprint(place: Path) -> str:
    """Return the fingerprint of a policy or of data, read once per process."""
    return digest_of_files(place)


def digest(content: Any) -> str:
    """Hash plain data into 16 hexadecimal digits.

    >>> digest({"a": 1, "b": [2.0]}) == digest({"b": [2.0], "a": 1})
    True
    """
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_of_files(place: Path) -> str:
    """Hash a file's content, or all files of a folder with their names.

    Raises:
        DataError: There is no such place.
    """
    if not place.exists():
        raise DataError(f"there is no file or folder {place}")
    files = [place] if place.is_file() else sorted(f for f in place.rglob("*") if f.is_file())
    return digest([["" if f == place else f.relative_to(place).as_posix(), _sha256(f)] for f in files])


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
