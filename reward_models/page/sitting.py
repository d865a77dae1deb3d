"""One rater's sitting over a label store, as messages from a browser and the state it is to show.

The notebook's widget is such a browser. Which answers fit and what is asked next is the store's business.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from text_gym.errors import LabelError, NotSavedError, TextGymError
from text_gym.reward_models.labels.store import LabelStore

from .shown import shown_part, shown_question

_LONG = 1e9  # more seconds than anybody spends on an answer


class Sitting:
    """A rater before a label store: what is asked, and what became of each answer.

    Args:
        store: Gives the questions and keeps the answers.
        rater: Who answers.
        among: Ids of the questions to ask; None for all in the store.

    Attributes:
        state: What is to be shown, as plain JSON data: `question` (None if there is none), `progress`, `note`
            (what became of the last message), `trouble` (True if it was not saved: the answer stays on the
            screen), and `serial`, which is another one after every message.
    """

    def __init__(self, store: LabelStore, rater: str, among: Collection[str] | None = None) -> None:
        self.store, self.rater, self.among = store, rater, among
        self._item: str | None = None
        self.state: dict[str, Any] = {"serial": 0}
        self.next()

    def next(self, note: str = "") -> None:
        """Show the next question."""
        item = self.store.claim(self.rater, self.among)
        self._item = None if item is None else item.id
        progress = self.store.progress(self.rater, self.among)
        self.state = {
            "serial": self.state["serial"] + 1,
            "question": None if item is None else shown_question(item.question),
            "progress": {"mine": progress.mine, "left": progress.left},
            "note": note,
            "trouble": False,
        }

    def take(self, message: Any) -> dict[str, Any] | None:
        """Act on a message of the browser; `state` is what it shows then.

        Args:
            message: `do` is `"answer"` or `"skip"` (with `item`, `key`, `seconds`, and the `values` of an
                answer), `"undo"`, `"next"`, or `"text"` (with `item`, `number`, `start`).

        Returns:
            The part of a long text that was asked for; None otherwise.
        """
        try:
            match message:
                case {"do": "answer" | "skip" as do, "item": str(item), "key": str(key)}:
                    self._save(do, item, key, message)
                case {"do": "undo", "key": str(key)}:
                    undone = self.store.undo(self.rater, self.among, key=key) is not None
                    self.next("Taken back; here it is again." if undone else "There is nothing to take back.")
                case {"do": "next"}:
                    self.next()
                case {"do": "text", "item": str(item), "number": int(number), "start": int(start)}:
                    question = self.store.item(item).question
                    if 0 <= number <= len(question.completions) and start >= 0:
                        return {"item": item, "number": number, **shown_part(question, number, start)}
                case _:
                    self._trouble("Not saved: the widget sent something else than an answer.")
        except NotSavedError as error:
            self._trouble(f"Not saved yet: {error}. Answer again.")
        except TextGymError as error:
            self._trouble(f"Not saved: {error}")
        return None

    def _save(self, do: str, item: str, key: str, message: Mapping[str, Any]) -> None:
        given: dict[str, Any] = {"latency": _seconds(message.get("seconds")), "key": key}
        if do == "skip":
            self.store.skip(item, self.rater, **given)
        else:
            try:
                self.store.item(item).question.check(message.get("values", {}))
            except LabelError as error:
                self._trouble(f"Not saved: {error}")
                return
            try:
                self.store.record(item, self.rater, message.get("values", {}), **given)
            except LabelError:
                self.next("Answered already; the first answer stands.")
                return
        self.next("Skipped, saved." if do == "skip" else "Saved.")

    def _trouble(self, note: str) -> None:
        self.state = self.state | {"serial": self.state["serial"] + 1, "note": note, "trouble": True}


def _seconds(value: Any) -> float:
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _LONG
    return float(value) if known else math.nan
