"""Candidates of `stability.py`: an algorithm and changes of its defaults, e.g. `ppo critic=shared`."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal

from stability_worlds import RLHF
from stable_baselines3 import PPO as SB3PPO

from text_gym.agents import SB3Config
from text_gym.agents.algorithms.by_name import ALGORITHMS, load_algorithm
from text_gym.errors import ConfigError, UnknownNameError
from text_gym.rlhf.config import RLHFConfig

SB3, TRL = "sb3.ppo", "trl.ppo"
_BY_OPTION = {
    "seed": "--seeds",
    "iterations": "--iterations",
    "episodes": "--episodes",
    "num_envs": "--episodes",
}
_BY_OPTION |= {
    "rounds": "--rounds",
    "algorithm": "the candidate's first word",
    "total_episodes": "--iterations",
}


@dataclass(frozen=True)
class Candidate:
    """Something that learns.

    Args:
        text: As on the command line, one space between two words.
        algorithm: Its first word.
        changes: Setting -> value, where it is not the default.
    """

    text: str
    algorithm: str
    changes: dict[str, Any]

    @property
    def slug(self) -> str:
        """For file names."""
        return re.sub(r"[^\w.=,+-]+", "_", self.text)


def parse_candidate(text: str, world: str = "gold") -> Candidate:
    """Read a candidate.

    Args:
        text: `ALGORITHM [SETTING=VALUE …]`.
        world: Where it will learn.

    Raises:
        UnknownNameError: There is no such algorithm or setting; the nearest name is suggested.
        ConfigError: A word is no `SETTING=VALUE`, a value has another type, or an option decides it.

    >>> parse_candidate("ppo  critic=shared target_kl=none").changes
    {'critic': 'shared', 'target_kl': None}
    """
    algorithm, *words = text.split() or [""]
    if algorithm not in (*ALGORITHMS, SB3, TRL) or (world == RLHF and algorithm in (SB3, TRL)):
        known = ALGORITHMS if world == RLHF else [*ALGORITHMS, SB3, TRL]
        raise UnknownNameError("algorithm", algorithm, known)
    config_class = None if algorithm == TRL else settings_class(algorithm, world)
    changes: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals:
            raise ConfigError(f"candidate {text!r}: {word!r} is not SETTING=VALUE")
        if name in _BY_OPTION and not (name == "algorithm" and config_class is None):
            raise ConfigError(f"candidate {text!r}: {name} is given by {_BY_OPTION[name]}")
        changes[name] = _guess(value) if config_class is None else _value(text, config_class, name, value)
    return Candidate(" ".join([algorithm, *words]), algorithm, changes)


def settings_class(algorithm: str, world: str) -> type[Any]:
    """The dataclass whose fields a candidate can change."""
    if world == RLHF:
        return RLHFConfig
    return SB3Config if algorithm == SB3 else load_algorithm(algorithm).config_class


def sb3_defaults() -> dict[str, Any]:
    """What Stable-Baselines3's PPO takes where nobody says anything, as settings of `SB3Config`.

    Its `n_steps`, rows and seed are none of its habits of learning: they decide how much is played.
    """
    names = ("learning_rate", "batch_size", "n_epochs", "gamma", "gae_lambda", "ent_coef", "vf_coef")
    own = inspect.signature(SB3PPO.__init__).parameters
    return {name: own[name].default for name in names} | {"anneal": False}


def _value(text: str, config_class: type[Any], name: str, value: str) -> Any:
    """A setting's value, of the type that its field has."""
    known = [field.name for field in dataclasses.fields(config_class) if field.name not in _BY_OPTION]
    if name not in known:
        raise UnknownNameError(f"setting of {config_class.__name__}", name, known)
    hint = typing.get_type_hints(config_class)[name]
    try:
        return _convert(value, hint)
    except ValueError:
        wanted = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
        raise ConfigError(f"candidate {text!r}: {name} cannot be {value!r}; it takes {wanted}") from None


def _convert(value: str, hint: Any) -> Any:
    """Text as a value of a type.

    Raises:
        ValueError: It is none.
    """
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = typing.get_args(hint)
        if value.lower() == "none" and types.NoneType in kinds:
            return None
        return _convert(value, next(kind for kind in kinds if kind is not types.NoneType))
    options: dict[str, Any] = {}
    if typing.get_origin(hint) is Literal:
        options = {str(option): option for option in typing.get_args(hint)}
    elif hint is bool:
        value, options = value.lower(), {"true": True, "false": False}
    else:
        return hint(value)
    if value not in options:
        raise ValueError(value)
    return options[value]


def _guess(value: str) -> Any:
    """A value of a setting that another library will judge."""
    if value.lower() in ("none", "true", "false"):
        return {"none": None, "true": True, "false": False}[value.lower()]
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
