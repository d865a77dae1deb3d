"""Preference files: reads pairs, ratings and likes from any table, and writes them in TRL's column names.

One row an opinion: `prompt, chosen, rejected, margin` for pairs, `prompt, completion` and a column for each
criterion for ratings, `prompt, completion, label` for likes (KTO). A prompt's own columns stand beside them.
Prompts and completions may be conversations (lists of messages), which a model's chat template renders; they
are written as the texts they were rendered to.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from text_gym.chat import as_messages
from text_gym.data import Conversations, Row, read_rows, reply_of
from text_gym.episode import Prompt
from text_gym.errors import ConfigError, DataError, PromptError, UnknownNameError, excerpt

from .opinions import Like, PreferencePair, Rating

_OWN = ("prompt", "prompt_id", "rater", "weight")
_OF_PAIRS = (*_OWN, "chosen", "rejected", "margin", "tie")
_OF_TEXTS = (*_OWN, "completion")
_OF_LIKES = (*_OF_TEXTS, "label")


def read_pairs(
    source: str | Path,
    *,
    prompt: str = "prompt",
    chosen: str = "chosen",
    rejected: str = "rejected",
    chat: Conversations | None = None,
) -> list[PreferencePair]:
    """Read pairs from a file (.csv, .tsv, .jsonl, .json, .parquet), a `datasets` folder or a hub data set.

    Optional columns: `margin`, `tie`, `weight`, `rater`, `prompt_id`; the rest become the prompts' columns.

    Args:
        source: As for `text_gym.data.read_rows`.
        prompt: Column of the prompts.
        chosen: Column of the better completions.
        rejected: Column of the worse ones. Where both are whole conversations, and there is no column of
            prompts, all but their last messages are the prompt.
        chat: How conversations are rendered; needed if there are any.

    Raises:
        UnknownNameError: A column is missing; the nearest name is suggested.
        ConfigError: There are conversations, and no tokenizer with a chat template.
        DataError: The file or a row cannot be used; the row is named.
    """
    names = {"prompt": prompt, "chosen": chosen, "rejected": rejected}

    def pair(row: Row, where: str) -> PreferencePair:
        row = _with_prompt(row, prompt, chosen, rejected)
        margin = _number(row.get("margin"), "margin", where)
        return PreferencePair(
            _prompt(row, prompt, (*_OF_PAIRS, *names.values()), chat, where),
            _text(row, chosen, where),
            _text(row, rejected, where),
            0.0 if margin is None else margin,
            _flag(row.get("tie", False), "tie", where),
            **_common(row, where),
        )

    return _read(source, pair)


def read_ratings(
    source: str | Path,
    criteria: Sequence[str],
    *,
    prompt: str = "prompt",
    completion: str = "completion",
    chat: Conversations | None = None,
) -> list[Rating]:
    """Read ratings from a file or data set: one column per criterion, empty where it was not judged.

    Args:
        source: As for `text_gym.data.read_rows`.
        criteria: Columns of the marks. Rows without any mark are left out.
        prompt: Column of the prompts.
        completion: Column of the completions.
        chat: As for `read_pairs`.

    Raises:
        ConfigError: No criteria are named, or one of them twice.
        UnknownNameError: A column is missing; the nearest name is suggested.
        DataError: The file or a row cannot be used; the row is named.
    """
    if not criteria or len(set(criteria)) < len(criteria):
        raise ConfigError(f"name the columns of the marks, each once; got {', '.join(criteria) or 'none'}")

    def rating(row: Row, where: str) -> Rating | None:
        written = _text(row, completion, where)
        marks = {c: _number(_field(row, c, where), c, where) for c in criteria}
        values = {c: mark for c, mark in marks.items() if mark is not None}
        about = _prompt(row, prompt, (*_OF_TEXTS, prompt, completion, *criteria), chat, where)
        return Rating(about, written, values, **_common(row, where)) if values else None

    return _read(source, rating)


def read_likes(
    source: str | Path,
    *,
    prompt: str = "prompt",
    completion: str = "completion",
    label: str = "label",
    chat: Conversations | None = None,
) -> list[Like]:
    """Read likes (KTO rows) from a file or data set; see `read_pairs`."""

    def like(row: Row, where: str) -> Like:
        about = _prompt(row, prompt, (*_OF_LIKES, prompt, completion, label), chat, where)
        liked = _flag(_field(row, label, where), label, where)
        return Like(about, _text(row, completion, where), liked, **_common(row, where))

    return _read(source, like)


def write_opinions(file: str | Path, opinions: Iterable[PreferencePair | Rating | Like]) -> None:
    """Write pairs, ratings or likes, one kind per file, as .jsonl or .parquet, which `datasets` and TRL read.

    Raises:
        ConfigError: Another kind of file, or Parquet without the package `datasets`.
        DataError: A prompt has a column whose name is taken, or a criterion has, or kinds are mixed; nothing
            is written.
    """
    path = Path(file)
    opinions = list(opinions)
    if len({type(o) for o in opinions}) > 1:
        raise DataError(f"{path}: pairs, ratings and likes go to files of their own")
    criteria = dict.fromkeys(c for o in opinions if isinstance(o, Rating) for c in o.values)
    own = [c for c in criteria if c in _OF_TEXTS or any(c in o.prompt.columns for o in opinions)]
    if own:
        raise DataError(
            f"{path}: criterion {own[0]!r} has the name of another column; give it one of its own"
        )
    rows = [{**criteria, **as_row(o)} for o in opinions]  # a mark that was not given is null
    if path.suffix == ".jsonl":
        lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
        path.write_text("".join(lines), encoding="utf-8")
    elif path.suffix == ".parquet":
        try:
            import datasets
        except ImportError as error:
            raise ConfigError("to write Parquet files: pip install datasets") from error
        names = list(dict.fromkeys(name for row in rows for name in row))
        columns = {name: [row.get(name) for row in rows] for name in names}
        datasets.Dataset.from_dict(columns).to_parquet(str(path))
    else:
        raise ConfigError(f"{path}: write opinions as .jsonl or .parquet")


def as_row(opinion: PreferencePair | Rating | Like) -> dict[str, Any]:
    """Convert an opinion to a row of plain data under TRL's column names.

    >>> as_row(PreferencePair(Prompt("2+2="), "4", "5", margin=1.0))["chosen"]
    '4'
    """
    prompt = opinion.prompt
    row: dict[str, Any] = {"prompt": prompt.text}
    if isinstance(opinion, PreferencePair):
        own = {"chosen": opinion.chosen, "rejected": opinion.rejected, "margin": opinion.margin}
        row |= own | {"tie": opinion.tie}
        taken = set(_OF_PAIRS)
    elif isinstance(opinion, Rating):
        row |= {"completion": opinion.completion, **opinion.values}
        taken = {*_OF_TEXTS, *opinion.values}
    else:
        row |= {"completion": opinion.completion, "label": opinion.label}
        taken = set(_OF_LIKES)
    clash = sorted(taken & set(prompt.columns))
    if clash:
        raise DataError(
            f"prompt {excerpt(prompt.id)} has a column {clash[0]!r}, which names something else here"
        )
    row |= {"weight": float(opinion.weight), "rater": opinion.rater}
    if prompt.id != prompt.text:
        row["prompt_id"] = prompt.id
    return row | dict(prompt.columns)


_Made = TypeVar("_Made")


def _read(source: str | Path, make: Callable[[Row, str], _Made | None]) -> list[_Made]:
    found = []
    for number, row in enumerate(read_rows(source), 1):
        where = f"{source}, row {number}"
        try:
            opinion = make(row, where)
        except DataError as error:
            raise error if where in str(error) else DataError(f"{where}: {error}") from error
        except PromptError as error:
            raise DataError(f"{where}: {error}") from error
        if opinion is not None:
            found.append(opinion)
    if not found:
        raise DataError(f"{source} holds no opinion that could be used")
    return found


def _field(row: Row, column: str, where: str) -> Any:
    if column not in row:
        raise UnknownNameError(f"column ({where})", column, [str(k) for k in row])
    return row[column]


def _text(row: Row, column: str, where: str) -> str:
    return reply_of(_field(row, column, where), column)


def _with_prompt(row: Row, prompt: str, chosen: str, rejected: str) -> Row:
    """Take the prompt out of two whole conversations, if it stands nowhere else (TRL's implicit prompts)."""
    whole = [row.get(chosen), row.get(rejected)]
    if prompt in row or not all(isinstance(talk, (list, tuple)) for talk in whole):
        return row
    better, worse = map(as_messages, whole)
    if better[:-1] != worse[:-1] or len(better) < 2:
        raise DataError(f"columns {chosen!r} and {rejected!r} differ in more than their last messages")
    return {**row, prompt: better[:-1], chosen: better[-1:], rejected: worse[-1:]}


def _prompt(row: Row, column: str, taken: Sequence[str], chat: Conversations | None, where: str) -> Prompt:
    value, chat = _field(row, column, where), chat or Conversations()
    if isinstance(value, str) and not value.strip():
        raise DataError("the prompt is empty")
    columns = {str(k): v for k, v in row.items() if k not in taken}
    ((asked, reply),) = chat.turns(value, column, None)
    if reply is not None:
        raise DataError(f"column {column!r} ends with a reply of the assistant's")
    found = chat.prompt(asked, "", columns)
    return replace(found, id=str(row.get("prompt_id") or found.id))


def _common(row: Row, where: str) -> dict[str, Any]:
    weight = _number(row.get("weight"), "weight", where)
    return {"weight": 1.0 if weight is None else weight, "rater": str(row.get("rater") or "")}


def _number(value: Any, column: str, where: str) -> float | None:
    """Parse a finite number, given as text in CSV files; return None for an empty field."""
    if value is None or value == "":
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{where}: column {column!r} holds {excerpt(repr(value))}, not a finite number")
    return number


def _flag(value: Any, column: str, where: str) -> bool:
    words = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    known = words.get(str(value).strip().lower())
    if known is None:
        raise DataError(f"{where}: column {column!r} holds {excerpt(repr(value))}, not true or false")
    return known
