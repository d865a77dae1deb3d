"""Finds algorithms by the names the command line knows."""

from __future__ import annotations

from typing import Any

from text_gym.errors import UnknownNameError

from .agent import Agent
from .best_of_n import BestOfN
from .grpo import GRPO
from .ppo import PPO
from .reinforce import REINFORCE
from .rloo import RLOO

ALGORITHMS: dict[str, type[Agent[Any]]] = {
    "ppo": PPO,
    "grpo": GRPO,
    "rloo": RLOO,
    "reinforce": REINFORCE,
    "best_of_n": BestOfN,
}


def load_algorithm(name: str) -> type[Agent[Any]]:
    """Import the class of an algorithm by its name in `ALGORITHMS`.

    Raises:
        UnknownNameError: There is no such algorithm; the nearest name is suggested.

    >>> load_algorithm("ppo").__name__
    'PPO'
    """
    if name not in ALGORITHMS:
        raise UnknownNameError("algorithm", name, ALGORITHMS)
    return ALGORITHMS[name]
