"""The SQLite file under a label store: its tables, its settings, and clear errors in place of SQLite's.

Write-ahead log with synchronous=FULL: a commit that returned survives a kill. It is not for network file
systems, where SQLite's locks do not hold.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from text_gym.errors import NotSavedError, StoreError

from .questions import Question, sha256_of_values

RawRow: TypeAlias = "tuple[Any, ...]"

VERSION = 2  # of what a store holds, in user_version; a store without conversations has 1
_PACE = 0.2  # seconds between transactions from which on the log is folded in at once
_APPLICATION = 0x7467_6C62  # "tglb", in application_id: other programs' databases are left alone

# Free text is kept as bytes, so that NUL and lone surrogates come back as they were. Only `labels` is the
# record; `active` and `items.answers` follow from it and make the queue quick, `leases` are passing.
_SCHEMA = """
CREATE TABLE items (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
    criteria TEXT NOT NULL, policy BLOB NOT NULL, priority REAL NOT NULL, overlap INTEGER NOT NULL,
    digest TEXT NOT NULL, answers INTEGER NOT NULL DEFAULT 0);
CREATE INDEX queue ON items (priority DESC, number) WHERE answers < overlap;
CREATE TABLE texts (
    item INTEGER NOT NULL, position INTEGER NOT NULL, text BLOB NOT NULL, UNIQUE (item, position));
CREATE TABLE labels (
    row INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, item INTEGER NOT NULL, id TEXT NOT NULL,
    rater BLOB NOT NULL, answer TEXT NOT NULL, latency REAL NOT NULL, policy BLOB NOT NULL,
    time REAL NOT NULL, key BLOB NOT NULL UNIQUE, undoes INTEGER UNIQUE,
    previous TEXT NOT NULL, hash TEXT NOT NULL);
CREATE TABLE active (
    item INTEGER NOT NULL, rater BLOB NOT NULL, row INTEGER NOT NULL, PRIMARY KEY (item, rater));
CREATE INDEX latest ON active (rater, row);
CREATE TABLE leases (
    item INTEGER NOT NULL, rater BLOB NOT NULL, expires REAL NOT NULL, PRIMARY KEY (item, rater));
CREATE TRIGGER no_update BEFORE UPDATE ON labels BEGIN SELECT RAISE(ABORT, 'labels are append-only'); END;
CREATE TRIGGER no_delete BEFORE DELETE ON labels BEGIN SELECT RAISE(ABORT, 'labels are append-only'); END;
"""

ITEM_COLUMNS = "number, id, kind, criteria, policy, priority, overlap"
LABEL_COLUMNS = "row, kind, item, id, rater, answer, latency, policy, time, key, undoes, previous"


def row_digest(columns: RawRow) -> str:
    """Return the SHA-256 of a row's columns as SQLite stores them, with text as UTF-8."""
    return sha256_of_values(*[c.encode() if isinstance(c, str) else c for c in columns])


def text_of(content: bytes) -> str:
    """Decode what `text_bytes` encoded."""
    return bytes(content).decode("utf-8", "surrogatepass")


def restore(kind: str, criteria: str, texts: list[bytes], item: str) -> Question:
    """Rebuild a question from its columns.

    Raises:
        StoreError: They are not what its id says.
    """
    try:
        question = Question.restore(kind, criteria, [text_of(t) for t in texts])
    except (ValueError, TypeError, LookupError) as error:
        raise StoreError(
            f"question {item[:12]} cannot be read ({error}); run `text-gym labels verify`"
        ) from error
    if question.id != item:
        raise StoreError(f"question {item[:12]} was altered; run `text-gym labels verify`")
    return question


class Database:
    """One connection to a store's file; threads share it in turn, and processes wait for each other.

    Args:
        path: The file.
        create: Make it if there is none.
        wait: Seconds to wait for other processes before giving up.

    Raises:
        StoreError: No such file, not a label store, damaged, or of a newer version.
    """

    def __init__(self, path: Path, create: bool = True, wait: float = 60.0) -> None:
        self.path, self.wait = path, wait
        self._lock = threading.RLock()
        if not create and not path.is_file():
            raise StoreError(f"there is no label store at {path}")
        if path.is_file() and path.stat().st_size == 0:
            raise StoreError(
                f"{path} is empty (0 bytes), not a label store: a copy that failed? "
                "If it never had any labels, delete it"
            )
        if create and str(path) != ":memory:" and not path.exists():
            self._create()
        self._last = time.monotonic()  # when the last transaction was written
        with self._explained():
            self._connection = sqlite3.connect(
                path, timeout=wait, isolation_level=None, check_same_thread=False
            )
            try:
                self._open(create)
            except BaseException:
                self._connection.close()
                raise

    def _create(self) -> None:
        """Make the file with its tables in one step, so that no kill leaves an empty one."""
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}.{threading.get_ident()}.part")
        try:
            with self._explained(), contextlib.closing(sqlite3.connect(part, isolation_level=None)) as made:
                made.executescript(
                    f"BEGIN;{_SCHEMA}PRAGMA application_id = {_APPLICATION};PRAGMA user_version = 1;COMMIT;"
                )
            with contextlib.suppress(FileExistsError):  # another process was quicker
                os.link(part, self.path)
        except OSError:  # a file system without links: the tables are made in place
            return
        finally:
            part.unlink(missing_ok=True)

    def _open(self, create: bool) -> None:
        deadline = time.monotonic() + self.wait
        while True:
            try:
                self._check_header()
                # SQLite does not wait for other connections when it switches to the write-ahead log.
                self._connection.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) and "busy" not in str(error):
                    raise
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        for setting in (
            "synchronous = FULL",
            "fullfsync = ON",
            "cell_size_check = ON",
            "trusted_schema = OFF",
        ):
            self._connection.execute(f"PRAGMA {setting}")
        if self._pragma("user_version") == 0:
            with self.write() as run:
                if self._pragma("user_version") == 0:  # no other process made the tables first
                    for statement in _statements(_SCHEMA):
                        run(statement)
                    run(f"PRAGMA application_id = {_APPLICATION}")
                    run("PRAGMA user_version = 1")

    def _check_header(self) -> None:
        if not self._connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            return  # new, or another process is about to make the tables
        version = self._pragma("user_version")
        if self._pragma("application_id") != _APPLICATION:
            raise StoreError(f"{self.path} is a database of another program, not a label store")
        if version < 1:
            raise StoreError(f"{self.path} is a label store whose header is damaged: version {version}")
        if version > VERSION:
            raise StoreError(
                f"{self.path} is a label store of version {version}, this text-gym reads up to {VERSION}: "
                "use the newer text-gym that wrote it"
            )

    def _pragma(self, name: str) -> int:
        return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])

    def read(self, query: str, parameters: RawRow = ()) -> list[RawRow]:
        """Return all rows of a query."""
        with self._lock, self._explained():
            return self._connection.execute(query, parameters).fetchall()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let all that is read inside be of one moment, whatever other processes write meanwhile."""
        with self._lock:
            if self._connection.in_transaction:  # a transaction sees one moment
                yield
                return
            with self._explained():
                self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._roll_back()

    @contextmanager
    def write(self) -> Iterator[Any]:
        """Open a transaction and yield `execute(statement, parameters) -> cursor`; it saves all or nothing.

        Raises:
            NotSavedError: It did not reach the disk.
        """
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection.execute
                self._connection.execute("COMMIT")
                self._fold()
            except BaseException as error:
                self._roll_back()
                if isinstance(error, sqlite3.OperationalError):
                    raise NotSavedError(
                        f"not saved: {self.path}: {error}. Labels saved before are intact; make room or give "
                        "write access, then answer again"
                    ) from error
                if isinstance(error, (sqlite3.DatabaseError, UnicodeDecodeError)):
                    raise self._damaged(error) from error
                raise

    def _fold(self) -> None:
        """Write the log into the file, so that a copy of the file alone has all that people answered.

        It doubles the time of a transaction, so those that follow each other faster than people answer go
        without; the last connection to close folds in what is left.
        """
        before, self._last = self._last, time.monotonic()
        if self._last - before > _PACE:
            with contextlib.suppress(sqlite3.OperationalError):  # it is on the disk, in the log
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error:  # SQLite has rolled back by itself
                return

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # SQLite's messages quote damaged text
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> StoreError:
        return StoreError(f"{self.path} cannot be used as a label store: {error}")

    def close(self) -> None:
        """Close the file; if nobody else has it open, its write-ahead log is folded in."""
        with self._lock:
            self._connection.close()


def _statements(script: str) -> Iterator[str]:
    """Yield the statements of a script one by one, since `executescript` would commit."""
    statement = ""
    for line in script.strip().splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
