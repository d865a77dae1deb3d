"""Makes `Prompt`s of what users hand in; of a large set only when one is asked for.

Nothing is tokenized here; see `text_gym.envs.prompts`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, overload

from .episode import Prompt
from .errors import PromptError, excerpt
from .tokenizer import Tokenizer

KEPT = 65_536  # sets of up to so many are kept as `Prompt`s, a few hundred bytes each
CHUNK = 8_192  # texts that are in memory at a time


class PromptSequence(Sequence[Prompt]):
    """A view of strings, rows or `Prompt`s that makes a `Prompt` whenever one is asked for.

    Args:
        items: A sequence, or a `datasets.Dataset` with a column `prompt`. It is not copied.
        tokenizer: Its chat template renders conversations.
    """

    def __init__(self, items: Any, tokenizer: Tokenizer | None = None) -> None:
        self.items, self.tokenizer = items, tokenizer

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> list[Prompt]: ...
    def __getitem__(self, index: int | slice) -> Prompt | list[Prompt]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = operator.index(index)
        return as_prompt(self.items[i], i, self.tokenizer)

    def __iter__(self) -> Iterator[Prompt]:
        return (as_prompt(item, i, self.tokenizer) for i, item in enumerate(self.items))

    def chunks(self) -> Iterator[list[str | Prompt]]:
        """Read the texts in order, `CHUNK` at a time; of conversations the prompts.

        Raises:
            PromptError: One is of another form; its position is named.
        """
        if _is_data_set(self.items) and "prompt" in self.items.column_names:
            column = self.items.select_columns(["prompt"])
            for start in range(0, len(self), CHUNK):
                texts = column[start : start + CHUNK]["prompt"]
                yield [t if isinstance(t, str) else _read(self[start + i]) for i, t in enumerate(texts)]
            return
        texts = (
            t if type(t) is str else _read(as_prompt(t, i, self.tokenizer)) for i, t in enumerate(self.items)
        )
        while chunk := list(islice(texts, CHUNK)):
            yield chunk


def as_prompts(
    prompts: Iterable[Prompt | str | Mapping[str, Any]], tokenizer: Tokenizer | None = None
) -> Sequence[Prompt]:
    """Make prompts from strings, `Prompt`s, or rows with a `prompt` column (the rest become columns).

    A prompt in a row may be a conversation, as in TRL's data sets: a list of messages, which the tokenizer's
    chat template renders.

    Beyond `KEPT` they are made when they are asked for, and the set is not copied: it may be a
    `datasets.Dataset`, a column of one, or any sequence that reads from a disk. Of a list the references are
    copied, since it may be changed later.

    Raises:
        PromptError: There is none, or one is of another form; its position is named. In a large set it is
            found when its text is read. Or they have no order of rows: a `DatasetDict`, a data frame, a set.

    >>> as_prompts(["Hello", {"prompt": "2+2=", "answer": 4}])[1].columns
    {'answer': 4}
    """
    _check_order(prompts)
    if isinstance(prompts, PromptSequence):
        return prompts
    by_index = isinstance(prompts, Sequence) or _is_data_set(prompts)
    items: Any = list(prompts) if not by_index or isinstance(prompts, list) else prompts
    if not len(items):
        raise PromptError("there are no prompts; pass at least one")
    if len(items) > KEPT:
        return PromptSequence(items, tokenizer)
    return [as_prompt(item, i, tokenizer) for i, item in enumerate(items)]


def in_chunks(prompts: Sequence[Prompt]) -> Iterator[list[str | Prompt]]:
    """Read the prompts' texts in order, `CHUNK` at a time; of conversations the prompts."""
    return (prompts if isinstance(prompts, PromptSequence) else PromptSequence(prompts)).chunks()


def texts_in_chunks(prompts: Sequence[Prompt]) -> Iterator[list[str]]:
    """Read the prompts' texts in order, `CHUNK` at a time."""
    return ([t if isinstance(t, str) else t.text for t in chunk] for chunk in in_chunks(prompts))


def _check_order(prompts: object) -> None:
    """Refuse what can be iterated over, but not prompt by prompt and always in the same order.

    Raises:
        PromptError: It is one text, a mapping or a table (whose names would be the prompts), a set, or not
            iterable.
    """
    kind = type(prompts).__name__
    if isinstance(prompts, (str, bytes)):
        raise PromptError("prompts is a single string; pass a list of prompts")
    if isinstance(prompts, Mapping):
        keys = excerpt(", ".join(map(str, prompts)))
        raise PromptError(f"prompts is a {kind} with the keys {keys}; pass one of its values")
    if isinstance(prompts, (set, frozenset)):
        raise PromptError(f"prompts is a {kind}, whose order changes from run to run; pass sorted(prompts)")
    if hasattr(prompts, "columns") and hasattr(prompts, "to_dict"):
        raise PromptError(f"prompts is a {kind}; pass its rows, in pandas prompts.to_dict('records')")
    if not isinstance(prompts, Iterable) and not hasattr(prompts, "__getitem__"):
        raise PromptError(f"prompts is {kind} {excerpt(repr(prompts))}; pass a list of prompts")


def _read(prompt: Prompt) -> str | Prompt:
    return prompt if prompt.messages else prompt.text


def _is_data_set(items: Any) -> bool:
    """Recognise a `datasets.Dataset`, which is read by index and is no `Sequence`, without importing it."""
    return all(hasattr(items, name) for name in ("__len__", "column_names", "select_columns"))


def as_prompt(item: Any, position: int, tokenizer: Tokenizer | None = None) -> Prompt:
    """Make a prompt from a string, a `Prompt`, or a row with a `prompt` column (the rest become columns).

    Args:
        item: What somebody handed in.
        position: Its place among the prompts, for the error.
        tokenizer: Its chat template renders conversations.

    A prompt in a row may be a conversation, as in TRL's data sets: a list of messages, which the tokenizer's
    chat template renders.

    Raises:
        PromptError: It is of another form.

    >>> as_prompt({"prompt": "2+2=", "answer": 4}, 0).columns
    {'answer': 4}
    """
    if isinstance(item, Prompt):
        return item
    if isinstance(item, str):
        return Prompt(item)
    if isinstance(item, Mapping) and isinstance(item.get("prompt"), str):
        columns = {k: v for k, v in item.items() if k != "prompt"}
        return Prompt(item["prompt"], columns, _name(columns.pop("id", None)))
    if isinstance(item, Mapping) and isinstance(item.get("prompt"), (list, tuple)):
        columns = {k: v for k, v in item.items() if k != "prompt"}
        try:
            return Prompt.from_messages(item["prompt"], tokenizer, columns, _name(columns.pop("id", None)))
        except PromptError as error:
            raise PromptError(f"prompt {position}: {error}") from error
    raise PromptError(
        f"prompt {position} is {type(item).__name__} {excerpt(repr(item))}; "
        "expected a string, a Prompt, or a mapping with a text or messages under 'prompt'"
    )


def _name(value: Any) -> str:
    """Return a prompt's id; an empty cell of a table, which is None or NaN, gives it none of its own."""
    empty = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if empty else str(value)
