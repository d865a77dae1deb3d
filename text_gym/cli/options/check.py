"""Options of `text-gym check`, and how they are read from the command line."""

from __future__ import annotations

from dataclasses import dataclass

from .parsing import parse


@dataclass(frozen=True)
class CheckOptions:
    """Check an environment, a reward or an algorithm: text-gym check WHAT. Exit status 2 if it breaks a law.

    Args:
        what: A Gymnasium id or task; a reward: a name, module:function, or file.py:function; or an algorithm:
            a name, module:Class, or file.py:Class.
        task: Task whose random texts a reward is tried on.
        steps: Random actions per law, for an environment.
        seed: Of the environment, the texts, or the algorithm's noise.
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
