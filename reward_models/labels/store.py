"""The label store: a queue of questions and an append-only, hash-chained record of what people answered.

A label that was acknowledged is on the disk. Nothing is ever changed: an undo is a row of its own. Who may
write a label is not checked here; rows are chained, not signed.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from text_gym.errors import ConfigError, LabelError, StoreError, excerpt

from .chain import append_row, check_same, row_by_key
from .database import ITEM_COLUMNS, LABEL_COLUMNS, VERSION, Database, RawRow, restore, row_digest, text_of
from .questions import Question, text_bytes
from .rows import Entry, Item, Label, Progress
from .verify import START, StoreAudit, as_bytes, audit_store, check_rows, read_labels

__all__ = ["Item", "Label", "LabelStore", "Progress"]

LEASE = 900.0  # seconds that a claimed question is kept from other raters


class LabelStore:
    """People's questions and answers, in one file that many threads, processes and raters may share.

    A store that exists is checked when it is opened, and its rows again whenever they are read, so that
    nothing altered is passed on.

    Args:
        path: The file, e.g. `labels.db`; made if there is none.
        create: False refuses to make one.
        wait: Seconds to wait for other processes before giving up.
        check: False opens a store that is known to be damaged, to `verify` it or to take the labels before
            the first bad row.

    Raises:
        StoreError: Not a label store, empty, damaged, altered (`row` is the first bad row), or of a newer
            version.

    >>> with LabelStore(":memory:") as store:
    ...     (item,) = store.put([Question.comparison("Say hi.", "Hi!", "No.")])
    ...     _ = store.claim("ada"), store.record(item, "ada", {"preference": "left"}, latency=2.0)
    ...     [(label.row, label.rater, dict(label.values)) for label in store.labels()]
    [(1, 'ada', {'preference': 'left'})]
    """

    def __init__(
        self, path: str | Path, *, create: bool = True, wait: float = 60.0, check: bool = True
    ) -> None:
        self.path = Path(path)
        self._database = Database(self.path, create, wait)
        try:
            if check:
                audit_store(self._database, thorough=False)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> LabelStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    # The queue

    def put(
        self, questions: Iterable[Question], *, policy: str = "", priority: float = 0.0, overlap: int = 1
    ) -> list[str]:
        """Queue questions; one already queued is not asked twice but may gain priority or raters.

        Args:
            questions: In the order to be asked.
            policy: Version of the policy that wrote the texts.
            priority: Higher is asked earlier.
            overlap: How many raters are to answer each.

        Returns:
            The questions' ids, in order.

        Raises:
            NotSavedError: They did not reach the disk; none of them did.
        """
        if not math.isfinite(priority) or overlap < 1:
            raise ConfigError(
                f"priority {priority} and overlap {overlap}: need a finite number and at least 1"
            )
        ids = []
        with self._database.write() as run:
            for question in questions:
                ids.append(question.id)
                self._put(run, question, policy, priority + 0.0, overlap)
        return ids

    def _put(self, run: Any, question: Question, policy: str, priority: float, overlap: int) -> None:
        found = run(f"SELECT {ITEM_COLUMNS} FROM items WHERE id = ?", (question.id,)).fetchone()
        if found is None:
            columns = (question.id, question.kind, question.criteria_json(), text_bytes(policy), priority)
            number = run(
                "INSERT INTO items (id, kind, criteria, policy, priority, overlap, digest) "
                "VALUES (?, ?, ?, ?, ?, ?, '')",
                (*columns, overlap),
            ).lastrowid
            if question.turns:  # programs that cannot read them are told so
                run(f"PRAGMA user_version = {VERSION}")
            texts = enumerate((question.prompt, *question.completions))
            for position, text in texts:
                run("INSERT INTO texts VALUES (?, ?, ?)", (number, position, text_bytes(text)))
            found = (number, *columns, overlap)
        else:
            found = (*found[:5], max(found[5], priority), max(found[6], overlap))
        run(
            "UPDATE items SET priority = ?, overlap = ?, digest = ? WHERE number = ?",
            (found[5], found[6], row_digest(found), found[0]),
        )

    def claim(self, rater: str, among: Collection[str] | None = None, lease: float = LEASE) -> Item | None:
        """Lease the next question to a rater, until it is answered or released or the lease ends.

        Whoever left in the middle gets the same question again. A rater holds one question at a time: others
        that were leased to them go back to the queue. A question is leased to no more raters than
        are still wanted for it, and never twice to one who answered or skipped it.

        Args:
            rater: Who asks.
            among: Ids of the questions to choose from; None for all.
            lease: Seconds.

        Returns:
            None if there is nothing for this rater (now: others may hold leases, see `progress`).
        """
        name, now = _rater(rater), time.time()
        chosen, ids = _among("AND", among)
        free = (
            f"SELECT {ITEM_COLUMNS}, digest, answers FROM items WHERE answers < overlap {chosen}"
            "AND NOT EXISTS (SELECT 1 FROM active WHERE item = number AND rater = ?) "
            "AND answers + (SELECT COUNT(*) FROM leases WHERE item = number AND rater <> ? AND expires > ?) "
            "< overlap {mine} ORDER BY priority DESC, number LIMIT 1"
        )
        mine = "AND number IN (SELECT item FROM leases WHERE rater = ? AND expires > ?)"
        with self._database.write() as run:
            asked = (*ids, name, name, now)
            found = (
                run(free.format(mine=mine), (*asked, name, now)).fetchone()
                or run(free.format(mine=""), asked).fetchone()
            )
            if found is None:
                return None
            run("DELETE FROM leases WHERE rater = ?", (name,))
            run("INSERT INTO leases VALUES (?, ?, ?)", (found[0], name, now + lease))
        return self._item(found)

    def release(self, rater: str) -> None:
        """Return the questions a rater holds to the queue."""
        with self._database.write() as run:
            run("DELETE FROM leases WHERE rater = ?", (_rater(rater),))

    def progress(self, rater: str, among: Collection[str] | None = None) -> Progress:
        """Report the progress of one rater and of all raters, over all questions or those given."""
        chosen, ids = _among("WHERE", among)
        ((items, settled, mine, left),) = self._database.read(
            "SELECT COUNT(*), TOTAL(answers >= overlap), TOTAL(active.row IS NOT NULL), "
            "TOTAL(answers < overlap AND active.row IS NULL) "
            f"FROM items LEFT JOIN active ON active.item = number AND active.rater = ? {chosen}",
            (_rater(rater), *ids),
        )
        return Progress(int(items), int(settled), int(mine), int(left))

    def items(self) -> Iterator[Item]:
        """Return all questions in the order they were queued."""
        for row in self._database.read(f"SELECT {ITEM_COLUMNS}, digest, answers FROM items ORDER BY number"):
            yield self._item(row)

    def item(self, item: str) -> Item:
        """Return the queued question with this id.

        Raises:
            LabelError: There is none.
        """
        found = self._database.read(
            f"SELECT {ITEM_COLUMNS}, digest, answers FROM items WHERE id = ?", (item,)
        )
        if not found:
            raise LabelError(f"there is no question {excerpt(item)} in this store")
        return self._item(found[0])

    # The record

    def record(
        self,
        item: str,
        rater: str,
        values: Mapping[str, Any],
        *,
        latency: float = math.nan,
        key: str | None = None,
        at: float | None = None,
    ) -> Label:
        """Save an answer; when this returns, the answer is on the disk.

        Args:
            item: The question's id.
            rater: Who answered.
            values: Criterion -> value, as `Question.check` takes them.
            latency: Seconds from showing the question to the answer; nan where it is not known.
            key: Makes sending it again harmless: the label saved under this key is returned.
            at: When, in seconds since 1970; now if None.

        Raises:
            LabelError: The values do not fit, the rater has answered already, or the key was another's.
            NotSavedError: It did not reach the disk; send it again, with the same key.
        """
        question = self.item(item).question
        answer = question.check(values)
        return self._append(Entry(question.kind, item, rater, answer, latency, key, at))

    def skip(
        self,
        item: str,
        rater: str,
        *,
        latency: float = math.nan,
        key: str | None = None,
        at: float | None = None,
    ) -> Label:
        """Record a skip; others may still answer the question. Arguments and errors as for `record`."""
        return self._append(Entry("skip", item, rater, {}, latency, key, at))

    def undo(
        self,
        rater: str,
        among: Collection[str] | None = None,
        *,
        key: str | None = None,
        at: float | None = None,
    ) -> Label | None:
        """Undo a rater's latest answer or skip, and lease its question to them again.

        Args:
            rater: Whose.
            among: Ids of the questions that may be taken back; None for all.
            key: As for `record`.
            at: As for `record`.

        Returns:
            The undo's row, or None if there is nothing to take back.
        """
        name = _rater(rater)
        chosen, ids = _among("AND", among)
        with self._database.write() as run:
            done = row_by_key(run, key)
            if done is not None:
                check_same(done, Entry("undo", done[3], rater, {}))
                return self._label(done[0])
            found = run(
                "SELECT row, item, id, kind <> 'skip' FROM active JOIN labels USING (row, item, rater) "
                f"WHERE rater = ? {chosen}ORDER BY row DESC LIMIT 1",
                (name, *ids),
            ).fetchone()
            if found is None:
                return None
            row, number, item, answered = found
            raw = append_row(run, number, Entry("undo", item, rater, {}, key=key, at=at, undoes=row))
            run("DELETE FROM active WHERE item = ? AND rater = ?", (number, name))
            run("UPDATE items SET answers = answers - ? WHERE number = ?", (answered, number))
            run("INSERT OR REPLACE INTO leases VALUES (?, ?, ?)", (number, name, time.time() + LEASE))
        return self._label(raw[0])

    def labels(self, *, all_rows: bool = False, before: int | None = None) -> Iterator[Label]:
        """Return the valid labels in order.

        Args:
            all_rows: Return skips, undos and what they undid, too.
            before: Read no further than up to this row, e.g. the first bad one.

        Raises:
            StoreError: A row was changed, is missing or cannot be read; `row` is the first such row.
        """
        rows = read_labels(self._database, before)
        undone = {label.undoes for label in rows}
        yield from (label for label in rows if all_rows or (label.answered and label.row not in undone))

    def standing(self, items: Iterable[str]) -> dict[str, list[Label]]:
        """Return the valid labels and skips of the given questions, by question id, in order.

        Raises:
            StoreError: One of these rows was changed.
        """
        found: dict[str, list[Label]] = {}
        with self._database.snapshot():
            rows = self._rows(
                "row IN (SELECT active.row FROM active "
                "JOIN items ON number = item WHERE id IN (SELECT value FROM json_each(?))) ORDER BY row",
                json.dumps(list(items)),
            )
            for label in check_rows(self._database, rows):
                found.setdefault(label.item, []).append(label)
        return found

    @property
    def head(self) -> tuple[int, str]:
        """Return the last row's number and hash; a copy of the hash proves later that no row is missing."""
        rows = self._database.read("SELECT row, hash FROM labels ORDER BY row DESC LIMIT 1")
        return (int(rows[0][0]), str(rows[0][1])) if rows else (0, START)

    def verify(self, head: str | None = None) -> StoreAudit:
        """Read every row and check it against its hash, the chain, its question and the queue.

        Args:
            head: A hash noted earlier that the record must contain.

        Raises:
            StoreError: Something was changed, is missing or cannot be read; `row` is the first bad row.
        """
        return audit_store(self._database, head)

    # Inside

    def _append(self, entry: Entry) -> Label:
        name = _rater(entry.rater)
        with self._database.write() as run:
            done = row_by_key(run, entry.key)
            if done is not None:
                check_same(done, entry)
                return self._label(done[0])
            found = run("SELECT number FROM items WHERE id = ?", (entry.item,)).fetchone()
            if found is None:
                raise LabelError(f"there is no question {excerpt(entry.item)} in this store")
            if run("SELECT 1 FROM active WHERE item = ? AND rater = ?", (*found, name)).fetchone():
                raise LabelError(
                    f"{excerpt(entry.rater)} has answered or skipped question {entry.item[:12]} already; "
                    "undo that first"
                )
            raw = append_row(run, found[0], entry)
            run("INSERT INTO active VALUES (?, ?, ?)", (*found, name, raw[0]))
            run("UPDATE items SET answers = answers + ? WHERE number = ?", (entry.kind != "skip", *found))
            run("DELETE FROM leases WHERE item = ? AND rater = ?", (*found, name))
        return self._label(raw[0])

    def _item(self, row: RawRow) -> Item:
        number, item, kind, criteria, policy, priority, overlap, digest, answers = row
        texts = self._database.read("SELECT text FROM texts WHERE item = ? ORDER BY position", (number,))
        question = restore(kind, criteria, [bytes(t[0]) for t in texts], item)
        if row_digest(row[:-2]) != digest:
            raise StoreError(f"question {item[:12]} was altered; run `text-gym labels verify`")
        return Item(number, question, text_of(policy), float(priority), int(overlap), int(answers))

    def _rows(self, where: str, *parameters: Any) -> list[RawRow]:
        """Return the rows of labels that fit, as `check_rows` takes them."""
        columns = as_bytes(f"{LABEL_COLUMNS}, hash", "label.")
        return self._database.read(
            f"SELECT {columns}, (SELECT CAST(hash AS BLOB) FROM labels WHERE row = label.row - 1), "
            "(SELECT CAST(previous AS BLOB) FROM labels WHERE row = label.row + 1) "
            f"FROM labels AS label WHERE {where}",
            parameters,
        )

    def _label(self, row: int) -> Label:
        with self._database.snapshot():
            return check_rows(self._database, self._rows("row = ?", row))[0]


def _among(joint: str, items: Collection[str] | None) -> tuple[str, tuple[str, ...]]:
    """Return the part of a query that selects questions by id, and its parameters."""
    if items is None:
        return "", ()
    return f"{joint} id IN (SELECT value FROM json_each(?)) ", (json.dumps(list(items)),)


def _rater(name: str) -> bytes:
    if not name:
        raise LabelError("a rater needs a name")
    return text_bytes(name)
