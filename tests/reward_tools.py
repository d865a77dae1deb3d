"""Episodes and a reward source that tests of rewards are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from text_gym import ByteTokenizer, Episode, RewardSource

BYTES = ByteTokenizer()


def of(*completions: str, **columns: Any) -> list[Episode]:
    """An episode for each completion; the prompts are numbered."""
    return [Episode.of(f"prompt {i}", text, BYTES, **columns) for i, text in enumerate(completions)]


class Says(RewardSource):
    """Returns what it was given, whatever is asked."""

    def __init__(self, scores: Any, **attributes: Any) -> None:
        self.scores = scores
        self.__dict__.update(attributes)

    def score(self, episodes: Sequence[Episode]) -> Any:
        return self.scores
