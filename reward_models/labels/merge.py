"""Joins label stores into one: each question once, every rater's rows with their keys, chained anew.

Nothing is written before everything was read, checked and found to fit. A merge that was interrupted is
finished by running it again.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from text_gym.errors import ConfigError, DataError, LabelError, StoreError, excerpt

from .questions import text_bytes
from .rows import Item, Label
from .store import LabelStore

_NAMED = 5  # conflicts that an error names; it counts the others
_Place = tuple[str, str]  # question and rater


@dataclass(frozen=True)
class Merge:
    """The counts of a merge.

    Args:
        added: Rows appended.
        known: Rows that were there already, or repeat an answer that its rater gave before.
        questions: Questions in the merged store.
        raters: Names in the merged store, sorted.
        head: Hash of its last row.
        notes: What differed between stores and was settled in favour of the earlier one.
    """

    added: int
    known: int
    questions: int
    raters: tuple[str, ...]
    head: str
    notes: tuple[str, ...]


def merge_labels(stores: Sequence[str | Path], out: str | Path, *, anonymous: bool = False) -> Merge:
    """Join label stores, e.g. of a class; merging again adds only what is new.

    Args:
        stores: Files, in order. `NAME=FILE` gives the rater of that file another name (`NAME/rater` if
            there are several), for two people who chose the same one.
        out: The merged store; made if there is none, else added to.
        anonymous: Replace names by pseudonyms that stay the same from merge to merge. They and the rows'
            keys are made with a secret in the file `OUT.secret`; without it nobody can confirm a guess.

    Raises:
        StoreError: A store is missing, damaged or was altered.
        ConfigError: There is none to merge, `out` is among them, or one is given under two names.
        LabelError: One name answered a question in two ways, or one key was given to two answers; nothing
            was written.
        DataError: The secret cannot be read or written.
        NotSavedError: The disk did not take a row; run it again.
    """
    out = Path(out)
    sources = [_source(str(store)) for store in stores]
    named: dict[Path, str] = {}
    if not sources:
        raise ConfigError("there are no stores to merge")
    for name, path in sources:
        if path.resolve() == out.resolve():
            raise ConfigError(f"{path} is to be merged and to be written; give another --out")
        first = named.setdefault(path.resolve(), name)
        if first and name and first != name:
            raise ConfigError(
                f"{path} is given as {excerpt(first)} and as {excerpt(name)}; a store is of one name"
            )
    items: list[Item] = []
    read: list[tuple[str, list[Label]]] = []
    for name, path in sources:
        found, rows = _read(path)
        items += found
        read.append((str(path), _named(rows, name)))
    if anonymous:
        secret = _secret(out)
        read = [(place, [_hide(label, secret) for label in rows]) for place, rows in read]
    before: list[Label] = []
    known_items: list[Item] = []
    if out.exists():
        known_items, before = _read(out)
    new, known = _new_rows([(str(out), before), *read])
    notes = _policies([*known_items, *items])
    with LabelStore(out) as store:
        for item in items:
            store.put([item.question], policy=item.policy, priority=item.priority, overlap=item.overlap)
        for label in new:
            _append(store, label)
        audit = store.verify()
        raters = sorted({label.rater for label in store.labels(all_rows=True)})
    return Merge(len(new), known, audit.items, tuple(raters), audit.head, notes)


def _source(text: str) -> tuple[str, Path]:
    """Split `NAME=FILE`; a file whose own name has the sign is taken as it is."""
    name, sign, path = text.partition("=")
    if not sign or Path(text).exists():
        return "", Path(text)
    if not name or not path:
        raise ConfigError(f"{excerpt(text)}: write NAME=FILE, or FILE alone")
    return name, Path(path)


def _read(path: Path) -> tuple[list[Item], list[Label]]:
    if not path.is_file():
        raise StoreError(f"there is no label store at {path}")
    if path.stat().st_size == 0:
        raise StoreError(f"{path} is empty, not a label store")
    with LabelStore(path, create=False) as store:
        store.verify()
        return list(store.items()), list(store.labels(all_rows=True))


def _named(rows: list[Label], name: str) -> list[Label]:
    if not name:
        return rows
    several = len({label.rater for label in rows}) > 1
    return [replace(label, rater=f"{name}/{label.rater}" if several else name) for label in rows]


def _secret(out: Path) -> bytes:
    file = out.with_name(out.name + ".secret")
    try:
        if not file.exists():
            part = file.with_name(f".{file.name}.{os.getpid()}.part")
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(handle, "w", encoding="ascii") as opened:
                opened.write(secrets.token_hex(32) + "\n")
            os.replace(part, file)
        content = bytes.fromhex(file.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: the secret of the pseudonyms cannot be used ({error})") from error
    if len(content) != 32:
        raise DataError(f"{file}: the secret of the pseudonyms has {len(content)} bytes; it must have 32")
    return content


def _hide(label: Label, secret: bytes) -> Label:
    """Replace name and key: the key of an imported label may hold its rater's name."""

    def digest(what: str, text: str) -> str:
        return hmac.new(secret, what.encode() + b"\0" + text_bytes(text), hashlib.sha256).hexdigest()

    return replace(
        label, rater="rater-" + digest("rater", label.rater)[:10], key=digest("key", label.key)[:32]
    )


def _content(label: Label) -> tuple[object, ...]:
    """Everything about a row that its key stands for."""
    return label.kind, label.item, label.rater, dict(label.values), label.time, str(label.latency)


def _standing(rows: Sequence[Label]) -> Label | None:
    """Find the answer or skip of one rater to one question that no undo has taken back."""
    return None if not rows or rows[-1].kind == "undo" else rows[-1]


def _new_rows(stores: Iterable[tuple[str, list[Label]]]) -> tuple[list[Label], int]:
    """Choose the rows to append to the first store, in order, and count those that need not be.

    One rater's rows about one question are a history. Of two histories that begin alike the longer one
    holds; two that do not are joined if one of them ends with nothing, or both with the same answer.
    """
    merged: dict[_Place, tuple[str, list[Label]]] = {}
    by_key: dict[str, tuple[str, Label]] = {}
    new: list[Label] = []
    known, conflicts = 0, []
    for number, (store, rows) in enumerate(stores):
        histories: dict[_Place, list[Label]] = {}
        for label in rows:
            other, first = by_key.setdefault(label.key, (store, label))
            if _content(first) != _content(label):
                conflicts.append(f"key {excerpt(label.key)} is of other rows in {other} and in {store}")
            histories.setdefault((label.item, label.rater), []).append(label)
        for place, history in histories.items():
            owner, so_far = merged.get(place, (store, []))
            more = _continued(so_far, history)
            if more is None:
                conflicts.append(_conflict(owner, so_far, store, history))
                continue
            merged[place] = owner, [*so_far, *more]
            if number:
                new += more
                known += len(history) - len(more)
    if conflicts:
        listed = "; ".join(conflicts[:_NAMED])
        others = f"; and {len(conflicts) - _NAMED} more" if len(conflicts) > _NAMED else ""
        raise LabelError(
            f"{listed}{others}. Nothing was merged: if these are two people, write NAME=FILE for one of the "
            "stores; if they are one, undo an answer with `text-gym label`"
        )
    return new, known


def _continued(so_far: list[Label], history: list[Label]) -> list[Label] | None:
    """The rows of a history that are to follow what there is; None if the two contradict each other."""
    ours, theirs = [label.key for label in so_far], [label.key for label in history]
    if not ours:
        return history
    if theirs[0] in ours:
        ours = ours[ours.index(theirs[0]) :]
        if ours[: len(theirs)] == theirs[: len(ours)]:
            return history[len(ours) :]
        return None
    mine, other = _standing(so_far), _standing(history)
    if other is None:
        return []
    if mine is None:
        return history
    same = (mine.kind, dict(mine.values)) == (other.kind, dict(other.values))
    return [] if same else None


def _conflict(owner: str, so_far: list[Label], store: str, history: list[Label]) -> str:
    mine, other = _standing(so_far), _standing(history)
    label = history[0]

    def said(x: Label | None) -> str:
        return "nothing" if x is None else ", ".join(f"{k} {v}" for k, v in x.values.items()) or x.kind

    text = excerpt(label.question.completions[0], 30)
    return (
        f"{excerpt(label.rater)} answered question {label.item[:12]} ({text}) "
        f"with {said(mine)} in {owner} and with {said(other)} in {store}"
    )


def _policies(items: Iterable[Item]) -> tuple[str, ...]:
    first: dict[str, Item] = {}
    notes = []
    for item in items:
        before = first.setdefault(item.id, item)
        if before.policy != item.policy:
            notes.append(
                f"question {item.id[:12]} is of policy {excerpt(before.policy)} in one store and of "
                f"{excerpt(item.policy)} in another; the first is kept"
            )
    return tuple(dict.fromkeys(notes))


def _append(store: LabelStore, label: Label) -> None:
    key, at = label.key, label.time
    if label.kind == "undo":
        store.undo(label.rater, [label.item], key=key, at=at)
    elif label.kind == "skip":
        store.skip(label.item, label.rater, latency=label.latency, key=key, at=at)
    else:
        store.record(label.item, label.rater, label.values, latency=label.latency, key=key, at=at)
