"""Finds algorithms by the names the command line knows, and those that users bring."""

from __future__ import annotations

import inspect
from typing import Any

from text_gym.agents.own_algorithms import installed, own_algorithm
from text_gym.errors import ConfigError, UnknownNameError

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
    """Import the class of an algorithm: one of ours by its name, or your own.

    Args:
        name: In `ALGORITHMS`; or `file.py:Class` or `module:Class`, where the class derives from `Agent`; or
            an entry point of the group `text_gym.algorithms`. A file is run when it is loaded.

    Raises:
        UnknownNameError: There is no such algorithm, or no such class; the nearest name is suggested.
        DataError: The file or module does not exist.
        ConfigError: It raised while it was loaded, or what it has by that name is no agent.

    >>> load_algorithm("ppo").__name__
    'PPO'
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    found = own_algorithm(name)
    if found is None:
        raise UnknownNameError("algorithm", name, [*ALGORITHMS, *installed()])
    if not (isinstance(found, type) and issubclass(found, Agent)):
        what = f"class {found.__name__}" if isinstance(found, type) else type(found).__name__
        raise ConfigError(f"{name} is a {what}; an algorithm is a class derived from text_gym.agents.Agent")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise ConfigError(f"{name} has no {missing} of its own: write it")
    return found
