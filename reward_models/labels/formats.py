"""Label files: JSON lines that keep everything, TRL's columns, Parquet, Argilla and Label Studio records.

Files only, no servers. JSON lines are the exact form and can be imported again without a loss; in the others
a lone surrogate becomes an escape, since they hold valid Unicode only.
"""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from text_gym.chat import messages_of
from text_gym.data import read_rows
from text_gym.episode import Prompt
from text_gym.errors import ConfigError, DataError, LabelError, UnknownNameError, excerpt
from text_gym.reward_models.preferences.files import as_row
from text_gym.reward_models.preferences.opinions import PreferencePair, Rating
from text_gym.utils.json_files import spare_database

from .exchange import from_argilla, from_label_studio, to_argilla, to_label_studio
from .questions import LabelCriterion, Question, text_bytes
from .rows import Label
from .store import LabelStore

Record = dict[str, Any]
_BROKEN = (
    LabelError, ConfigError, LookupError, ValueError, TypeError, AttributeError, OverflowError, RecursionError
)  # fmt: skip
Reader = Callable[..., Iterable[Label]]  # `LabelStore.labels`, or a part of it


def export_labels(store: LabelStore, file: str | Path, form: str = "jsonl", before: int | None = None) -> int:
    """Write a store's labels to a file; the file appears complete or not at all.

    Args:
        store: The store.
        file: Where to.
        form: A name in `FORMS`: `jsonl` (every row, undos and skips too), `ratings` and `pairs` (TRL's
            columns), `parquet`, `argilla`, `label-studio`; all but the first hold the labels that stand.
        before: Write only what stood before this row, e.g. the first bad one of a damaged store.

    Returns:
        The number of rows written.

    Raises:
        StoreError: A row was altered; nothing is written.
        UnknownNameError: There is no such form.
        ConfigError: The file is a database, such as the store itself, or is called a table.
        DataError: The file cannot be written.
    """
    if form not in FORMS:
        raise UnknownNameError("format", form, FORMS)
    path = Path(file)
    if path.suffix.lower() in (".csv", ".tsv"):
        raise ConfigError(
            f"{path}: labels are written as JSON, not as a table; call the file .jsonl or .json"
        )
    spare_database(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        count = FORMS[form](partial(store.labels, before=before), part)
        os.replace(part, path)
    except OSError as error:
        raise DataError(f"{path}: not written ({error}); the labels are safe in {store.path}") from error
    finally:
        part.unlink(missing_ok=True)
    return count


def import_labels(store: LabelStore, file: str | Path) -> tuple[int, int]:
    """Append the labels from a file written by `export_labels`, Argilla or Label Studio.

    Each keeps its rater, time and key, so that importing a file again adds nothing. Rows are chained anew.

    Args:
        store: Where to.
        file: JSON lines of `export_labels` (with undos and skips), or its `argilla` or `label-studio` form.

    Returns:
        Rows appended, and rows that were there already.

    Raises:
        DataError: The file or a row of it cannot be used; the row is named. If it makes no sense alone, none
            is in; if it contradicts what the store has, those before it are in.
    """
    added = known = 0
    for where, row in read_entries(file).items():
        try:
            for entry in row:
                new = _append(store, entry)
                added, known = added + new, known + (not new)
        except _BROKEN as error:
            raise _no_label(where, error) from error
    return added, known


def read_entries(file: str | Path) -> dict[str, list[Record]]:
    """Read a file for `import_labels`: what each row says, by where it stands, for errors.

    Raises:
        DataError: The file or a row of it has another form, or is no label; the row is named.
    """
    found = {}
    for number, row in enumerate(read_rows(file), 1):
        where = f"{file}, row {number}"
        try:
            found[where] = list(_entries(row))
            for entry in found[where]:
                _check(entry)
        except KeyError as error:
            raise DataError(
                f"{where}: not a label: it has no {error}. `labels import` reads files of `labels export` in "
                "the forms jsonl, argilla and label-studio; a table of ratings or pairs needs no store: pass "
                "it to `reward train --ratings` or `--pairs`"
            ) from error
        except _BROKEN as error:
            raise _no_label(where, error) from error
    return found


def _no_label(where: str, error: Exception) -> DataError:
    why = str(error) if isinstance(error, (LabelError, ConfigError)) else repr(error)
    return DataError(f"{where}: not a label ({why})")


def _check(entry: Record) -> None:
    """Check all that a store would refuse of one entry alone, before anything of its file is written.

    Raises:
        LabelError: Naming what is wrong.
    """
    question, kind = entry["question"], entry["kind"]
    if kind not in (question.kind, "skip", "undo"):
        raise LabelError(f"its kind is {excerpt(str(kind))}, and its question's {question.kind!r}")
    if kind == question.kind:
        question.check(entry["values"])
    if not isinstance(entry["rater"], str) or not entry["rater"] or not isinstance(entry["key"], str):
        raise LabelError("a rater needs a name, and a key must be a text")
    for name, least in (("time", -math.inf), ("latency", 0.0)):
        value = entry[name]
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (number and math.isfinite(value) and value >= least):
            raise LabelError(f"{name} is {excerpt(repr(value))}; it must be a number of seconds")


# JSON lines: every row, exactly as stored


def _to_jsonl(read: Reader, file: Path) -> int:
    keys: dict[int, str] = {}

    def rows() -> Iterator[Record]:
        for label in read(all_rows=True):
            keys[label.row] = label.key
            talks = [[(role, _exact(said)) for role, said in talk] for talk in label.question.turns]
            yield {
                "row": label.row,
                "kind": label.kind,
                "question": label.question.kind,
                "criteria": [asdict(c) for c in label.question.criteria],
                "prompt": _exact(label.question.prompt),
                "completions": [_exact(t) for t in label.question.completions],
                **({"turns": talks} if talks else {}),
                "rater": _exact(label.rater),
                "values": dict(label.values),
                "latency_seconds": None if math.isnan(label.latency) else label.latency,
                "policy": _exact(label.policy),
                "time": label.time,
                "key": _exact(label.key),
                "undoes": None if label.undoes is None else _exact(keys[label.undoes]),
                "previous": label.previous,
                "hash": label.hash,
            }

    return _write_lines(file, rows())


def _exact(text: str) -> str | Record:
    """Escape a text so that JSON keeps it exactly; JSON would join two lone surrogates into one character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return {"utf8_base64": base64.b64encode(text_bytes(text)).decode()}
    return text


def _text(value: Any) -> str:
    """Decode what `_exact` encoded."""
    if isinstance(value, str):
        return value
    return base64.b64decode(value["utf8_base64"], validate=True).decode("utf-8", "surrogatepass")


def _append(store: LabelStore, entry: Record) -> bool:
    """Append an entry unless its key is already there; return True if it was new."""
    before = store.head[0]
    about = {"key": entry["key"], "at": entry["time"]}
    if entry["kind"] == "undo":
        label = store.undo(entry["rater"], entry["among"], **about)
        if label is None:
            raise LabelError("it undoes a label that is not there")
        return store.head[0] > before
    (item,) = store.put([entry["question"]], policy=entry["policy"])
    seconds = math.nan if entry["latency"] is None else entry["latency"]
    if entry["kind"] == "skip":
        store.skip(item, entry["rater"], latency=seconds, **about)
    else:
        store.record(item, entry["rater"], entry["values"], latency=seconds, **about)
    return store.head[0] > before


def _entries(row: Mapping[str, Any]) -> Iterator[Record]:
    """Read the entries of a row in any known format."""
    if "annotations" in row:
        yield from from_label_studio(row)
    elif "responses" in row:
        yield from from_argilla(row)
    else:
        question = _question(row)
        yield {
            "kind": row["kind"],
            "question": question,
            "among": [question.id],
            "rater": _text(row["rater"]),
            "values": row["values"],
            "latency": row["latency_seconds"],
            "policy": _text(row["policy"]),
            "time": row["time"],
            "key": _text(row["key"]),
        }


def _question(row: Mapping[str, Any]) -> Question:
    criteria = tuple(LabelCriterion(**c) for c in row["criteria"])
    texts = tuple(_text(t) for t in row["completions"])
    talks = tuple(tuple((role, _text(said)) for role, said in talk) for talk in row.get("turns", ()))
    return Question(row["question"], _text(row["prompt"]), texts, criteria, talks)


# TRL's columns, Parquet


def ratings(labels: Iterable[Label]) -> list[Rating]:
    """Return the ratings among the labels, in the form a reward model learns from."""
    return [
        Rating(
            _prompt(label.question),
            label.question.completions[0],
            {name: float(value) for name, value in label.values.items()},
            rater=label.rater,
            turns=label.question.turns,
        )
        for label in labels
        if label.kind == "rating"
    ]


def pairs(labels: Iterable[Label], criterion: str = "preference") -> list[PreferencePair]:
    """Return preference pairs by one criterion; a best-of-n answer pairs the best with each other text."""
    found = []
    for label in labels:
        if label.kind not in ("comparison", "best-of-n") or criterion not in label.values:
            continue
        question, value = label.question, label.values[criterion]
        texts, talks = question.completions, question.turns
        best = {"left": 0, "right": 1, "tie": 0}[value] if isinstance(value, str) else value - 1
        found += [
            PreferencePair(
                *(_prompt(question), texts[best], other),
                tie=value == "tie",
                rater=label.rater,
                turns=(talks[0], talks[1 + best], talks[1 + i]) if talks else (),
            )
            for i, other in enumerate(texts)
            if i != best
        ]
    return found


def _prompt(question: Question) -> Prompt:
    """Return a question's prompt, which knows its messages where there were some."""
    talk = question.turns[0] if question.turns else (("user", question.prompt),)
    plain = talk == (("user", question.prompt),)
    return Prompt(question.prompt, messages=() if plain else messages_of(talk))


def _to_ratings(read: Reader, file: Path) -> int:
    return _write_lines(file, map(_plain, map(as_row, ratings(read()))))


def _to_pairs(read: Reader, file: Path) -> int:
    return _write_lines(file, map(_plain, map(as_row, pairs(read()))))


def _to_parquet(read: Reader, file: Path) -> int:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError("to write Parquet files: pip install pyarrow") from error
    rows = []
    for label in read():
        row = {
            "row": label.row,
            "kind": label.kind,
            "prompt": label.question.prompt,
            "completions": list(label.question.completions),
            "rater": label.rater,
            "values": json.dumps(dict(label.values)),
            "latency_seconds": label.latency,
            "policy": label.policy,
            "time": label.time,
            "hash": label.hash,
            "turns": [messages_of(talk) for talk in label.question.turns],
        }
        rows.append(_plain(row))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return len(rows)


def _write_lines(file: Path, rows: Iterable[Record]) -> int:
    count = 0
    with file.open("w", encoding="utf-8") as out:
        for count, row in enumerate(rows, 1):  # noqa: B007 - it counts
            out.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
    return count


def _write_json(file: Path, records: list[Record]) -> int:
    text = json.dumps(_plain(records), ensure_ascii=False, allow_nan=False, indent=1)
    file.write_text(text + "\n", encoding="utf-8")
    return len(records)


def _plain(value: Any) -> Any:
    """Escape lone surrogates, because the other formats hold valid Unicode only."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_plain(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list) else value


FORMS: dict[str, Callable[[Reader, Path], int]] = {
    "jsonl": _to_jsonl,
    "ratings": _to_ratings,
    "pairs": _to_pairs,
    "parquet": _to_parquet,
    "argilla": lambda read, file: _write_json(file, to_argilla(read())),
    "label-studio": lambda read, file: _write_json(file, to_label_studio(read())),
}
