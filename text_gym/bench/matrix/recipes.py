"""Recipes: plain data that says how to make a reward, so that it can travel to worker processes.

Every recipe is a frozen dataclass and a function of (inputs, seed). What a recipe's text says follows from
its fields alone: with the files it names, it is what results are cached by.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np

from text_gym.episode import Episode
from text_gym.errors import ConfigError, DataError
from text_gym.reward_models.learned.configs import NgramConfig, RewardTrainingConfig
from text_gym.reward_models.learned.ensembles import bagged
from text_gym.reward_models.learned.model import RewardModel
from text_gym.reward_models.learned.ngrams import NgramModel
from text_gym.reward_models.learned.training import RewardTrainer
from text_gym.reward_models.loading import load_reward
from text_gym.reward_models.people.raters import collect_pairs, collect_ratings
from text_gym.reward_models.people.simulated import SimulatedRater, Vices
from text_gym.rewards.source import FunctionReward, RewardSource, WeightedSum, as_reward_source
from text_gym.rewards.transforms import Clip, Gate, Standardize, Term
from text_gym.rewards.values import Rewards

from .settings import digest_of_files
from .start import DesignInputs

Traits: TypeAlias = "Mapping[str, str | int]"  # designs that differ in one trait are compared


@dataclass(frozen=True)
class Gold:
    """The task's own reward."""

    traits: ClassVar[Traits] = {"kind": "gold", "per": "text"}

    def __call__(self, inputs: DesignInputs, seed: int) -> RewardSource:
        """Return gold itself."""
        return inputs.task.reward


@dataclass(frozen=True)
class SingleCriterion:
    """One of the gold reward's terms alone."""

    term: str

    traits: ClassVar[Traits] = {"kind": "criterion"}

    def __call__(self, inputs: DesignInputs, seed: int) -> RewardSource:
        """Make the term's reward."""
        return Term(inputs.task.reward, self.term)


@dataclass(frozen=True)
class Weighted:
    """A weighted sum of the gold reward's terms, each standardised first if asked for.

    Args:
        weights: Term and weight.
        standardised: Divide each term by its standard deviation over texts of the starting policy.
    """

    weights: tuple[tuple[str, float], ...]
    standardised: bool = False

    traits: ClassVar[Traits] = {"kind": "composition"}

    def __call__(self, inputs: DesignInputs, seed: int) -> RewardSource:
        """Make the weighted sum."""
        parts: dict[str, tuple[RewardSource, float]] = {}
        for name, weight in self.weights:
            source: RewardSource = Term(inputs.task.reward, name)
            if self.standardised:
                terms = inputs.start.terms[name]
                source = Standardize(source, float(np.nanmean(terms)), float(np.nanstd(terms)))
            parts[name] = (source, weight)
        return WeightedSum(parts)


@dataclass(frozen=True)
class Gated:
    """Pays one term where another reaches a threshold, else 0."""

    term: str
    condition: str
    threshold: float

    traits: ClassVar[Traits] = {"kind": "composition"}

    def __call__(self, inputs: DesignInputs, seed: int) -> RewardSource:
        """Make the gate."""
        gold = inputs.task.reward
        return Gate(Term(gold, self.term), Term(gold, self.condition), threshold=self.threshold)


@dataclass(frozen=True)
class Clipped:
    """Gold up to a ceiling."""

    high: float

    traits: ClassVar[Traits] = {"kind": "composition"}

    def __call__(self, inputs: DesignInputs, seed: int) -> RewardSource:
        """Make the clipped reward."""
        return Clip(inputs.task.reward, high=self.high)


@dataclass(frozen=True)
class Words:
    """Counts words or phrases in a text, in any case: a reward that anybody can hack."""

    phrases: tuple[str, ...]

    traits: ClassVar[Traits] = {"kind": "script"}

    def __call__(self, inputs: DesignInputs, seed: int) -> RewardSource:
        """Make the counting reward."""
        return FunctionReward(self.count, name="keywords")

    def count(self, completion: str) -> float:
        """Count the occurrences."""
        text = completion.lower()
        return float(sum(text.count(phrase) for phrase in self.phrases))


class PerToken(RewardSource):
    """Pays the same total token by token, as the value of the text rises and falls.

    A token earns the source's total of the text up to it less that of the text before; the empty text is
    worth 0. So an episode earns what the source pays for it, whatever its length.

    Args:
        source: Scores texts, prefixes too.
    """

    def __init__(self, source: RewardSource) -> None:
        self.source, self.name = source, f"{source.name} per token"
        self.deterministic, self.abstains = source.deterministic, source.abstains

    @property
    def last_failure(self) -> str | None:
        """The inner source's last failure."""
        return self.source.last_failure

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        """Pay the differences between totals of neighbouring prefixes, ending with the whole episode."""
        whole = self.source(episodes)
        prefixes = [_prefix(e, n) for e in episodes for n in range(1, len(e.completion_ids))]
        totals = self.source(prefixes).totals
        per_token, first = [], 0
        for episode, total in zip(episodes, whole.totals, strict=True):
            count = max(0, len(episode.completion_ids) - 1)
            worth = np.array([0.0, *totals[first : first + count], total])
            per_token.append(np.diff(worth)[: len(episode.completion_ids)])
            first += count
        return Rewards(np.zeros(len(episodes)), tuple(per_token), whole.terms, whole.abstained)


@dataclass(frozen=True)
class TokenByToken:
    """A recipe's reward, paid per token."""

    recipe: Any

    @property
    def traits(self) -> Traits:
        """The traits of the inner recipe, and how it is paid."""
        return {**self.recipe.traits, "per": "token"}

    def __call__(self, inputs: DesignInputs, seed: int) -> RewardSource:
        """Make the inner reward and pay it per token."""
        return PerToken(self.recipe(inputs, seed))


@dataclass(frozen=True)
class Learned:
    """A reward model of a simulated rater's opinions; each seed has its own rater, texts and model.

    Args:
        opinions: How many.
        kind: Pairs (which of two texts is better) or ratings (a mark for a text).
        noise: Of the rater, see `text_gym.reward_models.Vices`; 0.3 agrees with gold on seven pairs in ten,
            about as often as people agree with each other.
        length: Its liking for ten more words, in units of gold.
        hype: Its liking for a superlative.
        members: Models of a bagged ensemble; 1 is a single model.
        pessimism: The ensemble pays its mean less this times its standard deviation.
        model: Linear on n-grams, or a transformer on the starting policy's trunk.
    """

    opinions: int
    kind: Literal["pairs", "ratings"] = "pairs"
    noise: float = 0.3
    length: float = 0.0
    hype: float = 0.0
    members: int = 1
    pessimism: float = 1.0
    model: Literal["ngrams", "transformer"] = "ngrams"

    trained: ClassVar[bool] = True

    @property
    def traits(self) -> Traits:
        """The traits by which the report compares learned models."""
        rater = "length" if self.length else "hype" if self.hype else "noisy" if self.noise else "clean"
        return {
            "kind": "learned",
            "opinions": self.opinions,
            "asked": self.kind,
            "rater": rater,
            "members": self.members,
            "model": self.model,
        }

    def __call__(self, inputs: DesignInputs, seed: int) -> RewardSource:
        """Ask the rater and fit the model, standardised on the starting texts.

        Raises:
            ConfigError: There are fewer texts than opinions are to be had on.
        """
        pool = inputs.pool
        count = len(pool.gold)
        if self.opinions > count:
            raise ConfigError(f"{self.opinions} opinions need as many prompts; the pool has {count}")
        chosen = np.random.default_rng([seed, 17]).permutation(count)[: self.opinions].tolist()
        left, right = ([pool.episodes[2 * i + side] for i in chosen] for side in (0, 1))
        rater = SimulatedRater(
            inputs.task.reward, Vices(noise=self.noise, length=self.length, hype=self.hype), seed=seed
        )
        if self.kind == "pairs":
            opinions: list[Any] = list(collect_pairs(rater, left, right))
        else:
            opinions = list(collect_ratings(rater, left))
        if self.members == 1:
            return self._fit(inputs, opinions, seed)
        return bagged(
            lambda own, number: self._fit(inputs, own, 1000 * seed + number),
            opinions,
            members=self.members,
            k=self.pessimism,
            seed=seed,
        )

    def _fit(self, inputs: DesignInputs, opinions: list[Any], seed: int) -> RewardSource:
        criteria = ("reward",) if self.kind == "pairs" else ("score",)
        start = inputs.start.episodes
        if self.model == "ngrams":
            return NgramModel.fit(opinions, criteria, NgramConfig(seed=seed)).normalise(start)
        if inputs.policy is None:
            raise ConfigError("a transformer reward model starts from the policy's trunk, and there is none")
        model = RewardModel.from_backbone(inputs.policy, criteria, seed=seed, device="cpu")
        RewardTrainer(model, opinions, RewardTrainingConfig(epochs=4, seed=seed)).learn()
        return model.normalise(start)


@dataclass(frozen=True)
class Given:
    """A reward of the user's own, as typed.

    Args:
        spec: A name, `module:function`, `file.py:function`, or the folder of a learned model.
        content: Of the file or folder; another content is another design.
    """

    spec: str
    content: str = field(default="", repr=True)

    traits: ClassVar[Traits] = {"kind": "user"}

    def __call__(self, inputs: DesignInputs, seed: int) -> RewardSource:
        """Load the user's reward.

        Raises:
            ConfigError: File or folder were changed since the benchmark began.
        """
        if content_of(self.spec) != self.content:
            raise ConfigError(f"{self.spec} was changed while the benchmark ran; give the same command again")
        return as_reward_source(load_reward(self.spec, prompts=inputs.task.prompts))


def content_of(spec: str) -> str:
    """Hash the file, module or folder that holds a reward; empty for text-gym's own rewards.

    Raises:
        DataError: The file or module does not exist.
    """
    place, colon, _ = spec.rpartition(":")
    if not colon:
        return digest_of_files(Path(spec)) if Path(spec).is_dir() else ""
    if place.endswith(".py"):
        return digest_of_files(Path(place))
    sys.path.insert(0, str(Path.cwd()))  # as `load_reward` finds it
    try:
        found = importlib.util.find_spec(place)
    except ModuleNotFoundError:
        found = None
    finally:
        sys.path.pop(0)
    if found is None:
        raise DataError(f"there is no module {place!r} (asked for {spec!r})")
    return digest_of_files(Path(found.origin)) if found.origin and Path(found.origin).is_file() else ""


def _prefix(episode: Episode, tokens: int) -> Episode:
    ids = episode.completion_ids[:tokens]
    return replace(episode, completion_ids=ids, finish_reason=None, stop="")
