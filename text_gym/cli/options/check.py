"""Options of `text-gym check`, and how they are read from the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from text_gym.agents.algorithms.configs import CONFIGS
from text_gym.agents.own_algorithms import installed
from text_gym.errors import UnknownNameError
from text_gym.reward_models.names import REWARD_NAMES
from text_gym.tasks.task import env_ids, task_names
from text_gym.utils.user_code import split_place

from .checks import at_least, check_reward, check_task
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
    _check_what(options.what)
    check_task(options.task)
    at_least(1, steps=options.steps)
    return (options,)


def _check_what(what: str) -> None:
    """Refuse what is no environment, task, reward or algorithm; Gymnasium may know ids that we do not.

    Raises:
        TextGymError: The nearest name is suggested; or there is no such file or module.
    """
    known = [*task_names(), *env_ids(), *REWARD_NAMES, *CONFIGS, *installed()]
    if what in known or re.search(r"-v\d+$", what):
        return
    if split_place(what) is None and not Path(what).is_dir() and not what.endswith(".py"):
        raise UnknownNameError("environment, task, reward or algorithm", what, known)
    check_reward(what, "what")
