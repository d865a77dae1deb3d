"""Scales turn the raw outputs of any learned reward model into a reward."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from text_gym.episode import FloatArray
from text_gym.errors import ConfigError, DataError
from text_gym.rewards.values import Rewards


@dataclass(frozen=True)
class Scales:
    """Maps outputs to criteria by `factor[c] · output[c] + offset[c]`; the reward is their weighted mean.

    Args:
        factor: One positive number a criterion.
        offset: One number a criterion.
        weight: One number a criterion, not negative, not all 0.

    Raises:
        ConfigError: They differ in number, or one of them makes no sense.
    """

    factor: tuple[float, ...]
    offset: tuple[float, ...]
    weight: tuple[float, ...]

    def __post_init__(self) -> None:
        numbers = (*self.factor, *self.offset, *self.weight)
        fits = len(self.factor) == len(self.offset) == len(self.weight) > 0
        if not fits or not all(map(math.isfinite, numbers)):
            raise ConfigError(f"{self}: give one finite factor, offset and weight for each criterion")
        if min(self.factor) <= 0 or min(self.weight) < 0 or not sum(self.weight) > 0:
            raise ConfigError(f"{self}: factors must be positive, weights not negative and not all 0")

    @classmethod
    def plain(cls, count: int) -> Scales:
        """Leave the outputs as they are, with equal weights for all criteria."""
        return cls((1.0,) * count, (0.0,) * count, (1.0,) * count)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Scales:
        """Rebuild the scales from `to_dict`'s plain data.

        Raises:
            DataError: It is something else.
        """
        try:
            factor, offset, weight = (tuple(map(float, content[k])) for k in ("factor", "offset", "weight"))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"the scales of a reward model are broken ({error!r}); train it again") from error
        return cls(factor, offset, weight)

    def to_dict(self) -> dict[str, list[float]]:
        """Return the scales as plain data."""
        return {"factor": list(self.factor), "offset": list(self.offset), "weight": list(self.weight)}

    def standardised(self, raw: FloatArray, criteria: Sequence[str]) -> Scales:
        """Return scales under which these raw outputs `(n, criteria)` have mean 0 and standard deviation 1.

        Raises:
            ConfigError: There are fewer than two rows, or a criterion is the same in all.
        """
        if len(raw) < 2:
            raise ConfigError(f"{len(raw)} reference samples are too few; give two at least, better hundreds")
        mean, std = raw.mean(axis=0), raw.std(axis=0)
        for name, spread, size in zip(criteria, std, np.abs(raw).max(axis=0), strict=True):
            if not spread > 1e-9 * max(1.0, size):
                raise ConfigError(
                    f"{name} is the same for all {len(raw)} reference samples; give different texts"
                )
        return Scales(tuple((1 / std).tolist()), tuple((-mean / std).tolist()), self.weight)

    def values(self, raw: FloatArray) -> FloatArray:
        """Compute the criteria, `(n, criteria)` float64, from raw outputs of the same shape."""
        scaled: FloatArray = raw * np.array(self.factor) + np.array(self.offset)
        return scaled

    def rewards(self, raw: FloatArray, criteria: Sequence[str]) -> Rewards:
        """Compute the rewards, with a term for each criterion if there are several."""
        values = self.values(raw)
        weights = np.array(self.weight) / sum(self.weight)
        terms = {name: values[:, i] for i, name in enumerate(criteria)} if len(criteria) > 1 else {}
        return Rewards(values @ weights if len(criteria) > 1 else values[:, 0], terms=terms)
