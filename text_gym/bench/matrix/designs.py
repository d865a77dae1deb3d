"""Reward designs: the default suite, and designs of the user's own by name, path or function.

A design is a recipe with a name; what optimising it does to a policy is found out in `cells`.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from text_gym.bench.analysis.measures import gold_pair_accuracy, rank_among
from text_gym.errors import ConfigError, DataError, UnknownNameError
from text_gym.reward_models.audit.probes import null_texts
from text_gym.reward_models.learned.loading import load_reward_model
from text_gym.reward_models.loading import REWARDS
from text_gym.rewards.source import RewardSource, as_reward_source, describe_reward
from text_gym.utils.json_files import write_json
from text_gym.utils.sealed import write_sealed

from .recipes import (
    Clipped,
    Gated,
    Given,
    Gold,
    Learned,
    SingleCriterion,
    TokenByToken,
    Weighted,
    Words,
    content_of,
)
from .settings import Settings, digest
from .start import DesignInputs, SamplingJob

_NAME = re.compile(r"[A-Za-z][\w-]*")
_RULED = 128  # prompts for which null texts are made
Make = Callable[[DesignInputs, int], RewardSource]


@dataclass(frozen=True)
class Design:
    """A reward to be optimised.

    Args:
        name: Short, unique.
        group: Designs that are compared with each other.
        description: One sentence.
        make: Makes the reward from (inputs, seed). A recipe with the attribute `trained` gives a learned
            model, one for each seed, which is kept in the folder; anything else is made anew in every
            process.
        credit: It pays tokens, which only PPO and REINFORCE tell from payment at the end.
    """

    name: str
    group: str
    description: str
    make: Make
    credit: bool = False

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the recipe, and of a function's source or the files it names."""
        make: Any = self.make
        if is_dataclass(make) and not isinstance(make, type):
            return digest([type(make).__name__, json.loads(json.dumps(asdict(make), default=repr))])
        try:
            return digest([getattr(make, "__qualname__", ""), inspect.getsource(make)])
        except (OSError, TypeError) as error:
            raise ConfigError(
                f"design {self.name!r}: the source of {make!r} cannot be read, so results could not be told "
                "from those of another one; give a function of a file, or a frozen dataclass that can be "
                "called"
            ) from error

    @property
    def traits(self) -> Mapping[str, str | int]:
        """The traits of its recipe, in which it is compared with other designs."""
        return dict(getattr(self.make, "traits", {"kind": "user"}))

    @property
    def trained(self) -> bool:
        """True if it is a reward model that the matrix trains itself."""
        return bool(getattr(self.make, "trained", False))


_SUM = (("accuracy", 0.5), ("clarity", 0.2), ("persuasiveness", 0.3))
_EQUAL = (("accuracy", 1.0), ("clarity", 1.0), ("persuasiveness", 1.0))
_CALLS = ("order yours", "order it", "get yours", "try it", "bring it")
_DEFAULT = (
    Design("gold", "gold", "what is wanted itself: the mean of the three criteria", Gold()),
    Design("accuracy", "criteria", "only whether the facts are right", SingleCriterion("accuracy")),
    Design("clarity", "criteria", "only whether it reads well", SingleCriterion("clarity")),
    Design("persuasiveness", "criteria", "only whether it sells", SingleCriterion("persuasiveness")),
    Design("weighted", "composition", "0.5 accuracy + 0.2 clarity + 0.3 persuasiveness", Weighted(_SUM)),
    Design("standardised", "composition", "the sum of the criteria, each in its own standard deviations",
           Weighted(_EQUAL, standardised=True)),
    Design("gated", "composition", "persuasiveness where accuracy is at least 0.8, else nothing",
           Gated("persuasiveness", "accuracy", 0.8)),
    Design("clipped", "composition", "gold, with nothing to gain beyond 0.8", Clipped(0.8)),
    Design("pairs-128", "opinions", "n-gram model of 128 pairs by a noisy rater", Learned(128)),
    Design("pairs-512", "opinions", "n-gram model of 512 pairs by a noisy rater", Learned(512)),
    Design("pairs-2048", "opinions", "n-gram model of 2,048 pairs by a noisy rater", Learned(2048)),
    Design("clean-512", "raters", "512 pairs by a rater who is always right", Learned(512, noise=0.0)),
    Design("length-biased-512", "raters", "512 pairs by a rater who likes length",
           Learned(512, noise=0.05, length=0.3)),
    Design("hype-loving-512", "raters", "512 pairs by a rater who likes superlatives",
           Learned(512, noise=0.05, hype=0.3)),
    Design("ratings-512", "questions", "512 ratings by the noisy rater, in place of 512 pairs",
           Learned(512, kind="ratings")),
    Design("ensemble-512", "ensemble", "five models of resampled 512 pairs: mean - 1 standard deviation",
           Learned(512, members=5)),
    Design("transformer-512", "model", "a transformer in place of n-grams, of 512 pairs by the noisy rater",
           Learned(512, model="transformer")),
    Design("gold-per-token", "credit", "gold, paid token by token as it rises and falls",
           TokenByToken(Gold()), credit=True),
    Design("keywords", "scripts", "counts calls to action", Words(_CALLS)),
)  # fmt: skip
DESIGNS: dict[str, Design] = {design.name: design for design in _DEFAULT}
"""The designs of the suite by name, in the order of the report."""

_PRAISE = ("great", "excellent", "lovely", "delicious", "perfect", "best")
_OF_E2E = (
    Design("gold", "gold", "what is wanted itself: accuracy times fluency", Gold()),
    DESIGNS["accuracy"],
    Design("fluency", "criteria", "only whether it reads like what people write", SingleCriterion("fluency")),
    Design("weighted", "composition", "0.7 accuracy + 0.3 fluency",
           Weighted((("accuracy", 0.7), ("fluency", 0.3)))),
    Design("gated", "composition", "fluency where accuracy is at least 0.8, else nothing",
           Gated("fluency", "accuracy", 0.8)),
    DESIGNS["clipped"],
    *(d for d in _DEFAULT if d.trained),
    DESIGNS["gold-per-token"],
    Design("keywords", "scripts", "counts words of praise", Words(_PRAISE)),
)  # fmt: skip
_SUITES = {"e2e": {design.name: design for design in _OF_E2E}}


def suite(task: str) -> dict[str, Design]:
    """Return the designs of a task's suite by name; a task without its own has that of products."""
    return _SUITES.get(task, DESIGNS)


def choose_designs(
    only: Sequence[str] | None, own: Iterable[str | Design] = (), task: str = "products"
) -> list[Design]:
    """Designs of a task's suite by name (all if None), then the user's own.

    Raises:
        UnknownNameError: There is no such design in the suite; the nearest name is suggested.
        ConfigError: Two designs have one name.
    """
    designs = suite(task)
    for name in only or ():
        if name not in designs:
            raise UnknownNameError("design", name, designs)
    found = [d for d in designs.values() if only is None or d.name in only]
    found += [load_design(d) if isinstance(d, str) else d for d in own]
    names = [d.name for d in found]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ConfigError(f"two designs are called {twice[0]!r}; rename one of them: NAME=FILE.py:FUNCTION")
    return found


def load_design(spec: str) -> Design:
    """Make a design of the user's own reward.

    Args:
        spec: A reward's name, `module:function`, `file.py:function`, `file.py` with one public function in
            it, or the folder of a learned model; `name=` before it names the design.

    Raises:
        UnknownNameError: There is no such reward, or no such function in the file.
        DataError: The file or module does not exist, or the file cannot be read.
        ConfigError: A file has several functions and none is named, or the thing named is no reward.
    """
    name, equals, reward = spec.partition("=")
    if not equals or not _NAME.fullmatch(name):
        name, reward = "", spec
    if reward.endswith(".py"):
        reward += f":{_only_function(Path(reward))}"
    place, _, function = reward.rpartition(":")
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise DataError(f"there is no file {place}")
        reward = f"{Path(place).resolve()}:{function}"
    elif Path(reward).is_dir():
        function, reward = Path(reward).resolve().name, str(Path(reward).resolve())
    elif not place and reward not in REWARDS:
        raise UnknownNameError("reward", reward, REWARDS)
    shown = name or function.rpartition(".")[2]
    return Design(shown, "yours", f"your own: {spec}", Given(reward, content_of(reward)))


def _only_function(file: Path) -> str:
    """Find the only public function (or class) of a file, without running it."""
    if not file.is_file():
        raise DataError(f"there is no file {file}")
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is not Python that can be read: {error}") from error
    kinds = (ast.FunctionDef, ast.ClassDef)
    names = [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    if len(names) != 1:
        which = f"has {', '.join(names)}" if names else "has no public function"
        raise ConfigError(f"which function of {file} is the reward? It {which}; write {file}:NAME")
    return names[0]


@dataclass(frozen=True)
class DesignJob:
    """The job that prepares a design for its cells and measures it before any optimisation.

    Args:
        settings: Of the benchmark.
        design: The design.
        seed: Of the matrix; counts for trained designs only.
    """

    settings: Settings
    design: Design
    seed: int = 0

    @property
    def name(self) -> str:
        """The job's name in messages."""
        return f"design · {self.design.name}" + (f" · seed {self.seed}" if self.design.trained else "")

    @property
    def key(self) -> str:
        """A hash of everything the reward and its measures depend on."""
        texts = [SamplingJob(self.settings, use).key for use in self.uses]
        return digest([texts, self.design.fingerprint, self.seed if self.design.trained else None])

    @property
    def uses(self) -> list[Any]:
        """The sampling jobs whose texts it needs."""
        return ["start", "pool"] if self.design.trained else ["start"]

    @property
    def place(self) -> str:
        """The path of the measures in the folder, beside a learned model."""
        return f"designs/{self.key}.json"

    @property
    def needs(self) -> list[str]:
        """The files that must exist before."""
        return [SamplingJob(self.settings, use).place for use in self.uses]

    @property
    def makes(self) -> list[str]:
        """The files that exist afterwards."""
        return [self.place, *([f"designs/{self.key}"] if self.design.trained else [])]

    def done(self, folder: Path) -> bool:
        """True if the design is ready."""
        return (folder / self.place).is_file()

    def run(self, folder: Path) -> None:
        """Make or train the reward, measure it, and write the measures."""
        inputs = DesignInputs(self.settings, folder)
        (folder / "designs").mkdir(parents=True, exist_ok=True)
        source = as_reward_source(self.design.make(inputs, self.seed))
        if self.design.trained:
            save: Any = getattr(source, "save", None)
            if save is None:
                raise ConfigError(f"design {self.design.name!r} is trained, but {source!r} cannot be saved")
            write_sealed(folder / "designs" / self.key, save, {"design": self.design.name})
        write_json(folder / self.place, {"design": self.design.name, **measure_design(source, inputs)})

    def load(self, inputs: DesignInputs) -> RewardSource:
        """Load the reward of a design that is ready."""
        if not self.design.trained:
            return as_reward_source(self.design.make(inputs, self.seed))
        return load_reward_model(inputs.folder / "designs" / self.key, device="cpu")

    def read(self, folder: Path) -> dict[str, Any]:
        """Read what was measured."""
        return dict(json.loads((folder / self.place).read_text(encoding="utf-8")))


def measure_design(source: RewardSource, inputs: DesignInputs) -> dict[str, Any]:
    """Measure a reward on the starting policy's texts, before any optimisation; plain data.

    Returns:
        `tree`; `proxy_start`, `proxy_std_start`; `static_accuracy` (agreement with gold on pairs of one
        prompt); `null_rulers` (name -> mean rank of a text that takes no skill among the prompt's texts, 1
        above all).
    """
    start = inputs.start
    scores = source(start.episodes).totals_or_nan.reshape(start.gold.shape)
    rulers: dict[str, float | None] = {}
    if inputs.settings.what == "rewards":
        first = start.episodes[:: start.gold.shape[1]][:_RULED]
        made = null_texts(first)
        rulers = {name: rank_among(source(own).totals_or_nan, scores[:_RULED]) for name, own in made.items()}
    return {
        "tree": describe_reward(source),
        "proxy_start": float(np.nanmean(scores)),
        "proxy_std_start": float(np.nanstd(scores)),
        "static_accuracy": gold_pair_accuracy(start.gold, scores),
        "null_rulers": rulers,
    }
