"""The reading of a label store: every row against its hash, the chain, its question and the queue.

It finds accidents and edits, and names the first bad row; whoever rewrites the whole chain is found only by
a hash noted elsewhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

from text_gym.errors import LabelError, StoreError

from .database import ITEM_COLUMNS, LABEL_COLUMNS, Database, RawRow, restore, row_digest, text_of
from .questions import Question, text_bytes
from .rows import Label

START = "0" * 64  # the hash "before" the first row

_CHUNK = 500  # rows read at a time
_NUMBERS = {"row", "number", "item", "latency", "time", "undoes", "priority", "overlap", "answers"}


@dataclass(frozen=True)
class StoreAudit:
    """The counts of what was checked and found intact.

    Args:
        rows: Rows of the record.
        items: Questions.
        head: Hash of the last row.
    """

    rows: int
    items: int
    head: str


def audit_store(database: Database, head: str | None = None, thorough: bool = True) -> StoreAudit:
    """Check a whole store; see `LabelStore.verify`. What is not thorough trusts SQLite's own pages."""
    with database.snapshot():
        items = _Items(database)
        labels = list(_checked(database, items))
        last, previous = (labels[-1].row, labels[-1].hash) if labels else (0, START)
        if head not in (None, START) and head not in {label.hash for label in labels}:
            raise StoreError(
                f"{database.path}: no row has the hash {head}: rows are missing or all were rewritten"
            )
        number = items.check_all()
        _check_queue(database, labels, items.numbers)
        for (finding,) in database.read("PRAGMA integrity_check(1)") if thorough else ():
            if finding != "ok":
                raise StoreError(
                    f"{database.path}: every row is good, but SQLite says: {finding}; export the labels"
                )
    return StoreAudit(last, number, previous)


def read_labels(database: Database, before: int | None = None) -> list[Label]:
    """Read every row, undos and skips too, and check each against its hash, the chain and its question.

    Args:
        database: Where they are.
        before: Read no further than up to this row; None reads all.

    Raises:
        StoreError: As for `LabelStore.verify`, but for the queue.
    """
    with database.snapshot():
        return list(_checked(database, _Items(database), before))


def check_rows(database: Database, rows: list[RawRow]) -> list[Label]:
    """Check some rows: each against its own hash, and against its neighbours in the chain.

    Args:
        database: Where they are.
        rows: The columns of labels with their hash, then the hash of the row before and what the row after
            says of this one's (None if there is none).
    """
    items = _Items(database)
    found = []
    for *raw, before, after in rows:
        row, digest = raw[0], raw[-1]
        found.append(_check_row(database, items, tuple(raw), START if before is None else _plain(before)))
        if after is not None and after != digest:
            raise _bad(database, row, "the row after it does not follow it")
    return found


def _checked(database: Database, items: _Items, before: int | None = None) -> Iterator[Label]:
    """Yield all rows in order, or those up to the first one not wanted."""
    last, previous = 0, START
    for raw in _each(database, "labels", "row", f"{LABEL_COLUMNS}, hash"):
        if before is not None and last + 1 >= before:
            return
        if raw[0] != last + 1:
            raise _bad(database, last + 1, "it is missing")
        label = _check_row(database, items, raw, previous)
        last, previous = label.row, label.hash
        yield label
    ((written,),) = database.read("SELECT TOTAL(seq) FROM sqlite_sequence WHERE name = 'labels'")
    if written > last and (before is None or last + 1 < before):
        raise _bad(database, last + 1, "it was written and is missing")


def _check_row(database: Database, items: _Items, raw: RawRow, previous: str) -> Label:
    """Check one row, whose predecessor has the hash `previous`, and return its label."""
    row, kind, item, item_id, rater, answer, latency, policy, when, key, undoes, before, digest = raw
    if row_digest(raw[:-1]) != _plain(digest):
        raise _bad(database, row, "its content does not match its hash")
    if _plain(before) != previous:
        raise _bad(database, row, "it does not follow the row before")
    question = items.question(item, row)
    kind = _plain(kind)
    if question.id != _plain(item_id):
        raise _bad(database, row, "its question was replaced")
    if kind not in ("skip", "undo", question.kind):
        raise _bad(database, row, "it answers another kind of question")
    try:
        values = json.loads(answer) if kind in ("skip", "undo") else question.check(json.loads(answer))
        label = Label(
            row=row,
            kind=kind,
            question=question,
            rater=text_of(rater),
            values=values,
            latency=math.nan if latency < 0 else float(latency),
            policy=text_of(policy),
            time=float(when),
            key=text_of(key),
            undoes=undoes,
            previous=previous,
            hash=_plain(digest),
        )
    except (LabelError, ValueError, TypeError, RecursionError) as error:
        raise _bad(database, row, f"its answer does not fit its question ({error})") from error
    if (undoes is None) == (kind == "undo") or (undoes or 0) >= row:
        raise _bad(database, row, "it undoes what it cannot")
    return label


class _Items:
    """A cache of the questions, each read and checked once."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.numbers: dict[str, int] = {}
        self._good: dict[int, Question] = {}

    def question(self, number: int, row: int | None = None) -> Question:
        """Return the question with this number; `row` is the label that refers to it."""
        if number not in self._good:
            found = list(_each(self.database, "items", "number", f"{ITEM_COLUMNS}, digest", number))
            if not found:
                raise _bad(self.database, row, f"question {number} is missing")
            self._good[number] = self._check(found[0], row)
            self.numbers[self._good[number].id] = number
        return self._good[number]

    def _check(self, raw: RawRow, row: int | None) -> Question:
        number, item, kind, criteria = raw[:4]
        texts = self.database.read("SELECT text FROM texts WHERE item = ? ORDER BY position", (number,))
        try:
            question = restore(_plain(kind), _plain(criteria), [bytes(t[0]) for t in texts], _plain(item))
        except (StoreError, TypeError, ValueError) as error:
            raise _bad(self.database, row, f"question {number} was altered ({error})") from error
        if row_digest(raw[:-1]) != _plain(raw[-1]):
            raise _bad(self.database, row, f"question {number} does not match its digest")
        return question

    def check_all(self) -> int:
        """Check the questions without labels as well, and return the number of all."""
        count = 0
        for raw in _each(self.database, "items", "number", f"{ITEM_COLUMNS}, digest"):
            count += 1
            if raw[0] not in self._good:
                self._check(raw, None)
        ((written,),) = self.database.read("SELECT TOTAL(seq) FROM sqlite_sequence WHERE name = 'items'")
        if written != count:
            raise StoreError(
                f"{self.database.path}: {int(written)} questions were written, {count} are there"
            )
        return count


def _check_queue(database: Database, labels: list[Label], numbers: dict[str, int]) -> None:
    """Check that the queue's counters follow from the record."""
    active: dict[tuple[int, str], Label] = {}
    for label in labels:
        place = numbers[label.item], label.rater
        if label.kind == "undo":
            active.pop(place, None)
        else:
            active[place] = label
    rows = database.read("SELECT item, CAST(rater AS BLOB), row FROM active")
    stored = {(item, bytes(rater)): row for item, rater, row in rows}
    wanted = {(item, text_bytes(rater)): label.row for (item, rater), label in active.items()}
    for at in stored.keys() | wanted.keys():
        if stored.get(at) != wanted.get(at):
            row = wanted.get(at) or stored[at]
            raise _bad(database, row, "the queue does not follow from the record here")
    answers: dict[int, int] = {}
    for (number, _), label in active.items():
        answers[number] = answers.get(number, 0) + (label.kind != "skip")
    for number, count in database.read("SELECT number, answers FROM items"):
        if count != answers.get(number, 0):
            raise StoreError(
                f"{database.path}: question {number} counts {count} answers, and the record holds "
                f"{answers.get(number, 0)}"
            )


def as_bytes(columns: str, table: str = "") -> str:
    """Return what selects the columns with text as bytes, since damaged text may be no text."""
    names = columns.split(", ")
    return ", ".join(f"{table}{c}" if c in _NUMBERS else f"CAST({table}{c} AS BLOB)" for c in names)


def _each(
    database: Database, table: str, number: str, columns: str, only: int | None = None
) -> Iterator[RawRow]:
    """Yield the rows in order, with text as bytes; name a row that SQLite cannot read."""
    chosen = as_bytes(columns)
    query = f"SELECT {chosen} FROM {table} WHERE {number} > ? ORDER BY {number} LIMIT ?"
    last, chunk = (only - 1, 1) if only is not None else (-(2**62), _CHUNK)
    while True:
        try:
            rows = database.read(query, (last, chunk))
        except StoreError as error:
            if chunk > 1:
                chunk = 1  # read on row by row up to the bad one
                continue
            at = max(last, 0) + 1
            raise StoreError(f"{error} (at {table[:-1]} {at})", at if table == "labels" else None) from error
        for raw in rows:
            if only is None or raw[0] == only:
                yield raw
        if len(rows) < chunk or only is not None:
            return
        last = rows[-1][0]


def _bad(database: Database, row: int | None, problem: str) -> StoreError:
    where = "" if row is None else f"row {row}: "
    rest = (
        ""
        if row is None
        else (f". The rows before it are good: text-gym labels export FILE --before {row} writes them")
    )
    return StoreError(f"{database.path}: {where}{problem}{rest}", row)


def _plain(content: bytes) -> str:
    return content.decode("utf-8", "backslashreplace")
