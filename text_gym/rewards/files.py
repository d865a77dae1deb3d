"""Rewards from Python files and modules: run the file, find the name, make a source of what stands there.

A file is run as Python code when it is loaded, as an import would: `sandboxed` does so in a sandbox.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from text_gym.episode import Prompt
from text_gym.errors import ConfigError, RewardError
from text_gym.utils.user_code import load_from

from .source import FunctionReward, RewardSource


def load_from_file(
    file: Path, name: str, prompts: Iterable[Prompt] | None, kwargs: Mapping[str, Any]
) -> RewardSource:
    """Run a file in this process and make a source of the name in it; errors are those of `load_reward`."""
    return as_source(_FromFile.load(file, name), f"{file}:{name}", prompts, kwargs)


def load_from_module(
    module: str, name: str, prompts: Iterable[Prompt] | None, kwargs: Mapping[str, Any]
) -> RewardSource:
    """Import a module and make a source of the name in it; errors are those of `load_reward`."""
    return as_source(load_from(module, name, RewardError), f"{module}:{name}", prompts, kwargs)


def make_source(
    factory: Callable[..., Any], spec: str, prompts: Iterable[Prompt] | None, kwargs: Mapping[str, Any]
) -> RewardSource:
    """Call a class or function that makes a source; one with a class method `fit` learns from the prompts."""
    fit = getattr(factory, "fit", None) if isinstance(factory, type) else None
    try:
        value = fit(prompts, **kwargs) if fit is not None and prompts is not None else factory(**kwargs)
    except TypeError as error:
        raise ConfigError(f"reward {spec!r}: {error}; it takes {inspect.signature(factory)}") from error
    if not isinstance(value, RewardSource):
        raise ConfigError(f"{spec} made a {type(value).__name__}, not a RewardSource")
    return value


def as_source(
    value: Any, spec: str, prompts: Iterable[Prompt] | None, kwargs: Mapping[str, Any]
) -> RewardSource:
    """Make a source of whatever a name stands for: a source, a function, or something that makes one."""
    if not isinstance(value, RewardSource):
        if not callable(value):
            raise ConfigError(f"{spec} is {type(value).__name__}, not a reward source or function")
        parameters = inspect.signature(value).parameters.values()
        needed = [
            p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        ]
        inner = getattr(value, "__wrapped__", value)
        if isinstance(inner, type) or not needed:
            return make_source(inner, spec, prompts, kwargs)
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
