"""Rewards by name, by import path, or from a file: what `--reward` on the command line takes.

A file is run as Python code when it is loaded, as an import would: load only files that you would run.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from text_gym.episode import Prompt
from text_gym.errors import ConfigError, RewardError, UnknownNameError
from text_gym.reward_models.judge.judge import judge_from_environment
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
from text_gym.rewards.source import FunctionReward, RewardSource
from text_gym.utils.user_code import load_from, split_place

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


def load_reward(spec: str, *, prompts: Iterable[Prompt] | None = None, **kwargs: Any) -> RewardSource:
    """Make a reward source from what a person typed.

    Args:
        spec: A name in `REWARDS`; `module:name` or `path/to/file.py:name`, where `name` is a reward function,
            a `RewardSource`, or a class or function without required parameters that makes one; the folder
            of a learned model; or `human:path/to/labels.db`, people whose answers go to that store.
        prompts: All prompts of the run, for sources that learn from them first (a class method `fit`).
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
    if spec in REWARDS:
        return _make(REWARDS[spec], spec, prompts, kwargs)
    found = split_place(spec)
    if found is not None:
        place, name = found
        if place.endswith(".py"):
            value: Any = _FromFile.load(Path(place), name)
        else:
            value = load_from(place, name, RewardError)
        return _as_source(value, spec, prompts, kwargs)
    if Path(spec).is_dir():
        return load_reward_model(spec)
    if spec.endswith(".py"):
        raise ConfigError(f"which function of {spec}? Write {spec}:name")
    raise UnknownNameError("reward", spec, REWARDS)


def _make(
    factory: Callable[..., Any], spec: str, prompts: Iterable[Prompt] | None, kwargs: dict[str, Any]
) -> RewardSource:
    fit = getattr(factory, "fit", None) if isinstance(factory, type) else None
    try:
        value = fit(prompts, **kwargs) if fit is not None and prompts is not None else factory(**kwargs)
    except TypeError as error:
        raise ConfigError(f"reward {spec!r}: {error}; it takes {inspect.signature(factory)}") from error
    if not isinstance(value, RewardSource):
        raise ConfigError(f"{spec} made a {type(value).__name__}, not a RewardSource")
    return value


def _as_source(
    value: Any, spec: str, prompts: Iterable[Prompt] | None, kwargs: dict[str, Any]
) -> RewardSource:
    if not isinstance(value, RewardSource):
        if not callable(value):
            raise ConfigError(f"{spec} is {type(value).__name__}, not a reward source or function")
        parameters = inspect.signature(value).parameters.values()
        needed = [
            p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        ]
        inner = getattr(value, "__wrapped__", value)
        if isinstance(inner, type) or not needed:
            return _make(inner, spec, prompts, kwargs)
        name = getattr(value, "__name__", spec)
        return FunctionReward(functools.partial(value, **kwargs) if kwargs else value, name=name)
    if kwargs:
        raise ConfigError(f"{spec} is a finished reward source; it takes no arguments")
    return value


class _FromFile:
    """A function of a file loaded by path; it pickles as path and name, for worker processes."""

    def __init__(self, file: Path, name: str, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.file, self.name = file, name

    @classmethod
    def load(cls, file: Path, name: str) -> Any:
        value = load_from(str(file), name, RewardError)
        return cls(file.resolve(), name, value) if inspect.isfunction(value) else value

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)  # type: ignore[attr-defined]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path, str]]:
        return _FromFile.load, (self.file, self.name)
