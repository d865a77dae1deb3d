"""Bagging: an ensemble whose members learnt from resampled opinions: they differ where little is known.

Resampling is by prompt (Breiman 1996, by groups), as weights. Only the learner is given; how it learns is its
own business.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from text_gym import RewardSource
from text_gym.errors import ConfigError, DataError

from .ensembles import Ensemble
from .preferences import Opinion, PreferencePair, Rating


def bagged(
    fit: Callable[[list[Opinion], int], RewardSource],
    opinions: Sequence[Opinion],
    *,
    members: int = 5,
    k: float = 1.0,
    seed: int = 0,
) -> Ensemble:
    """Train members on resampled opinions and join them, paying `mean − k · std`.

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
    """A place among the opinions that their content alone decides."""
    said: tuple[str, ...]
    if isinstance(opinion, PreferencePair):
        said = (opinion.chosen, opinion.rejected, str(opinion.tie), str(opinion.margin))
    elif isinstance(opinion, Rating):
        said = (opinion.completion, str(sorted(opinion.values.items())))
    else:
        said = (opinion.completion, str(opinion.label))
    return (opinion.prompt.id, *said, opinion.rater, str(opinion.weight))
