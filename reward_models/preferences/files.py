"""Preference files: reads pairs, ratings and likes from any table, and writes them in TRL's column names.

One row an opinion: `prompt, chosen, rejected, margin` for pairs, `prompt, completion` and a column for each
criterion for ratings, `prompt, completion, label` for likes (KTO). A prompt's own columns stand beside them.
Prompts and completions may be conversations (lists of messages), which a model's chat template renders. Those
with turns are written as messages, as TRL has them, with the exact texts beside them in a column `texts`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from text_gym.chat import Talk, as_messages, as_talk, chat_of, messages_of
from text_gym.data import Conversations, Row, read_rows, reply_of
from text_gym.episode import Prompt
from text_gym.errors import ConfigError, DataError, PromptError, UnknownNameError, excerpt

from .opinions import Like, PreferencePair, Rating, StepLabels

_OWN = ("prompt", "prompt_id", "rater", "weight", "texts")
_OF_PAIRS = (*_OWN, "chosen", "rejected", "margin", "tie")
_OF_TEXTS = (*_OWN, "completion")
_OF_LIKES = (*_OF_TEXTS, "label")
_OF_STEPS = (*_OWN, "steps", "completions", "labels")


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
        row, turns = _turns(row, names, where)
        about = _prompt(row, prompt, (*_OF_PAIRS, *names.values()), chat, where, turns)
        return PreferencePair(
            about,
            _text(row, chosen, about, chat, where),
            _text(row, rejected, about, chat, where),
            0.0 if margin is None else margin,
            _flag(row.get("tie") or False, "tie", where),
            **_common(row, where),
            turns=turns,
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
        row, turns = _turns(row, {"prompt": prompt, "completion": completion}, where)
        marks = {c: _number(_field(row, c, where), c, where) for c in criteria}
        values = {c: mark for c, mark in marks.items() if mark is not None}
        about = _prompt(row, prompt, (*_OF_TEXTS, prompt, completion, *criteria), chat, where, turns)
        written = _text(row, completion, about, chat, where)
        return Rating(about, written, values, **_common(row, where), turns=turns) if values else None

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
        row, turns = _turns(row, {"prompt": prompt, "completion": completion}, where)
        about = _prompt(row, prompt, (*_OF_LIKES, prompt, completion, label), chat, where, turns)
        liked = _flag(_field(row, label, where), label, where)
        written = _text(row, completion, about, chat, where)
        return Like(about, written, liked, **_common(row, where), turns=turns)

    return _read(source, like)


def read_steps(
    source: str | Path, *, prompt: str = "prompt", chat: Conversations | None = None
) -> list[StepLabels]:
    """Read solutions whose steps were judged: columns `steps` (or `completions`, as TRL has it) and `labels`.

    Args:
        source: As for `text_gym.data.read_rows`; both columns hold lists.
        prompt: Column of the problems.
        chat: As for `read_pairs`.

    Raises:
        UnknownNameError: A column is missing; the nearest name is suggested.
        DataError: The file or a row cannot be used; the row is named.
    """

    def solution(row: Row, where: str) -> StepLabels:
        column = "completions" if "completions" in row and "steps" not in row else "steps"
        steps, labels = _field(row, column, where), _field(row, "labels", where)
        for name, value in ((column, steps), ("labels", labels)):
            if not isinstance(value, (list, tuple)):
                raise DataError(f"column {name!r} holds {excerpt(repr(value))}, not a list")
        for step in steps:
            if not isinstance(step, str):
                raise DataError(f"column {column!r} holds the step {excerpt(repr(step))}, not a text")
        marks = [float(x) if isinstance(x, bool) else _number(x, "labels", where) for x in labels]
        known = tuple(mark for mark in marks if mark is not None)
        if len(known) < len(marks):
            raise DataError("a label is empty; cut the solution behind the last step that was judged")
        about = _prompt(row, prompt, (*_OF_STEPS, prompt), chat, where, ())
        return StepLabels(about, tuple(steps), known, **_common(row, where))

    return _read(source, solution)


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
    if opinion.turns:
        written = [name for name in ("prompt", "chosen", "rejected", "completion") if name in row]
        row["texts"] = {name: row[name] for name in written}
        row |= dict(zip(written, map(messages_of, opinion.turns), strict=True))
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


def _text(row: Row, column: str, prompt: Prompt, chat: Conversations | None, where: str) -> str:
    """Read a completion: a text, a reply, or several turns, which the chat template renders."""
    value = _field(row, column, where)
    several = isinstance(value, (list, tuple)) and len(value) > 1
    if not several or not prompt.messages:
        return reply_of(value, column)
    said, tokenizer = as_messages(value), None if chat is None else chat.tokenizer
    template = chat_of(tokenizer)
    if said[0]["role"] != "assistant" or tokenizer is None:
        raise DataError(f"column {column!r} does not begin with a turn of the assistant's")
    ids = template.encode_turns(prompt.messages, said)
    ends = [i for i, token in enumerate(ids) if token in (template.end_of_turn, *tokenizer.eos_ids)]
    return tokenizer.decode(ids[: ends[-1]] if ends else ids)


def _turns(row: Row, columns: Mapping[str, str], where: str) -> tuple[Row, tuple[Talk, ...]]:
    """Read the turns of a conversation, and put the exact texts in their place where the row has them.

    Args:
        row: Prompt and completions.
        columns: What each is called in `texts` -> its column, the prompt's first.
        where: For errors.
    """
    values = [row.get(column) for column in columns.values()]
    talks = [isinstance(value, (list, tuple)) for value in values]
    if not all(talks):  # what is missing or of another form is told by its own name
        return row, ()
    turns = tuple(as_talk(value) for value in values)
    texts = row.get("texts")
    if texts is None:
        return row, turns
    named = isinstance(texts, Mapping) and all(isinstance(texts.get(name), str) for name in columns)
    if not named:
        raise DataError(
            f"{where}: texts is {excerpt(repr(texts))}; it must have a text for each of {', '.join(columns)}"
        )
    return {**row, **{column: texts[name] for name, column in columns.items()}}, turns


def _with_prompt(row: Row, prompt: str, chosen: str, rejected: str) -> Row:
    """Take the prompt out of two whole conversations, if it stands nowhere else (TRL's implicit prompts)."""
    whole = [row.get(chosen), row.get(rejected)]
    if prompt in row or not all(isinstance(talk, (list, tuple)) for talk in whole):
        return row
    better, worse = map(as_messages, whole)
    if len(better) == len(worse) == 1:  # replies: what is missing is the column of prompts
        return row
    if better[:-1] != worse[:-1] or len(better) < 2:
        raise DataError(f"columns {chosen!r} and {rejected!r} differ in more than their last messages")
    return {**row, prompt: better[:-1], chosen: better[-1:], rejected: worse[-1:]}


def _prompt(
    row: Row,
    column: str,
    taken: Sequence[str],
    chat: Conversations | None,
    where: str,
    turns: tuple[Talk, ...],
) -> Prompt:
    value, chat = _field(row, column, where), chat or Conversations()
    if isinstance(value, str) and not value.strip():
        raise DataError("the prompt is empty")
    columns = {str(k): v for k, v in row.items() if k not in taken}
    ((asked, reply),) = chat.turns(value, column, None)
    if reply is not None:
        raise DataError(f"column {column!r} ends with a reply of the assistant's")
    found = chat.prompt(asked, "", columns)
    if isinstance(asked, str) and turns and turns[0] != (("user", asked),):
        found = replace(found, messages=messages_of(turns[0]))
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
