"""Options of `text-gym init`, `text-gym tasks` and `text-gym serve`, and how they are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .parsing import parse


@dataclass(frozen=True)
class InitOptions:
    """Write a package with a task of your own: text-gym init NAME. Its tests pass as it stands.

    Args:
        name: Name of the task and of its Python package, e.g. my_task.
        out: Folder to write, which must not exist; ./NAME if left out.
    """

    name: str
    out: str | None = None


@dataclass(frozen=True)
class TasksOptions:
    """List the tasks there are: name, where from, and what is to be written.

    Those of installed packages (entry points of the group text_gym.tasks) are loaded, to find what is broken.
    """


@dataclass(frozen=True)
class ServeOptions:
    """Offer a task to the clients of OpenEnv: text-gym serve TASK. An action is the text of a whole turn.

    Args:
        task: Name of the task; `text-gym tasks` lists them.
        host: Where to listen; by default on this machine alone. There is no password: whoever reaches the
            address can play.
        port: Where to listen.
        sessions: At most so many players at a time.
        held_out: Play the held-out prompts.
    """

    task: str
    host: str = "127.0.0.1"
    port: int = 8000
    sessions: int = 64
    held_out: bool = False


@dataclass(frozen=True)
class ExportTaskOptions:
    """Write a project for a large trainer: text-gym export --to TRAINER TASK FOLDER.

    The project has the task's prompts, its reward, which gives the same numbers there, and a script.

    Args:
        to: The trainer: trl, verl or openrlhf.
        task: Name of the task; `text-gym tasks` lists them.
        out: Folder to write, which must not exist; ./TASK-TRAINER if left out.
        model: The model that learns: a name on the hub or a folder.
    """

    to: Literal["trl", "verl", "openrlhf"]
    task: str
    out: str | None = None
    model: str = "Qwen/Qwen3-0.6B"


def read_export_task(argv: list[str]) -> tuple[ExportTaskOptions]:
    """Options of `text-gym export`; the task and the folder stand without a name, in this order."""
    named: list[str] = []
    bare: list[str] = []
    for i, word in enumerate(argv):
        follows = i > 0 and argv[i - 1].startswith("--") and "=" not in argv[i - 1]
        (named if word.startswith("-") or follows else bare).append(word)
    for name, word in zip(("--task", "--out"), bare, strict=False):
        named += [name, word]
    (options,) = parse("export", [*named, *bare[2:]], ExportTaskOptions)
    return (options,)


def read_init(argv: list[str]) -> tuple[InitOptions]:
    """Options of `text-gym init`; the name comes first."""
    if argv and not argv[0].startswith("-"):
        argv = ["--name", *argv]
    (options,) = parse("init", argv, InitOptions)
    return (options,)


def read_tasks(argv: list[str]) -> tuple[TasksOptions]:
    """Options of `text-gym tasks`: there are none."""
    (options,) = parse("tasks", argv, TasksOptions)
    return (options,)


def read_serve(argv: list[str]) -> tuple[ServeOptions]:
    """Options of `text-gym serve`; the task may come first."""
    if argv and not argv[0].startswith("-"):
        argv = ["--task", *argv]
    (options,) = parse("serve", argv, ServeOptions)
    return (options,)
