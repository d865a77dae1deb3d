"""Simulated people: raters of known taste and vices who answer the questions of a label store.

They take the place of a console or a page, so that everything behind it is tried out as it will be used. Each
answer depends on the question and on who answers it alone, whenever it is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from text_gym import Episode
from text_gym.errors import ConfigError, DataError, excerpt

from .labels import Item, LabelStore
from .questions import Value
from .raters import SimulatedRater


class SimulatedPeople:
    """Answers ratings and comparisons in a store.

    Args:
        store: Where the questions wait.
        raters: Who answers, by different names; which of them gets a question follows from its id.

    Raises:
        ConfigError: There are none, or two share a name.
    """

    def __init__(self, store: LabelStore, raters: Sequence[SimulatedRater]) -> None:
        if not raters or len({r.name for r in raters}) < len(raters):
            raise ConfigError("simulated people need at least one rater, and names of their own")
        self.store, self.raters = store, list(raters)
        self._episodes: dict[tuple[str, str], Episode] = {}

    def show(self, episodes: Iterable[Episode]) -> None:
        """Let them see whole episodes: a gold reward needs more than texts (columns, how it ended)."""
        self._episodes |= {(e.prompt.text, e.completion): e for e in episodes}

    def ask(self, among: Sequence[str]) -> None:
        """Answer these questions, as often as wanted.

        Raises:
            ConfigError: More raters are wanted for one than there are.
            DataError: A text was not shown as an episode.
        """
        items = [self.store.item(i) for i in dict.fromkeys(among)]
        done = {(i, label.rater) for i, labels in self.store.standing(among).items() for label in labels}
        for number, rater in enumerate(self.raters):
            own = [
                item for item in items if number in self._wanted(item) and (item.id, rater.name) not in done
            ]
            for kind in ("rating", "comparison"):
                some = [item for item in own if item.question.kind == kind]
                for item, values in zip(some, self._answers(rater, kind, some), strict=True):
                    if values:
                        self.store.record(item.id, rater.name, values)
                    else:
                        self.store.skip(item.id, rater.name)

    def _wanted(self, item: Item) -> set[int]:
        """Numbers of the raters who get a question."""
        if item.overlap > len(self.raters):
            raise ConfigError(
                f"{item.overlap} raters are wanted for a question; there are {len(self.raters)}"
            )
        first = int(item.id[:8], 16)
        return {(first + n) % len(self.raters) for n in range(item.overlap)}

    def _answers(self, rater: SimulatedRater, kind: str, items: Sequence[Item]) -> list[dict[str, Value]]:
        """Values by criterion for each question; empty for a skip."""
        shown = [[self._episode(item, text) for text in item.question.completions] for item in items]
        if kind == "rating":
            marks = rater.rate([texts[0] for texts in shown])
            return [{name: round(mark) for name, mark in found.items()} for found in marks]
        choices = rater.compare([texts[0] for texts in shown], [texts[1] for texts in shown])
        names = [item.question.criteria[0].name for item in items]
        return [{} if c == "skip" else {n: c} for n, c in zip(names, choices, strict=True)]

    def _episode(self, item: Item, completion: str) -> Episode:
        try:
            return self._episodes[item.question.prompt, completion]
        except KeyError:
            raise DataError(
                f"the simulated people were not shown {excerpt(completion)} of prompt "
                f"{excerpt(item.question.prompt)}"
            ) from None
