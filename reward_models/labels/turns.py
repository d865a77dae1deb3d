"""Conversations as raters see them: turn by turn, whole or one turn at a time, and long ones in parts.

Rows of files are read here; questions about them are made elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, NamedTuple

from text_gym.chat import Talk, as_talk, transcript
from text_gym.errors import DataError, PromptError, UnknownNameError, excerpt


class ShownTurn(NamedTuple):
    """What is shown at once of one turn.

    Args:
        role: Who speaks.
        text: The words, or some of them.
        goes_on: They begin in the middle of the turn.
    """

    role: str
    text: str
    goes_on: bool


def parts_of(talk: Talk, start: int, size: int) -> tuple[list[ShownTurn], int, int]:
    """Return the part of a conversation from a character on, its end, and the characters left after it.

    White space around turns is not shown, and does not count.

    >>> shown, end, left = parts_of((("user", "Hello"), ("assistant", "Hi")), 2, 4)
    >>> [tuple(turn) for turn in shown], end, left
    ([('user', 'llo', True), ('assistant', 'H', False)], 6, 1)
    """
    parts, begin = [], 0
    for role, said in talk:
        said = said.strip()
        first, last = max(start - begin, 0), start + size - begin
        if (first < len(said) or first == 0) and last > 0:
            parts.append(ShownTurn(role, said[first:last], first > 0))
        begin += len(said)
    end = min(start + size, begin)
    return parts, end, begin - end


@dataclass(frozen=True)
class Spoken:
    """A prompt and what was said after it, as texts and, in a conversation, as turns.

    Args:
        prompt: What the policy read.
        completion: What was written.
        asked: The turns of the prompt; empty for single texts.
        said: The turns of the completion.
        exact: The turns of the completion are its parts, one after the other.
    """

    prompt: str
    completion: str
    asked: Talk = ()
    said: Talk = ()
    exact: bool = False

    @classmethod
    def of_talk(cls, asked: Talk, said: Talk) -> Spoken:
        """Make one of turns alone; the texts are those of `text_gym.chat.transcript`."""
        return cls(*transcript(asked, said), asked, said)

    def each_turn(self) -> Iterator[Spoken]:
        """Return each turn of the assistant's, with the conversation up to there as its prompt."""
        if not self.said:
            yield self
        before = self.prompt
        for i, (role, text) in enumerate(self.said):
            if role == "assistant":
                asked = (*self.asked, *self.said[:i])
                said = ((role, text),)
                yield Spoken(before, text, asked, said, True) if self.exact else Spoken.of_talk(asked, said)
            before += text


def spoken_in(row: Mapping[str, Any], prompt: str, where: str) -> list[Spoken]:
    """Read the texts or conversations of a row: of a transcript, of TRL's columns, or plain.

    Args:
        row: Has a prompt, and a completion, a list of completions, or chosen and rejected; each a text or a
            list of messages. Or it has whole conversations: `messages`, or chosen and rejected alone.
        prompt: Column of the prompts.
        where: For errors.

    Raises:
        UnknownNameError: A column is missing.
        DataError: What there is cannot be used.
    """
    try:
        if prompt in row and isinstance(row[prompt], str):
            return _after_text(row, row[prompt], where)
        written = _completions(row) or ([row["messages"]] if "messages" in row else [])
        if not written or (prompt not in row and not all(isinstance(w, (list, tuple)) for w in written)):
            missing = "completion" if prompt in row else prompt
            raise UnknownNameError(f"column ({where})", missing, [str(k) for k in row])
        if prompt in row:
            asked = as_talk(row[prompt])
            return [Spoken.of_talk(asked, _reply(w)) for w in written]
        talks = [as_talk(w) for w in written]
        asked = _shared_beginning(talks)
        return [Spoken.of_talk(asked, talk[len(asked) :]) for talk in talks]
    except PromptError as error:
        raise DataError(f"{where}: {error}") from error


def _after_text(row: Mapping[str, Any], prompt: str, where: str) -> list[Spoken]:
    """Read what was said after a prompt that is a text."""
    written = _completions(row)
    if not written:
        raise UnknownNameError(f"column ({where})", "completion", [str(k) for k in row])
    if any(isinstance(w, (list, tuple)) for w in written):
        return [Spoken.of_talk((("user", prompt),), _reply(w)) for w in written]
    if not all(isinstance(w, str) for w in written):
        raise DataError(f"{where}: prompt and completions must be texts, or lists of messages")
    if "completion" not in row or not (row.get("turns") or row.get("messages")):
        return [Spoken(prompt, w) for w in written]
    turns = row.get("turns") or [{"role": "assistant", "text": row["completion"]}]
    exact = isinstance(turns, list) and all(isinstance(t, Mapping) and "said" in t for t in turns)
    try:
        said = as_talk([{"role": t["role"], "content": t["said" if exact else "text"]} for t in turns])
    except (TypeError, KeyError) as error:
        raise DataError(f"{where}: turns is {excerpt(repr(turns))}, no list of turns") from error
    asked: Talk = as_talk(row["messages"])[: -len(said)] if row.get("messages") else (("user", prompt),)
    if not asked or (exact and "".join(text for _, text in said) != row["completion"]):
        raise DataError(f"{where}: the turns are not those of prompt and completion")
    return [Spoken(prompt, row["completion"], asked, said, exact)]


def _completions(row: Mapping[str, Any]) -> Sequence[Any]:
    if isinstance(row.get("completions"), list):
        return list(row["completions"])
    if "chosen" in row and "rejected" in row:
        return [row["chosen"], row["rejected"]]
    return [row["completion"]] if "completion" in row else []


def _reply(value: Any) -> Talk:
    """Read what was said after a conversation: messages, or the text of one."""
    return (("assistant", value),) if isinstance(value, str) else as_talk(value)


def _shared_beginning(talks: Sequence[Talk]) -> Talk:
    """Return the turns that whole conversations have in common, up to a turn of the assistant's.

    Of a single conversation, those before the assistant's first turn.

    Raises:
        PromptError: Nothing is left that was said after it.
    """
    same = [turns[0] for turns in takewhile(lambda t: len(set(t)) == 1, zip(*talks, strict=False))]
    replies = [i for i, (role, _) in enumerate(talks[0]) if role == "assistant" and i <= len(same)]
    if not replies or not replies[0]:
        raise PromptError("the conversation has no turn of the assistant's after somebody else's")
    found = talks[0][: replies[0] if len(talks) == 1 else replies[-1]]
    if any(len(talk) <= len(found) or talk[len(found)][0] != "assistant" for talk in talks):
        raise PromptError("the conversations differ before a turn of the assistant's")
    return found
