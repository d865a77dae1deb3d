"""Tasks: prompts, a tokenizer and a reward under one name, with held-out prompts for evaluation.

A task says nothing about who learns in it; `Task.env_kwargs` is all an environment needs.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from text_gym.episode import Episode, Prompt
from text_gym.errors import ConfigError, TextGymError, UnknownNameError, excerpt
from text_gym.respondents import Respondent, reply_room
from text_gym.rewards.source import RewardSource
from text_gym.rewards.values import Rewards
from text_gym.showing import as_html
from text_gym.tokenizer import Tokenizer

from .installed import env_id, installed_tasks, load_installed, package_error

Pairs: TypeAlias = "Sequence[tuple[Prompt, str]]"


class NoGold(RewardSource):
    """The reward of a task that has none: it abstains on every text."""

    name = "unknown"
    abstains = True

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        """Abstain on every episode."""
        return Rewards.from_scores(np.full(len(episodes), np.nan))


@dataclass(frozen=True, repr=False)
class Task:
    """A task says what to write, and measures how well it was written.

    Args:
        name: As on the command line.
        prompts: Prompts to learn on.
        held_out: Prompts to judge on; they share no item with `prompts`.
        tokenizer: Tokenizer of the observation and action spaces.
        reward: The task's own reward, which is what "gold" means everywhere; its terms are the task's
            criteria. `NoGold()` for prompts that come with none.
        max_tokens: Token limit of an episode.
        corpus: Makes written texts to learn from, and held-out ones: pairs of prompt and completion.
        policy: Folder of a policy trained for this task by supervised fine-tuning, if one is shipped.
        optimum: Largest expected return there is, where it is known.
        random_return: Expected return of the policy that draws every token uniformly from the
            vocabulary, where it is known.
        respondent: Answers the agent's turns, in a task that is a conversation.
        turn_stop: Strings that end a turn of the agent; see `EpisodeOptions` for this and the next two.
        max_turns: The most turns that the agent has.
        max_context: The most tokens of prompt and conversation together.
        golden: Writes a completion of a prompt that earns the most there is, where one can be written down;
            `validate` scores them, and the detector of reward hacking compares texts with them.
        recommended: Settings that learn it where the defaults do not: from an algorithm's name, or `"sft"`,
            to options of `text-gym train`, or `sft`, which takes them where they are left out.
        settings: How to make the task again, as plain JSON data: `{"task": name}` with `task_arguments`, or
            `data` and its columns. Policies that learn it keep this; empty for tasks made in Python.
    """

    name: str
    prompts: Sequence[Prompt]
    held_out: Sequence[Prompt]
    tokenizer: Tokenizer
    reward: RewardSource
    max_tokens: int
    policy: Path | None = None
    corpus: Callable[[], tuple[Pairs, Pairs]] | None = None
    optimum: float | None = None
    random_return: float | None = None
    respondent: Respondent | None = None
    turn_stop: str | Sequence[str] = ()
    max_turns: int | None = None
    max_context: int | None = None
    golden: Callable[[Prompt], str] | None = None
    recommended: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        gold = f"gold {excerpt(self.reward.name, 40)}" if self.has_gold else "no gold"
        prompts = f"{len(self.prompts):,} prompts and {len(self.held_out):,} held out"
        return f"Task({excerpt(self.name, 40)}: {prompts}, {gold}, max_tokens={self.max_tokens})"

    def _repr_html_(self) -> str:
        return as_html(self)

    @property
    def has_gold(self) -> bool:
        """True if the task has a reward of its own."""
        return not isinstance(self.reward, NoGold)

    def conversation(self) -> dict[str, Any]:
        """Return the `EpisodeOptions` that make its episodes conversations; empty where they are none."""
        if self.respondent is None:
            return {}
        names = ("respondent", "turn_stop", "max_turns", "max_context")
        return {name: getattr(self, name) for name in names}

    def room(self, prompt_tokens: int) -> int:
        """Return the most tokens that a completion takes, replies included, after prompts of so many."""
        if self.respondent is None:
            return self.max_tokens
        return reply_room(self.max_tokens, prompt_tokens, self.max_turns, self.max_context)

    def env_kwargs(self, **overrides: Any) -> dict[str, Any]:
        """Return the keyword arguments of `TextVectorEnv` and `TextEnv` for this task."""
        own = {
            "prompts": self.prompts,
            "tokenizer": self.tokenizer,
            "reward": self.reward,
            "max_tokens": self.max_tokens,
            **self.conversation(),
        }
        return own | {k: v for k, v in overrides.items() if v is not None}


# Name of a task -> "module:function" that makes it; the function's keywords are the task's parameters.
TASKS: dict[str, str | Callable[..., Task]] = {
    "products": "text_gym.tasks.products:products",
    "sort": "text_gym.tasks.sorting:sort",
    "slots": "text_gym.tasks.filling:slots",
    "reverse": "text_gym.tasks.reversing:reverse",
    "copy": "text_gym.tasks.copying:copy",
    "count": "text_gym.tasks.counting:count",
    "brackets": "text_gym.tasks.brackets:brackets",
    "add": "text_gym.tasks.adding:add",
    "enumerable": "text_gym.tasks.enumerable:enumerable",
    "enumerable-dialogue": "text_gym.tasks.conversations.enumerable_dialogue:enumerable_dialogue",
    "product-json": "text_gym.tasks.json_format:product_json",
    "keywords": "text_gym.tasks.keywords:keywords",
    "guess": "text_gym.tasks.conversations.guess:guess",
    "mastermind": "text_gym.tasks.conversations.mastermind:mastermind",
    "shop": "text_gym.tasks.conversations.shop:shop",
    "calculator": "text_gym.tasks.conversations.calculator:calculator",
    "repair": "text_gym.tasks.conversations.repair:repair",
}

# Gymnasium id -> the environment's default keyword arguments.
ENV_IDS: dict[str, dict[str, object]] = {
    "text_gym/Products-v0": {"task": "products"},
    "text_gym/Sort-v0": {"task": "sort"},
    "text_gym/Slots-v0": {"task": "slots"},
    "text_gym/Reverse-v0": {"task": "reverse"},
    "text_gym/Copy-v0": {"task": "copy"},
    "text_gym/Count-v0": {"task": "count"},
    "text_gym/Brackets-v0": {"task": "brackets"},
    "text_gym/Add-v0": {"task": "add"},
    "text_gym/SparseReverse-v0": {"task": "reverse", "sparse": True},
    "text_gym/ProductJSON-v0": {"task": "product-json"},
    "text_gym/Keywords-v0": {"task": "keywords"},
    "text_gym/Guess-v0": {"task": "guess"},
    "text_gym/Mastermind-v0": {"task": "mastermind"},
    "text_gym/Shop-v0": {"task": "shop"},
    "text_gym/Calculator-v0": {"task": "calculator"},
    "text_gym/Repair-v0": {"task": "repair"},
}

# The optimum of those ids where it is not 1; a registration must not make the task to find out.
OPTIMA = {"text_gym/Shop-v0": 0.8983723958333333}

# The classic tasks once more, as a `Box` and without infos, for programs that take an id and no arguments:
# CleanRL's ppo.py, Tianshou's SpaceInfo, RLlib's default networks, TorchRL's GymEnv(id, num_envs=4).
ONE_HOT = {"observation": "onehot", "infos": "none"}
ONE_HOT_IDS: dict[str, dict[str, object]] = {
    f"text_gym/{name}-onehot-v0": {**ENV_IDS[f"text_gym/{name}-v0"], **ONE_HOT}
    for name in ("Sort", "Slots", "Reverse", "Copy", "Count", "Brackets", "Add")
}


# Tasks of other libraries: what stands before the colon of their names -> the function that makes one of what
# stands after it.
LIBRARIES = {
    "reasoning_gym": "text_gym.bridges.reasoning_gym:reasoning_gym_task",
    "textarena": "text_gym.bridges.textarena:textarena_task",
    "verifiers": "text_gym.bridges.verifiers:verifiers_task",
}


def task_names() -> list[str]:
    """Return the names of all tasks; one of text-gym hides an installed one of the same name."""
    return list(dict.fromkeys([*TASKS, *installed_tasks()]))


def env_ids() -> dict[str, dict[str, object]]:
    """Return every Gymnasium id and its environment's keyword arguments; loads no installed package."""
    ids = {name: env_id(name) for name in installed_tasks() if name not in TASKS}
    return {**ENV_IDS, **{i: {"task": name} for name, i in ids.items() if i is not None}}


def one_hot_ids() -> dict[str, dict[str, object]]:
    """Return the ids with one-hot observations: of the classic tasks and of installed packages."""
    others = {i: kwargs for i, kwargs in env_ids().items() if i not in ENV_IDS}
    return {**ONE_HOT_IDS, **{f"{i[:-3]}-onehot-v0": {**kwargs, **ONE_HOT} for i, kwargs in others.items()}}


def load_task(name: str, **kwargs: Any) -> Task:
    """Make a task by name: one that comes with text-gym, or one of an installed package.

    An installed package offers tasks as entry points of the group `text_gym.tasks`; `text-gym init` writes
    such a package. Its code runs when its task is asked for, not before.

    Tasks of other libraries have a name with a colon: `reasoning_gym:leg_counting`, a data set of
    reasoning-gym, `textarena:GuessTheNumber-v0`, a game of TextArena for one player, and
    `verifiers:text-gym-verifiers`, a taskset of verifiers.

    Raises:
        MissingLibraryError: The library of the task is not installed.
        UnknownNameError: There is no such task; the nearest name is suggested.
        ConfigError: The installed package that has it is broken; the package is named. Or it is no name, or
            the id of an environment, whose task is named.
    """
    if not isinstance(name, str):
        raise ConfigError(f"a task's name is a string, not {type(name).__name__}; a Task needs no loading")
    library, _, own_name = name.partition(":")
    if library in LIBRARIES and own_name:
        task: Task = _function_at(LIBRARIES[library])(own_name, **kwargs)
    else:
        task = _make_built_in(name, kwargs) if name in TASKS else _make_installed(name, kwargs)
    settings = {"task": name, **({"task_arguments": kwargs} if kwargs else {})}
    try:
        plain = json.loads(json.dumps(settings)) == settings
    except (TypeError, ValueError):
        plain = False
    return replace(task, settings=settings if plain else {})


def unknown_task(name: str) -> TextGymError:
    """Return the error that says there is no such task; of a Gymnasium id it tells whose task it is."""
    given = {**env_ids(), **one_hot_ids()}.get(name)
    if given is None:
        return UnknownNameError("task", name, task_names())
    own = [f"{k}={v!r}" for k, v in given.items() if k not in {"task", *ONE_HOT}]
    said = f"{given['task']!r}{' with ' if own else ''}{', '.join(own)}"
    return ConfigError(f"{name} is the id of an environment, for gymnasium.make; the task is {said}")


def task_parameters(name: str) -> list[str]:
    """Return the parameters of a task that comes with text-gym, by which `load_task` may change it."""
    entry = TASKS.get(name, ())
    maker = _function_at(entry) if isinstance(entry, str) else entry
    return list(inspect.signature(maker).parameters) if callable(maker) else []


def as_task(task: Task | str) -> Task:
    """Return a task, or the one of that name.

    Raises:
        UnknownNameError: There is no task of that name.
        ConfigError: It is something else.
    """
    return task if isinstance(task, Task) else load_task(task)


def _make_built_in(name: str, kwargs: Mapping[str, Any]) -> Task:
    entry = TASKS[name]
    if isinstance(entry, str):
        entry = _function_at(entry)
    task: Task = entry(**kwargs)
    return task


def _function_at(place: str) -> Callable[..., Task]:
    """Import the function at `module:name`."""
    module, name = place.split(":")
    function: Callable[..., Task] = getattr(import_module(module), name)
    return function


def _make_installed(name: str, kwargs: Mapping[str, Any]) -> Task:
    maker = load_installed(name)
    if maker is None:
        raise unknown_task(name)
    if inspect.isfunction(maker):
        inspect.signature(maker).bind(**kwargs)  # parameters it does not have are the caller's mistake
    try:
        task = maker(**kwargs)
        if not isinstance(task, Task):
            raise TypeError(f"{maker!r} returned a {type(task).__name__}, not a text_gym.Task")
    except TextGymError:
        raise
    except (Exception, SystemExit) as error:
        raise package_error(name, error) from error
    return task
