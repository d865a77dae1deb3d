"""Ensembles: several reward models asked at once; where they disagree, the reward is lower.

Paying `mean − k · std` makes texts that only some members like less tempting to a policy (Coste et al. 2024).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from text_gym import Episode, Rewards, RewardSource
from text_gym.compose import Composite
from text_gym.errors import ConfigError
from text_gym.reward import FloatArray, OnBadReward

from .saved import write_settings


class Ensemble(Composite):
    """`mean − k · std` over the members, `std` being the population's, means weighted.

    Terms: those that all members have, averaged; and `std`, the members' disagreement on the reward. An
    episode on which a member abstains gets no opinion.

    Args:
        members: The reward sources; for a saved ensemble, learned models.
        k: How much disagreement costs, >= 0.
        weights: A positive weight a member; the same for all if None.
        name: Shown in errors, logs and plots.

    Raises:
        ConfigError: No members, or `k` or a weight that makes no sense.

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
        name: str = "ensemble",
    ) -> None:
        if not members:
            raise ConfigError("an ensemble needs members")
        if not 0 <= k < math.inf:
            raise ConfigError(f"k is {k}; it must be a finite number >= 0")
        given = [1.0] * len(members) if weights is None else [float(w) for w in weights]
        if len(given) != len(members) or not all(0 < w < math.inf for w in given):
            raise ConfigError(
                f"weights {given} must be one positive number for each of {len(members)} members"
            )
        super().__init__({f"member-{i}": member for i, member in enumerate(members)}, name)
        self.k, self.weights = float(k), np.array(given) / sum(given)
        self.causal = False  # the members' totals count

    @property
    def members(self) -> list[RewardSource]:
        """The members, in order."""
        return list(self.parts.values())

    def evaluate(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """Ask every member once."""
        found = [member(episodes, on_bad_reward) for member in self.members]
        values, std = self._moments([rewards.totals for rewards in found])
        abstained = np.any([rewards.abstained for rewards in found], axis=0)
        shared = [t for t in found[0].terms if all(t in rewards.terms for rewards in found) and t != "std"]
        terms = {t: self._moments([rewards.terms[t] for rewards in found])[0] for t in shared}
        return Rewards(values - self.k * std, terms={**terms, "std": std}, abstained=abstained)

    def _moments(self, values: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray]:
        """Weighted mean and standard deviation over members of `(n,)` values."""
        stacked = np.stack(values)
        mean: FloatArray = self.weights @ stacked
        std: FloatArray = np.sqrt(self.weights @ (stacked - mean) ** 2)
        return mean, std

    def save(self, folder: str | Path) -> None:
        """Write every member into a folder of its own, `member-0` …, and what joins them.

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
        write_settings(folder, "ensemble", content)
