"""Loads rewards by name, import path or file, as `--reward` on the command line takes them.

A file is run as Python code when it is loaded, in a sandbox unless you say otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from text_gym.episode import Prompt
from text_gym.errors import ConfigError, UnknownNameError, excerpt
from text_gym.reward_models.judge.judge import judge_from_environment
from text_gym.reward_models.judge.local import local_judge
from text_gym.reward_models.learned.loading import load_reward_model
from text_gym.reward_models.page.reward import WebReward
from text_gym.reward_models.people.human import HumanReward
from text_gym.reward_models.scripted.answers import JSONSchema, MathAnswer, Overlap
from text_gym.reward_models.scripted.rules import (
    Format,
    Keywords,
    Length,
    Readability,
    Repetition,
    Rubric,
    TokenRepetition,
)
from text_gym.reward_models.scripted.slots import SlotCoverage
from text_gym.rewards.files import load_from_file, load_from_module, make_source
from text_gym.rewards.sandboxed import SandboxedReward
from text_gym.rewards.source import RewardSource
from text_gym.utils.user_code import split_place

REWARDS: dict[str, Callable[..., RewardSource]] = {
    "format": Format,
    "human": HumanReward,
    "human_web": WebReward,
    "json": JSONSchema,
    "judge": judge_from_environment,
    "keywords": Keywords,
    "length": Length,
    "math": MathAnswer,
    "overlap": Overlap,
    "readability": Readability,
    "repetition": Repetition,
    "rubric": Rubric,
    "slots": SlotCoverage,
    "token_repetition": TokenRepetition,
}


def load_reward(
    spec: str, *, prompts: Iterable[Prompt] | None = None, sandbox: bool | None = None, **kwargs: Any
) -> RewardSource:
    """Make a reward source from what a user typed.

    Args:
        spec: A name in `REWARDS`; `module:name` or `path/to/file.py:name`, where `name` is a reward function,
            a `RewardSource`, or a class or function without required parameters that makes one; the folder
            of a learned model; `human:path/to/labels.db`, people whose answers go to that store; or
            `judge:MODEL`, a language model's folder or name on a hub, which answers yes or no to the
            questions in the file that `TEXT_GYM_JUDGE_RUBRIC` names.
        prompts: All prompts of the run, for sources that learn from them first (a class method `fit`).
        sandbox: Run a file in a sandbox: without network, other processes, or writing to your files (see
            `text_gym.utils.sandbox`); `False` for a file of your own that needs those. None is True, unless
            the environment variable `TEXT_GYM_SANDBOX` is 0. Modules, being installed, run in this process.
        kwargs: Arguments of the source's class or function.

    Raises:
        UnknownNameError: No reward of that name, or no such thing in the module; the nearest is suggested.
        DataError: The file or module does not exist.
        ConfigError: The arguments do not fit, or the thing named is no reward.
        RewardError: The file or module raised while it was loaded.

    >>> load_reward("length", low=5, high=10)
    Length(length)
    """
    if spec.startswith("human:"):
        spec, kwargs = "human", {**kwargs, "store": spec.removeprefix("human:")}
    if spec.startswith("judge:"):
        return local_judge(spec.removeprefix("judge:"), **kwargs)
    if spec in REWARDS:
        return make_source(REWARDS[spec], spec, prompts, kwargs)
    found = split_place(spec)
    if found is not None:
        place, name = found
        if place.endswith(".py"):
            if sandbox is None:
                sandbox = os.environ.get("TEXT_GYM_SANDBOX") != "0"
            load = SandboxedReward if sandbox else load_from_file
            return load(Path(place), name, prompts, kwargs)
        return load_from_module(place, name, prompts, kwargs)
    if Path(spec).is_dir():
        return load_reward_model(spec)
    if spec.endswith(".py"):
        raise ConfigError(f"which function of {spec}? Write {spec}:name")
    more = f"there is no folder {excerpt(spec)} with a reward model; a function is file.py:name"
    raise UnknownNameError("reward", spec, REWARDS, more)
