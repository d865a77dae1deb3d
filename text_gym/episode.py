"""Prompt and Episode, and transcripts: episodes kept as JSON lines.

An `Episode` holds no reward: a reward is somebody's opinion of it, and one episode may get many.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from .chat import ChatTemplate, Messages, as_messages, chat_of
from .errors import DataError, PromptError, excerpt
from .json_text import parse_json
from .showing import as_html
from .tokenizer import Tokenizer

FloatArray = npt.NDArray[np.float64]

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
FinishReason: TypeAlias = Literal["eos", "stop", "length"]


@dataclass(frozen=True)
class Prompt:
    """A prompt's text, and whatever else a reward needs to know about it.

    Args:
        text: What the policy reads.
        columns: References, attributes, answers …; rewards receive them by name.
        id: A name for logs and splits; the text itself where none is given.
        messages: The conversation that the text is a rendering of; `from_messages` makes such prompts.
    """

    text: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""
    messages: Messages = ()

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", self.text)

    @classmethod
    def from_messages(
        cls,
        messages: Messages,
        tokenizer: Tokenizer | None,
        columns: Mapping[str, Any] | None = None,
        prompt_id: str = "",
    ) -> Prompt:
        """Render a conversation by the model's chat template, up to where the assistant's reply begins.

        Args:
            messages: Messages with `role` and `content`; the last one is not the assistant's.
            tokenizer: The model's tokenizer, which has its chat template.
            columns: As for the class.
            prompt_id: As `id` for the class; by default the messages without the template's tokens.

        Raises:
            ConfigError: The tokenizer has no chat template.
            PromptError: These are no messages, or the template refuses them or is not prefix-preserving.
        """
        found = as_messages(messages)
        if found[-1]["role"] == "assistant":
            raise PromptError(
                "the last message of a prompt is the assistant's, which the policy is to write; leave it out"
            )
        chat = chat_of(tokenizer)
        chat.check(found)
        name = prompt_id or "\n".join(f"{m['role']}: {m['content']}" for m in found)
        return cls(chat.render(found), columns or {}, name, found)

    def encode(self, tokenizer: Tokenizer) -> list[int]:
        """Return the prompt's ids: of its messages where the tokenizer renders them, else of its text."""
        chat = self._chat(tokenizer)
        return tokenizer.encode(self.text) if chat is None else chat.encode(self.messages)

    def encode_completion(self, completion: str, tokenizer: Tokenizer) -> list[int]:
        """Return the ids of a whole completion, with the EOS that the model writes after it, if it has one.

        After messages that is the end of the turn, and the template may write around the completion.
        """
        chat = self._chat(tokenizer)
        eos = list(tokenizer.eos_ids[:1])
        if chat is None:
            return tokenizer.encode(completion) + eos
        ids = chat.encode_reply(self.messages, completion)
        end = next((i for i, token in enumerate(ids) if token in tokenizer.eos_ids), None)
        return ids + eos if end is None else ids[: end + 1]

    def _chat(self, tokenizer: Tokenizer) -> ChatTemplate | None:
        """Return the tokenizer's chat template, if it renders the messages to this very text."""
        chat: ChatTemplate | None = getattr(tokenizer, "chat", None)
        if not self.messages or chat is None or chat.render(self.messages) != self.text:
            return None
        return chat


@dataclass(frozen=True, repr=False)
class Episode:
    """One prompt with one completion, finished or, for stepwise rewards, so far.

    Args:
        prompt: The prompt.
        prompt_ids: `(P,)` int64, the prompt's tokens.
        completion_ids: `(T,)` int64, the tokens generated, EOS included when it was.
        tokenizer: What the ids belong to.
        finish_reason: Why it ended: "eos", "stop" (a stop string), or "length" (cut at the token limit, so
            that the text may be torn); None while it runs.
        stop: The stop string it ended with, if any; `completion` leaves it out.
        agent_mask: `(T,)` bool, False where the environment and not the agent wrote the token;
            None means that every token is the agent's.
        seed: Seed of the stream of episodes it came from.
        index: Number of the episode in that stream (`k`).
    """

    prompt: Prompt
    prompt_ids: IntArray
    completion_ids: IntArray
    tokenizer: Tokenizer
    finish_reason: FinishReason | None = None
    stop: str = ""
    agent_mask: BoolArray | None = None
    seed: int | None = None
    index: int | None = None

    def __repr__(self) -> str:
        ended = self.finish_reason or "running"
        texts = f"{excerpt(self.prompt.text.strip(), 40)} -> {excerpt(self.completion, 60)}"
        return f"Episode({texts}, {len(self.completion_ids)} tokens, {ended})"

    def _repr_html_(self) -> str:
        return as_html(self)

    @property
    def completion(self) -> str:
        """The generated text, without EOS and without the stop string; decoded once."""
        text: str | None = self.__dict__.get("completion")
        if text is None:
            text = self.__dict__["completion"] = self._decode()
        return text

    def _decode(self) -> str:
        ids = self.completion_ids.tolist()
        if ids and ids[-1] in self.tokenizer.eos_ids:  # not every tokenizer leaves out each of its EOS ids
            del ids[-1]
        text = self.tokenizer.decode(ids)
        return text[: text.find(self.stop)] if self.stop and self.stop in text else text

    @property
    def messages(self) -> list[Mapping[str, str]]:
        """The conversation with the completion as the assistant's reply; empty if the prompt is a text."""
        messages = self.prompt.messages
        return [*messages, {"role": "assistant", "content": self.completion}] if messages else []

    @property
    def done(self) -> bool:
        """True if the episode is over."""
        return self.finish_reason is not None

    @property
    def whole(self) -> bool:
        """True if the text ended by itself, by EOS or a stop string, and was not cut."""
        return self.finish_reason in ("eos", "stop")

    @classmethod
    def of(cls, prompt: Prompt | str, completion: str, tokenizer: Tokenizer, **columns: Any) -> Episode:
        """Make a finished episode from texts, as people and files have them.

        >>> from text_gym import ByteTokenizer
        >>> Episode.of("2+2=", "4", ByteTokenizer(), answer=4).prompt.columns["answer"]
        4
        """
        if isinstance(prompt, str):
            prompt = Prompt(prompt, columns)
        episode = cls(
            prompt=prompt,
            prompt_ids=np.array(prompt.encode(tokenizer), dtype=np.int64),
            completion_ids=np.array(prompt.encode_completion(completion, tokenizer), dtype=np.int64),
            tokenizer=tokenizer,
            finish_reason="eos",
        )
        # A lossy tokenizer must not change what a person wrote.
        episode.__dict__["completion"] = completion
        return episode


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
        return Prompt(item["prompt"], columns, str(columns.pop("id", "")))
    if isinstance(item, Mapping) and isinstance(item.get("prompt"), (list, tuple)):
        columns = {k: v for k, v in item.items() if k != "prompt"}
        try:
            return Prompt.from_messages(item["prompt"], tokenizer, columns, str(columns.pop("id", "")))
        except PromptError as error:
            raise PromptError(f"prompt {position}: {error}") from error
    raise PromptError(
        f"prompt {position} is {type(item).__name__} {excerpt(repr(item))}; "
        "expected a string, a Prompt, or a mapping with a text or messages under 'prompt'"
    )


def write_transcripts(
    file: str | Path,
    episodes: Iterable[Episode],
    rewards: Sequence[float] | None = None,
    gold: Sequence[float] | None = None,
) -> None:
    """Write episodes as JSON lines: texts, ids, how they ended and, if given, `reward` and `gold` of each.

    Conversations are written as `messages`, too, with the completion as the last one: rows for fine-tuning.

    `gold` is what the task's own reward gives a text, for when `reward` is another one.

    Raises:
        DataError: Another number of rewards than episodes; nothing is written.
    """
    columns = {name: x for name, x in (("reward", rewards), ("gold", gold)) if x is not None}
    if columns:
        episodes = listed = list(episodes)
        for name, values in columns.items():
            if len(values) != len(listed):
                raise DataError(f"{file}: {len(values)} values of {name} for {len(listed)} episodes")
    with open(file, "w", encoding="utf-8") as out:
        for i, e in enumerate(episodes):
            row: dict[str, Any] = {
                "id": e.prompt.id,
                "prompt": e.prompt.text,
                "columns": dict(e.prompt.columns),
                "completion": e.completion,
                "prompt_ids": e.prompt_ids.tolist(),
                "completion_ids": e.completion_ids.tolist(),
                "tokenizer": e.tokenizer.fingerprint,
                "finish_reason": e.finish_reason,
                "stop": e.stop,
                "seed": e.seed,
                "index": e.index,
            }
            if e.messages:
                row["messages"] = e.messages
            for name, values in columns.items():
                row[name] = float(values[i]) if math.isfinite(values[i]) else None
            out.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


def read_transcripts(file: str | Path, tokenizer: Tokenizer) -> Iterator[Episode]:
    """Read what `write_transcripts` wrote; ids are kept only where the tokenizer is the same.

    Older rows say `terminated` and `truncated` in place of `finish_reason`; a row that says none of them is
    of a finished text.

    Raises:
        DataError: There is no such file, or a line is not JSON, lacks `prompt` or `completion`, or has an
            unknown `finish_reason`; its number is named.
    """
    if not Path(file).exists() or Path(file).is_dir():
        raise DataError(f"{file}: no such file of transcripts")
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{file}, line {number}"
            try:
                row = parse_json(line.decode("utf-8"), where)
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: not UTF-8 ({error}); write it again") from error
            _check_row(row, where)
            messages = tuple(row.get("messages", ())[:-1])  # the last one is the completion
            prompt = Prompt(row["prompt"], row.get("columns", {}), row.get("id", ""), messages)
            completion, reason = row["completion"], _finish_reason(row)
            if reason is not None and reason not in get_args(FinishReason):
                raise DataError(
                    f"{where}: finish_reason is {excerpt(repr(reason))}; it must be "
                    f"{', '.join(get_args(FinishReason))} or null"
                )
            if row.get("tokenizer") != tokenizer.fingerprint:
                yield _retokenised(Episode.of(prompt, completion, tokenizer), row, reason)
                continue
            for name in ("prompt_ids", "completion_ids"):
                _check_ids(row.get(name), f"{where}: {name}", tokenizer.vocab_size)
            episode = Episode(
                prompt=prompt,
                prompt_ids=np.array(row["prompt_ids"], dtype=np.int64),
                completion_ids=np.array(row["completion_ids"], dtype=np.int64),
                tokenizer=tokenizer,
                finish_reason=reason,
                stop=row.get("stop", ""),
                seed=row.get("seed"),
                index=row.get("index"),
            )
            episode.__dict__["completion"] = completion
            yield episode


def _check_row(row: Any, where: str) -> None:
    """Refuse a row of a transcript that lacks something or has it in another form.

    Raises:
        DataError: It is named.
    """
    if not isinstance(row, dict):
        raise DataError(f"{where}: not a transcript row: a {type(row).__name__}, not an object")
    wanted = {"prompt": str, "completion": str, "columns": dict, "id": str, "stop": str}
    for name, kind in wanted.items():
        if name not in row and name in ("prompt", "completion"):
            raise DataError(f"{where}: not a transcript row: it has no {name!r}")
        if not isinstance(row.get(name, kind()), kind):
            raise DataError(f"{where}: not a transcript row: {name} is {excerpt(repr(row[name]))}")
    if "messages" in row:
        try:
            as_messages(row["messages"])
        except PromptError as error:
            raise DataError(f"{where}: {error}") from error
    for name in ("seed", "index"):
        if type(row.get(name)) not in (int, type(None)):
            raise DataError(f"{where}: not a transcript row: {name} is {excerpt(repr(row[name]))}, no number")


def _check_ids(ids: Any, where: str, vocab_size: int) -> None:
    """Refuse what are no ids of a tokenizer's.

    Raises:
        DataError: The first one that is none is named.
    """
    if not isinstance(ids, list):
        raise DataError(f"{where} is {excerpt(repr(ids))}, not a list of token ids")
    for i in ids:
        if type(i) is not int or not 0 <= i < vocab_size:
            raise DataError(f"{where} holds {excerpt(repr(i))}, no id of a vocabulary of {vocab_size}")


def _finish_reason(row: Mapping[str, Any]) -> Any:
    """Return why the episode of a transcript's row ended, however the row puts it."""
    if "finish_reason" in row:
        return row["finish_reason"]
    if row.get("truncated", False):
        return "length"
    if row.get("terminated", True):
        return "stop" if row.get("stop") else "eos"
    return None


def _retokenised(whole: Episode, row: Mapping[str, Any], reason: FinishReason | None) -> Episode:
    """Rebuild a finished episode from a transcript's texts, ended as the transcript says."""
    torn = reason not in ("eos", "stop") and bool(whole.tokenizer.eos_ids)
    episode = replace(
        whole,
        completion_ids=whole.completion_ids[: -1 if torn else None],
        finish_reason=reason,
        seed=row.get("seed"),
        index=row.get("index"),
    )
    episode.__dict__["completion"] = whole.completion
    return episode


def share_cut(episodes: Sequence[Episode]) -> float:
    """Return the share of episodes cut at the token limit, in [0, 1]."""
    return sum(e.finish_reason == "length" for e in episodes) / len(episodes)


def word_counts(episodes: Sequence[Episode]) -> FloatArray:
    """Count the words of each completion, separated by white space: `(n,)`."""
    return np.array([len(e.completion.split()) for e in episodes], dtype=np.float64)
