"""Options of `text-gym init` and `text-gym tasks`, and how they are read from the command line."""

from __future__ import annotations

from dataclasses import dataclass

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
