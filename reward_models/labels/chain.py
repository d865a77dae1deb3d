"""Appends rows to the hash chain of a label store, each key once."""

from __future__ import annotations

import json
import math
import time
import uuid
from typing import Any

from text_gym.errors import LabelError, excerpt

from .database import LABEL_COLUMNS, RawRow, row_digest, text_of
from .questions import text_bytes
from .rows import Entry
from .verify import START


def append_row(run: Any, number: int, entry: Entry) -> RawRow:
    """Append a row to the hash chain within the caller's transaction."""
    last, previous = run("SELECT row, hash FROM labels ORDER BY row DESC LIMIT 1").fetchone() or (0, START)
    (policy,) = run("SELECT policy FROM items WHERE number = ?", (number,)).fetchone()
    seconds = -1.0 if math.isnan(entry.latency) else entry.latency + 0.0  # + 0.0: SQLite has no -0.0
    when = time.time() if entry.at is None else entry.at + 0.0
    if not (math.isfinite(seconds) and math.isfinite(when)):
        raise LabelError(f"a latency of {entry.latency} s at {entry.at}: both must be finite")
    key = text_bytes(uuid.uuid4().hex if entry.key is None else entry.key)
    answer = json.dumps(dict(entry.answer))
    raw: RawRow = (last + 1, entry.kind, number, entry.item, text_bytes(entry.rater), answer, seconds)
    raw = (*raw, policy, when, key, entry.undoes, previous)
    raw = (*raw, row_digest(raw))
    run(f"INSERT INTO labels ({LABEL_COLUMNS}, hash) VALUES ({', '.join('?' * len(raw))})", raw)
    return raw


def row_by_key(run: Any, key: str | None) -> RawRow | None:
    """Return the row that was saved under a key, if there is one."""
    if key is None:
        return None
    found: RawRow | None = run(
        f"SELECT {LABEL_COLUMNS}, hash FROM labels WHERE key = ?", (text_bytes(key),)
    ).fetchone()
    return found


def check_same(raw: RawRow, entry: Entry) -> None:
    """Check that an answer sent again is the one that was saved under its key.

    Raises:
        LabelError: It is another.
    """
    wanted = (entry.kind, entry.item, text_bytes(entry.rater), entry.answer)
    if (raw[1], raw[3], raw[4], json.loads(raw[5])) != wanted:
        raise LabelError(f"key {excerpt(text_of(raw[9]))} was given to another answer")
