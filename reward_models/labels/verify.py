"""The audit of a label store: every row against its hash, the chain, its question and the queue.

It finds accidents and edits, and names the first bad row; whoever rewrites the whole chain is found only by
a hash noted elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from text_gym.errors import LabelError, StoreError

from .database import ITEM_COLUMNS, LABEL_COLUMNS, Database, RawRow, restore, row_digest
from .questions import Question

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


def audit_store(database: Database, start: str, head: str | None = None) -> StoreAudit:
    """Check a whole store; see `LabelStore.verify`."""
    items = _Items(database)
    last, previous, known = 0, start, head in (None, start)
    active: dict[tuple[int, bytes], tuple[int, str]] = {}
    for raw in _each(database, "labels", "row", f"{LABEL_COLUMNS}, hash"):
        last = _check_row(database, items, raw, last, previous)
        previous = raw[-1].decode()
        known |= previous == head
        _replay(active, raw)
    ((written,),) = database.read("SELECT TOTAL(seq) FROM sqlite_sequence WHERE name = 'labels'")
    if written > last:
        raise _bad(database, last + 1, "it was written and is missing")
    if not known:
        raise StoreError(
            f"{database.path}: no row has the hash {head}: rows are missing or all were rewritten"
        )
    number = items.check_all()
    _check_queue(database, active)
    for (finding,) in database.read("PRAGMA integrity_check(1)"):
        if finding != "ok":
            raise StoreError(
                f"{database.path}: every row is good, but SQLite says: {finding}; export the labels"
            )
    return StoreAudit(last, number, previous)


def _check_row(database: Database, items: _Items, raw: RawRow, last: int, previous: str) -> int:
    row, kind, item, item_id, _, answer, *_, undoes, before, digest = raw
    if row != last + 1:
        raise _bad(database, last + 1, "it is missing")
    if row_digest(raw[:-1]) != _plain(digest):
        raise _bad(database, row, "its content does not match its hash")
    if _plain(before) != previous:
        raise _bad(database, row, "it does not follow the row before")
    question = items.question(item, row)
    if question.id != _plain(item_id):
        raise _bad(database, row, "its question was replaced")
    try:
        if kind not in (b"skip", b"undo"):
            question.check(json.loads(answer))
    except (LabelError, ValueError) as error:
        raise _bad(database, row, f"its answer does not fit its question ({error})") from error
    if (undoes is None) == (kind == b"undo") or (undoes or 0) >= row:
        raise _bad(database, row, "it undoes what it cannot")
    return int(row)


class _Items:
    """A cache of the questions, each read and checked once."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._good: dict[int, Question] = {}

    def question(self, number: int, row: int | None = None) -> Question:
        """Return the question with this number; `row` is the label that refers to it."""
        if number not in self._good:
            found = list(_each(self.database, "items", "number", f"{ITEM_COLUMNS}, digest", number))
            if not found:
                raise _bad(self.database, row, f"question {number} is missing")
            self._good[number] = self._check(found[0], row)
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


def _replay(active: dict[tuple[int, bytes], tuple[int, str]], raw: RawRow) -> None:
    """Return the valid row and its kind, by question and rater, after each row is replayed."""
    if raw[1] == b"undo":
        active.pop((raw[2], raw[4]), None)
    else:
        active[raw[2], raw[4]] = raw[0], raw[1].decode()


def _check_queue(database: Database, active: dict[tuple[int, bytes], tuple[int, str]]) -> None:
    """Check that the queue's counters follow from the record."""
    rows = database.read("SELECT item, CAST(rater AS BLOB), row FROM active")
    stored = {(item, rater): row for item, rater, row in rows}
    for place in stored.keys() | active.keys():
        wanted = active.get(place, (None, ""))[0]
        if stored.get(place) != wanted:
            raise _bad(database, wanted or stored[place], "the queue does not follow from the record here")
    answers: dict[int, int] = {}
    for (item, _), (_, kind) in active.items():
        answers[item] = answers.get(item, 0) + (kind != "skip")
    for number, count in database.read("SELECT number, answers FROM items"):
        if count != answers.get(number, 0):
            raise StoreError(
                f"{database.path}: question {number} counts {count} answers, and the record holds "
                f"{answers.get(number, 0)}"
            )


def _each(
    database: Database, table: str, number: str, columns: str, only: int | None = None
) -> Iterator[RawRow]:
    """Yield the rows in order, with text as bytes; name a row that SQLite cannot read."""
    chosen = ", ".join(c if c in _NUMBERS else f"CAST({c} AS BLOB)" for c in columns.split(", "))
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
    return StoreError(f"{database.path}: {where}{problem}. Labels before it are good", row)


def _plain(content: bytes) -> str:
    return content.decode("utf-8", "backslashreplace")
