"""Options of `text-gym check`, and how they are read from the command line."""

from __future__ import annotations

from dataclasses import dataclass

from .parsing import parse


@dataclass(frozen=True)
class CheckOptions:
    """Check an environment or a reward: text-gym check WHAT. Exit status 2 if it breaks a law.

    Args:
        what: A Gymnasium id or task, or a reward: a name, module:function, or file.py:function.
        task: Task whose random texts a reward is tried on.
        steps: Random actions per law, for an environment.
        seed: Of the environment and the texts.
    """

    what: str
    task: str = "products"
    steps: int = 300
    seed: int = 0


def read_check(argv: list[str]) -> tuple[CheckOptions]:
    """Options of `text-gym check`; what to check comes first."""
    if argv and not argv[0].startswith("-"):
        argv = ["--what", *argv]
    (options,) = parse("check", argv, CheckOptions)
    return (options,)
