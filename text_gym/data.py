"""Reads CSV, JSON-lines or Parquet files and hub data sets as prompts with reference texts.

Rows that share a prompt become one `Prompt` with several references, so that a split by prompt
never leaks. Text is taken as it is, without cleaning; conversations, which are lists of messages as in TRL's
data sets, are rendered by the chat template of the model that is to read them.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from .chat import Messages, as_messages, with_system
from .episode import Prompt
from .errors import ConfigError, DataError, PromptError, UnknownNameError, did_you_mean, excerpt
from .json_text import parse_json
from .tokenizer import Tokenizer

Row = Mapping[str, Any]


def read_rows(source: str | Path) -> list[Row]:
    """Read the rows of a .csv, .tsv, .jsonl, .json or .parquet file, a `datasets` folder or a hub data set.

    Raises:
        DataError: There is no such file, it is empty or malformed (the line is named), or a hub
            data set is asked for without the `datasets` package.
    """
    return list(iter_rows(source))


def iter_rows(source: str | Path) -> Iterator[Row]:
    """Read the same rows one at a time, so that JSON lines and data sets of any size are never held whole.

    Raises:
        DataError: As for `read_rows`, when the row is reached.
    """
    check_source(source)
    path = Path(source)
    reader = _READERS.get(path.suffix.lower(), _read_with_datasets)
    rows = iter(reader(path) if path.is_file() else _read_with_datasets(path))
    first = next(rows, None)
    if first is None:
        raise DataError(f"{source} has no rows")
    yield first
    yield from rows


def check_source(source: str | Path) -> None:
    """Check that a file of rows is there and of a known kind; other names may be hub data sets.

    Raises:
        DataError: There is no such file, or it is of an unknown kind.
    """
    path = Path(source)
    known = path.suffix.lower() in {*_READERS, ".parquet"}
    if path.is_file() and not known:
        raise DataError(f"{path}: unknown kind of file; use .csv, .tsv, .jsonl, .json or .parquet")
    if known and not path.is_file() and not path.is_dir():
        raise DataError(f"{path}: no such file{did_you_mean(path)}")


def prompts_from(
    rows: Iterable[Row],
    prompt: str = "prompt",
    reference: str | None = None,
    separator: str = "\n",
    chat: Conversations | None = None,
) -> list[Prompt]:
    """Make one `Prompt` for every distinct text or conversation in column `prompt`, in order of appearance.

    Args:
        rows: Rows as `read_rows` gives them.
        prompt: Column of the prompts: texts, or conversations. The assistant's last message in a conversation
            is no part of the prompt but a reference.
        reference: Column of reference completions; they are gathered in column `references`.
        separator: Written after each text, so that the policy can tell where it ends.
        chat: How conversations are rendered; needed if there are any.

    Raises:
        UnknownNameError: A column is missing; the nearest name is suggested.
        ConfigError: There are conversations, and no tokenizer with a chat template.
        DataError: There are no rows, or a prompt or reference is of another form; the row is named.

    >>> prompts_from([{"q": "2+2", "a": "4"}, {"q": "2+2", "a": "four"}], "q", "a")[0].columns["references"]
    ['4', 'four']
    """
    found: dict[Any, Prompt] = {}
    chat = chat or Conversations()
    for number, row in enumerate(rows, 1):
        if reference not in (None, "references") and "references" in row:
            raise DataError(f"row {number}: references are gathered in column 'references'; rename that one")
        for column in (prompt, reference):
            if column is not None and column not in row:
                raise UnknownNameError(f"column (row {number})", column, [str(k) for k in row])
        columns = {k: v for k, v in row.items() if k not in (prompt, reference)}
        try:
            given = None if reference is None else reply_of(row[reference], reference)
            for asked, reply in chat.turns(row[prompt], prompt, given):
                known = found.get(_key(asked))
                if known is None:
                    known = found[_key(asked)] = chat.prompt(asked, separator, dict(columns))
                if reply is not None:
                    cast("dict[str, Any]", known.columns).setdefault("references", []).append(reply)
        except DataError as error:
            raise DataError(f"row {number}: {error}") from error
        except PromptError as error:
            raise DataError(f"row {number}: column {prompt!r}: {error}") from error
    if not found:
        raise DataError("there are no rows to make prompts of")
    return list(found.values())


@dataclass(frozen=True)
class Conversations:
    """How rows become conversations, and conversations prompts.

    Args:
        tokenizer: Of the model that reads them; its chat template renders them.
        system: System prompt for conversations that have none of their own.
        texts: Make conversations of texts, too: each is what the user says.
        every_reply: Learn each reply of the assistant's, not the last alone. The prompts of one conversation
            then share an id, and stay on one side of a split.
    """

    tokenizer: Tokenizer | None = None
    system: str | None = None
    texts: bool = False
    every_reply: bool = False

    def turns(self, value: Any, column: str, reply: str | None) -> list[tuple[str | Messages, str | None]]:
        """Return the prompts in a row, each with the reply that it gives to it, if any.

        Raises:
            DataError: It is neither text nor conversation, or has a reply beside that of another column.
            PromptError: It is no conversation of texts; the message is named.
        """
        if isinstance(value, str) and value.strip() and not self.texts:
            return [(value, reply)]
        if isinstance(value, str) and value.strip():
            value = [{"role": "user", "content": value}]
        if not isinstance(value, (list, tuple)):
            raise DataError(f"column {column!r} holds {excerpt(repr(value))}, neither text nor conversation")
        messages = with_system(as_messages(value), self.system)
        replies = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
        if messages[-1]["role"] != "assistant":
            return [(messages, reply)]
        if reply is not None:
            raise DataError(
                f"column {column!r} ends with a reply of the assistant's, and there is another one"
            )
        learnt = replies if self.every_reply else replies[-1:]
        return [(messages[:i], messages[i]["content"]) for i in learnt]

    def prompt(self, asked: str | Messages, separator: str, columns: Mapping[str, Any]) -> Prompt:
        """Make a prompt of a text, or of a conversation.

        Raises:
            ConfigError: There is no tokenizer, or it has no chat template.
            PromptError: The template refuses the conversation.
        """
        if isinstance(asked, str):
            return Prompt(asked + separator, columns, asked)
        whole = Prompt.from_messages(asked, self.tokenizer, columns)
        replies = [i for i, m in enumerate(asked) if m["role"] == "assistant"]
        if not self.every_reply or not replies:
            return whole
        opening = Prompt.from_messages(asked[: replies[0]], self.tokenizer)
        return replace(whole, id=opening.id)


def reply_of(value: Any, column: str) -> str:
    """Return a completion that is a text, or a conversation of one message of the assistant's.

    Raises:
        DataError: It is neither.
    """
    if isinstance(value, str):
        return value
    try:
        messages = as_messages(value)
    except PromptError:
        messages = ()
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise DataError(
            f"column {column!r} holds {excerpt(repr(value))}, neither a text nor one reply of the assistant's"
        )
    return messages[0]["content"]


def _key(asked: str | Messages) -> Any:
    return asked if isinstance(asked, str) else tuple((m["role"], m["content"]) for m in asked)


def pairs_from(prompts: Sequence[Prompt]) -> list[tuple[Prompt, str]]:
    """Pair every prompt with each of its references, as supervised fine-tuning needs them."""
    return [(p, reference) for p in prompts for reference in p.columns.get("references", ())]


def _read_csv(path: Path) -> list[Row]:
    before = csv.field_size_limit(2**31 - 1)  # the module's own limit, 131,072, is that of the whole process
    with path.open(encoding=_encoding(path), newline="") as file:
        try:
            head = file.readline()
            file.seek(0)
            semicolons = ";" in head and "," not in head  # as Excel writes where the comma is for decimals
            delimiter = "\t" if path.suffix.lower() == ".tsv" else ";" if semicolons else ","
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            rows = list(reader)
            names = reader.fieldnames or []
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num + 1}: not CSV ({error})") from error
        except UnicodeDecodeError as error:
            raise _not_utf8(path, error) from error
        finally:
            csv.field_size_limit(before)
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{path}: the header has {name!r} twice; give every column its own name")
    if names and not rows:
        raise DataError(f"{path} has no rows below its header, {excerpt(', '.join(names))}")
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise DataError(f"{path}, record {number}: not as many fields as the header has")
    return list(rows)


def _encoding(path: Path) -> str:
    """Return UTF-8, or UTF-16 if the file begins as PowerShell's `>` and Excel's Unicode text do."""
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _not_utf8(path: Path, error: UnicodeDecodeError) -> DataError:
    return DataError(f"{path}: not UTF-8 ({error}); save it as UTF-8")


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding=_encoding(path)) as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    where = f"{path}, line {number}"
                    yield _row(parse_json(line, where), where)
        except UnicodeDecodeError as error:
            raise _not_utf8(path, error) from error


def _read_json(path: Path) -> Iterable[Row]:
    try:
        text = path.read_text(encoding=_encoding(path))
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error) from error
    first, _, rest = text.strip().partition("\n")
    if first.startswith("{") and first.rstrip().endswith("}") and rest:  # JSON lines under another name
        return _read_jsonl(path)
    content = parse_json(text, str(path))
    if not isinstance(content, list):
        raise DataError(f"{path}: expected a list of objects at the top, or an object in each line")
    return [_row(item, f"{path}, item {i}") for i, item in enumerate(content)]


def _row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object, found {type(value).__name__}")
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in value.items()}


def _read_with_datasets(path: Path) -> Iterable[Row]:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{path} is no file here; to read Parquet files and hub data sets: pip install datasets"
        ) from error
    try:
        if path.is_file():
            data = datasets.Dataset.from_parquet(str(path))
        elif path.is_dir():
            data = datasets.load_from_disk(str(path))
        else:
            data = datasets.load_dataset(str(path))
    except Exception as error:
        raise DataError(f"cannot read the data set {str(path)!r}: {error}") from error
    if isinstance(data, datasets.DatasetDict):
        data = data["train"] if "train" in data else next(iter(data.values()))
    rows: Iterable[Row] = data
    return rows


_READERS: dict[str, Callable[[Path], Iterable[Row]]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
}


def split_by_prompt(
    prompts: Sequence[Prompt], held_out: float = 0.2, seed: int = 0
) -> tuple[list[Prompt], list[Prompt]]:
    """Split so that no prompt id is on both sides; the side depends on (seed, id) alone.

    With two ids or more neither side is left empty: by bad luck the hash may put all on one, and
    then the id nearest to the border changes sides.

    Args:
        prompts: Any order, several may share an id.
        held_out: Share of ids to hold out, in (0, 1).
        seed: Another seed gives another split.

    Returns:
        Prompts to learn on and held-out prompts, each in the order given.
    """
    ranks = [hashlib.sha256(f"{seed}\n{p.id}".encode()).digest() for p in prompts]
    border = int(held_out * 2**64).to_bytes(9, "big")[1:]
    lowest, highest = min(ranks, default=b""), max(ranks, default=b"")
    if lowest != highest:
        border = min(max(border, lowest + b"\0"), highest)
    train = [p for p, rank in zip(prompts, ranks, strict=True) if rank >= border]
    return train, [p for p, rank in zip(prompts, ranks, strict=True) if rank < border]


@dataclass(frozen=True)
class Data:
    """The source of the prompts, if it is not a task.

    Args:
        data: File (.csv, .tsv, .jsonl, .json, .parquet), folder saved by `datasets`, or hub data set.
        prompt: Column of the prompts: texts, or conversations for a chat model (lists of messages, as in
            TRL's columns prompt and messages).
        reference: Column of reference completions.
        held_out: Share of the distinct prompts that is held out for judging, in (0, 1).
        separator: Text written after each prompt, so that the policy can tell where it ends.
        gold: Reward that is the data's own, as a task has one: what texts are judged by, whatever is
            optimised. A name, module:function, file.py:function, or the folder of a reward model; none if
            left out.
        system: System prompt of conversations that have none of their own; texts become conversations.
        chat: Texts are what a user says: the policy's chat template renders them. Lists of messages always
            are conversations.
    """

    data: str | None = None
    prompt: str = "prompt"
    reference: str | None = None
    held_out: float = 0.2
    separator: str = "\n"
    gold: str | None = None
    system: str | None = None
    chat: bool = False

    def load(
        self, tokenizer: Tokenizer | None = None, *, every_reply: bool = False
    ) -> tuple[list[Prompt], list[Prompt]]:
        """Load the prompts to train on and those to evaluate on.

        Args:
            tokenizer: Of the model that reads them, whose chat template renders conversations.
            every_reply: As in `Conversations`.
        """
        if self.data is None:
            raise ConfigError("pass --data FILE (or the name of a data set)")
        if not 0 < self.held_out < 1:
            raise ConfigError(f"held_out is {self.held_out}; it must be between 0 and 1")
        chat = self.conversations(tokenizer, every_reply)
        prompts = prompts_from(iter_rows(self.data), self.prompt, self.reference, self.separator, chat)
        train, held_out = split_by_prompt(prompts, self.held_out)
        if not train or not held_out:
            raise DataError(
                f"{self.data} has too few distinct prompts to hold out {self.held_out:.0%} of them"
            )
        return train, held_out

    def conversations(self, tokenizer: Tokenizer | None, every_reply: bool = False) -> Conversations:
        """Return how conversations of this data become prompts."""
        return Conversations(tokenizer, self.system, self.chat or self.system is not None, every_reply)


def anchored(spec: str | None, reward: bool = False) -> str | None:
    """Make the path of a file, a folder or a file's function absolute; return anything else unchanged.

    Rewards without `.py` and without a separator of folders are names, whatever lies here.
    """
    place, colon, rest = (spec or "").partition(":")
    by_name = reward and not place.endswith(".py") and os.sep not in place
    return f"{Path(place).resolve()}{colon}{rest}" if place and not by_name and Path(place).exists() else spec
