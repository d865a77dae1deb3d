"""Ensembles of reward models, which pay less where the members disagree.

Paying `mean − k · std`, or what the worst member pays, makes texts that only some members like less tempting
to a policy (Coste et al. 2023).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from text_gym.episode import Episode, FloatArray
from text_gym.errors import ConfigError, DataError
from text_gym.reward_models.preferences.opinions import Opinion, PreferencePair, Rating, StepLabels
from text_gym.rewards.source import Composite, RewardSource
from text_gym.rewards.values import OnBadReward, Rewards

from .settings import write_settings

Penalty = Literal["deviation", "variance", "worst"]


class Ensemble(Composite):
    """Pays `mean − k · std` over the members; the mean is weighted, and `std` is the population's.

    Terms: those that all members have, averaged; and `std`, the members' disagreement on the reward. An
    episode on which a member abstains gets no opinion.

    Args:
        members: The reward sources; for a saved ensemble, learned models.
        k: How much disagreement costs, >= 0.
        weights: A positive weight a member; the same for all if None.
        penalty: `"deviation"`; `"variance"` pays `mean − k · std²`, and `"worst"` the least that a member
            pays: the uncertainty-weighted and the worst-case ensembles of Coste et al. (2023).
        name: Shown in errors, logs and plots.

    Raises:
        ConfigError: No members, or `k`, a weight or a penalty that makes no sense.

    >>> from text_gym import ByteTokenizer, as_reward_source
    >>> members = [as_reward_source(lambda completion: 1.0), as_reward_source(lambda completion: 3.0)]
    >>> Ensemble(members, k=0.5)([Episode.of("Say:", "hi", ByteTokenizer())]).values
    array([1.5])
    """

    def __init__(
        self,
        members: Sequence[RewardSource],
        k: float = 0.0,
        *,
        weights: Sequence[float] | None = None,
        penalty: Penalty = "deviation",
        name: str = "ensemble",
    ) -> None:
        if not members:
            raise ConfigError("an ensemble needs members")
        if not 0 <= k < math.inf:
            raise ConfigError(f"k is {k}; it must be a finite number >= 0")
        if penalty not in get_args(Penalty):
            raise ConfigError(f"penalty {penalty!r} is not one of {', '.join(get_args(Penalty))}")
        if penalty == "worst" and k:
            raise ConfigError("what the worst member pays has no k; leave it out")
        given = [1.0] * len(members) if weights is None else [float(w) for w in weights]
        if len(given) != len(members) or not all(0 < w < math.inf for w in given):
            raise ConfigError(
                f"weights {given} must be one positive number for each of {len(members)} members"
            )
        super().__init__({f"member-{i}": member for i, member in enumerate(members)}, name)
        self.k, self.weights = float(k), np.array(given) / sum(given)
        self.penalty: Penalty = penalty
        self.causal = False  # the members' totals count

    @property
    def members(self) -> list[RewardSource]:
        """The member models, in order."""
        return list(self.parts.values())

    def evaluate(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """Ask every member once."""
        found = [member(episodes, on_bad_reward) for member in self.members]
        totals = [rewards.totals for rewards in found]
        values, std = self._moments(totals)
        abstained = np.any([rewards.abstained for rewards in found], axis=0)
        shared = [t for t in found[0].terms if all(t in rewards.terms for rewards in found) and t != "std"]
        terms = {t: self._moments([rewards.terms[t] for rewards in found])[0] for t in shared}
        if self.penalty == "worst":
            values = np.min(totals, axis=0)
        elif self.penalty == "variance":
            values = values - self.k * std**2
        else:
            values = values - self.k * std
        return Rewards(values, terms={**terms, "std": std}, abstained=abstained)

    def _moments(self, values: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray]:
        """Compute the weighted mean and standard deviation of `(n,)` values over the members."""
        stacked = np.stack(values)
        mean: FloatArray = self.weights @ stacked
        std: FloatArray = np.sqrt(self.weights @ (stacked - mean) ** 2)
        return mean, std

    def save(self, folder: str | Path) -> None:
        """Write each member into its own folder (`member-0` …), and the weights that join them.

        Raises:
            ConfigError: A member cannot be saved.
        """
        folder = Path(folder)
        savers: list[Any] = [getattr(member, "save", None) for member in self.members]
        for member, save in zip(self.members, savers, strict=True):
            if save is None:
                raise ConfigError(f"member {member!r} is no learned model and cannot be saved")
        for name, save in zip(self.parts, savers, strict=True):
            save(folder / name)
        content = {"name": self.name, "k": self.k, "weights": self.weights.tolist()}
        write_settings(folder, "ensemble", {**content, "penalty": self.penalty})


def bagged(
    fit: Callable[[list[Opinion], int], RewardSource],
    opinions: Sequence[Opinion],
    *,
    members: int = 5,
    k: float = 1.0,
    seed: int = 0,
) -> Ensemble:
    """Train members on bootstrap resamples of the opinions and join them into an ensemble.

    The order of the opinions does not matter: the same answers give the same model.

    Args:
        fit: Gets a member's opinions and its number; returns the member.
        opinions: Pairs, ratings or likes.
        members: How many; a single one learns from all opinions as they are.
        k: How much disagreement costs, >= 0.
        seed: Decides the resamples.

    Raises:
        ConfigError: No members.
        DataError: No opinions.
    """
    if members < 1:
        raise ConfigError(f"members is {members}; an ensemble needs at least 1")
    if not opinions:
        raise DataError("there are no opinions to learn from")
    ordered = sorted(opinions, key=_key)
    prompts = sorted({o.prompt.id for o in ordered})
    rng = np.random.default_rng(seed)
    found = []
    for number in range(members):
        drawn = dict.fromkeys(prompts, 1)
        if members > 1:
            counts = np.bincount(rng.integers(len(prompts), size=len(prompts)), minlength=len(prompts))
            drawn = dict(zip(prompts, counts.tolist(), strict=True))
        own = [
            dataclasses.replace(o, weight=o.weight * drawn[o.prompt.id])
            for o in ordered
            if drawn[o.prompt.id]
        ]
        found.append(fit(own, number))
    return Ensemble(found, k)


def _key(opinion: Opinion) -> tuple[str, ...]:
    """Return a sort key that depends on an opinion's content alone."""
    said: tuple[str, ...]
    if isinstance(opinion, PreferencePair):
        said = (opinion.chosen, opinion.rejected, str(opinion.tie), str(opinion.margin))
    elif isinstance(opinion, Rating):
        said = (opinion.completion, str(sorted(opinion.values.items())))
    elif isinstance(opinion, StepLabels):
        said = (*opinion.steps, str(opinion.labels))
    else:
        said = (opinion.completion, str(opinion.label))
    return (opinion.prompt.id, *said, opinion.rater, str(opinion.weight))
