"""The people who answer in `rlhf`: simulated ones, a person at this terminal, or people in their browsers.

All of them answer the questions of the label store; nothing else about the cycle differs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from text_gym.episode import Episode
from text_gym.errors import ConfigError
from text_gym.reward_models.page.reward import make_page
from text_gym.reward_models.people.console import RaterConsole
from text_gym.reward_models.people.human import default_rater
from text_gym.reward_models.people.simulated import SimulatedPeople, SimulatedRater, Vices
from text_gym.rewards.source import RewardSource

from .config import Bias

if TYPE_CHECKING:
    from text_gym.reward_models.labels.questions import LabelCriterion
    from text_gym.reward_models.labels.store import LabelStore

    from .cycle import Asker, People

BIASES: dict[str, dict[str, float]] = {
    "none": {},
    "length": {"length": 0.3},
    "hype": {"hype": 0.3},
    "inattention": {"inattention": 0.3},
}


def simulated_people(
    gold: RewardSource,
    criteria: Sequence[LabelCriterion],
    *,
    bias: Bias = "none",
    noise: float = 0.1,
    raters: int = 2,
    seed: int = 0,
) -> People:
    """Make raters who judge by a gold reward, with noise and, if asked for, a bias.

    Args:
        gold: Their taste; its terms of the criteria's names, or its total where there is a single criterion.
        criteria: What they rate for.
        bias: A name in `BIASES`.
        noise: Standard deviation of a mark's noise, in units of the gold reward.
        raters: How many.
        seed: Decides their noise.

    Raises:
        ConfigError: Nobody knows the gold reward, so nobody can be simulated; or `noise` is out of range.
    """
    if gold.abstains:
        raise ConfigError("simulated raters need a gold reward; pass --gold REWARD, or ask people")
    vices = dataclasses.replace(Vices(noise=noise), **BIASES[bias])

    @contextmanager
    def people(store: LabelStore, first: Sequence[Episode]) -> Iterator[Callable[[Sequence[Episode]], Asker]]:
        some = _raters(gold, criteria, vices, raters, seed, first)

        def asking(episodes: Sequence[Episode]) -> Asker:
            group = SimulatedPeople(store, some)
            group.show(episodes)
            return group.ask

        yield asking

    return people


def _raters(
    gold: RewardSource,
    criteria: Sequence[LabelCriterion],
    vices: Vices,
    count: int,
    seed: int,
    first: Sequence[Episode],
) -> list[SimulatedRater]:
    terms = [c.name for c in criteria] if len(criteria) > 1 else []
    span = (0.0, 1.0)
    if vices.length or vices.hype:  # a length-biased rater gives the lowest mark to the shortest texts
        found = SimulatedRater(gold, vices, criteria=terms).utilities(first)
        low, high = np.quantile(found, [0.02, 0.98])
        span = (float(low), float(max(high, low + 0.1)))
    scale = (criteria[0].low, criteria[0].high)
    raters = [
        SimulatedRater(
            gold, vices, criteria=terms, scale=scale, span=span, name=f"simulated-{i + 1}", seed=seed + i
        )
        for i in range(count)
    ]
    if not terms:
        for rater in raters:
            rater.criteria = (criteria[0].name,)
    return raters


def person_at_console(rater: str | None = None) -> People:
    """Ask the person at this terminal, or read lines from a pipe.

    Args:
        rater: Name in the labels; that of the account if None.
    """

    @contextmanager
    def people(store: LabelStore, first: Sequence[Episode]) -> Iterator[Callable[[Sequence[Episode]], Asker]]:
        console = RaterConsole(store, rater or default_rater())
        yield lambda episodes: console.ask

    return people


def people_at_page(port: int = 8765) -> People:
    """Ask people on the labelling page of this computer, several at once.

    Args:
        port: The page's; 0 takes any that is free.
    """

    @contextmanager
    def people(store: LabelStore, first: Sequence[Episode]) -> Iterator[Callable[[Sequence[Episode]], Asker]]:
        with make_page(store, live=True, port=port) as page:
            yield lambda episodes: page.ask

    return people
