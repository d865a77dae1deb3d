"""Options of `text-gym play`, and how they are read from the command line."""

from __future__ import annotations

from dataclasses import dataclass

from .parsing import parse


@dataclass(frozen=True)
class PlayOptions:
    """Be the policy yourself: type or pick tokens and see state, action, reward and end.

    Args:
        task: Gymnasium id, or the name of a task (--env is the same).
        seed: Of the environment.
    """

    task: str = "text_gym/Products-v0"
    seed: int = 0


def read_play(argv: list[str]) -> tuple[PlayOptions]:
    """Options of `text-gym play`."""
    (options,) = parse("play", argv, PlayOptions)
    return (options,)
