"""Raters say which of two texts is better, or how good one is; people and simulations share one interface.

A simulated rater has a gold reward as its taste and one known vice, so that it can be told whether what is
learnt from it has the vice too. How opinions are stored and who is asked next is not decided here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

from text_gym.episode import Episode
from text_gym.errors import DataError, excerpt
from text_gym.reward_models.preferences.opinions import PreferencePair, Rating

Choice = Literal["left", "right", "tie", "skip"]


class Rater(ABC):
    """Anybody with opinions on texts; people at a console or a page implement the same two methods.

    Attributes:
        name: Written beside every opinion.
        criteria: What `rate` gives marks for.
    """

    name: str = "rater"
    criteria: tuple[str, ...] = ("score",)

    @abstractmethod
    def rate(self, episodes: Sequence[Episode]) -> list[dict[str, float]]:
        """Return each episode's marks by criterion, in the order given; `{}` where the rater skips."""

    @abstractmethod
    def compare(self, left: Sequence[Episode], right: Sequence[Episode]) -> list[Choice]:
        """Decide for each `i` which of `left[i]` and `right[i]`, completions of one prompt, is better."""


def collect_pairs(
    rater: Rater, left: Sequence[Episode], right: Sequence[Episode], *, weight: float = 1.0
) -> list[PreferencePair]:
    """Ask a rater to compare pairs; skipped ones are left out.

    Raises:
        DataError: As many episodes are not on both sides, or two that stand opposite have different prompts.
    """
    if len(left) != len(right):
        raise DataError(f"{len(left)} episodes on the left, {len(right)} on the right")
    for a, b in zip(left, right, strict=True):
        if a.prompt.text != b.prompt.text:
            raise DataError(
                f"a pair needs one prompt, not {excerpt(a.prompt.text)} and {excerpt(b.prompt.text)}"
            )
    pairs = []
    for a, b, choice in zip(left, right, rater.compare(left, right), strict=True):
        if choice != "skip":
            better, worse = (b, a) if choice == "right" else (a, b)
            pairs.append(
                PreferencePair(
                    a.prompt,
                    better.completion,
                    worse.completion,
                    tie=choice == "tie",
                    weight=weight,
                    rater=rater.name,
                )
            )
    return pairs


def collect_ratings(rater: Rater, episodes: Sequence[Episode], *, weight: float = 1.0) -> list[Rating]:
    """Ask a rater for marks; skipped episodes are left out."""
    return [
        Rating(e.prompt, e.completion, marks, weight, rater.name)
        for e, marks in zip(episodes, rater.rate(episodes), strict=True)
        if marks
    ]
