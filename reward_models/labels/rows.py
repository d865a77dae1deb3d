"""The records of a label store: queued questions, labels, and each rater's progress."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .questions import Question, Value


@dataclass(frozen=True)
class Item:
    """A question in the store's queue.

    Args:
        number: Place in the order in which questions came.
        question: What is asked.
        policy: Version of the policy that wrote the texts.
        priority: Higher is asked earlier.
        overlap: How many raters are to answer it.
        answers: How many have.
    """

    number: int
    question: Question
    policy: str
    priority: float
    overlap: int
    answers: int

    @property
    def id(self) -> str:
        """The question's id."""
        return self.question.id


@dataclass(frozen=True)
class Label:
    """One row of the append-only record.

    Args:
        row: Its number, from 1, without gaps.
        kind: `"rating"`, `"comparison"`, `"best-of-n"`, `"skip"` or `"undo"`.
        question: What was asked, with the exact texts.
        rater: Who answered.
        values: Criterion -> value; empty for a skip or an undo.
        latency: Seconds from showing the question to the answer.
        policy: Version of the policy that wrote the texts.
        time: When, in seconds since 1970 (UTC).
        key: The answer's own key: the same key is never recorded twice.
        undoes: The row that an undo takes back.
        previous: Hash of the row before.
        hash: SHA-256 of all of the above.
    """

    row: int
    kind: str
    question: Question
    rater: str
    values: Mapping[str, Value]
    latency: float
    policy: str
    time: float
    key: str
    undoes: int | None
    previous: str
    hash: str

    @property
    def item(self) -> str:
        """The question's id."""
        return self.question.id

    @property
    def answered(self) -> bool:
        """True if it holds an opinion, that is, if it is neither a skip nor an undo."""
        return self.kind not in ("skip", "undo")


@dataclass(frozen=True)
class Progress:
    """How much of the queue is done.

    Args:
        items: Questions there are.
        settled: Those that as many raters answered as were wanted.
        mine: Those that this rater answered or skipped.
        left: Those that this rater could still answer, now or when others' leases end.
    """

    items: int
    settled: int
    mine: int
    left: int


@dataclass(frozen=True)
class Entry:
    """An answer about to be appended as a row."""

    kind: str
    item: str
    rater: str
    answer: Mapping[str, Value]
    latency: float = math.nan
    key: str | None = None
    at: float | None = None
    undoes: int | None = None
