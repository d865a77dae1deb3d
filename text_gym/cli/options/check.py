"""Options of `text-gym check` and `text-gym validate`, and how they are read from the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from text_gym.agents.algorithms.configs import CONFIGS
from text_gym.agents.own_algorithms import installed
from text_gym.errors import ConfigError, UnknownNameError
from text_gym.reward_models.names import REWARD_NAMES
from text_gym.tasks.task import env_ids, task_names
from text_gym.utils.user_code import split_place

from .checks import at_least, check_data, check_out_folder, check_reward, check_task
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


@dataclass(frozen=True)
class ValidateOptions:
    """Validate a task, a reward or an installed package in graded levels: text-gym validate TARGET.

    The exit status is 0, or 10 more than the lowest level that failed (13: level 3). Writes a page, the
    report as JSON, and a badge.

    Args:
        target: A task; a reward: a name, module:function, file.py:function, or the folder of a learned model;
            or an installed package that has tasks.
        task: Task whose prompts and texts a reward is tried on; its own reward is gold then.
        levels: Those that are run. 0: it loads, and texts are judged by themselves. 1: golden and empty
            texts. 2: tricks. 3: leaks. 4: a policy learns from it. 5: people or gold agree.
        golden: Column of the prompts that holds a perfect completion; by default the task knows one.
        maximum: Largest reward there is, where the task does not know it.
        canaries: File of texts that are known hacks, with columns prompt and completion.
        ratings: File of texts that people marked, with columns prompt, completion and the criteria.
        criteria: Columns of the marks.
        pairs: File of texts that people compared, with columns prompt, chosen and rejected.
        out: Folder for validation.html, validation.json and badge.json.
        prompts: Prompts that are looked at.
        seconds: CPU time of level 4's learning.
        seed: Decides prompts, tricks and the learning's noise.
        trust: Run modules and packages of others in this process, not in a sandbox.
    """

    target: Positional[str]
    task: str = "products"
    levels: tuple[int, ...] = (0, 1, 2, 3, 4, 5)
    golden: str | None = None
    maximum: float | None = None
    canaries: str | None = None
    ratings: str | None = None
    criteria: tuple[str, ...] = ("rating",)
    pairs: str | None = None
    out: str = "validation"
    prompts: int = 24
    seconds: float = 60.0
    seed: int = 0
    trust: bool = False


def read_validate(argv: list[str]) -> tuple[ValidateOptions]:
    """Options of `text-gym validate`."""
    (options,) = parse("validate", argv, ValidateOptions)
    check_task(options.task)
    for option in ("canaries", "ratings", "pairs"):
        check_data(getattr(options, option), option)
    check_out_folder(options.out)
    at_least(1, prompts=options.prompts)
    if not options.levels or set(options.levels) - set(range(6)):
        raise ConfigError(f"--levels is {' '.join(map(str, options.levels))}; choose of 0 to 5")
    if not options.seconds > 0:
        raise ConfigError(f"--seconds is {options.seconds}; it must be above 0")
    return (options,)
