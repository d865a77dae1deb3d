"""Prompt, Turn and Episode: what was asked, and what was written.

An `Episode` holds no reward of its source: that is somebody's opinion of it, and one episode may get many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from .chat import ChatTemplate, Messages, Talk, as_messages, as_talk, chat_of
from .errors import PromptError, TextGymError, TokenError, excerpt
from .showing import as_html
from .tokenizer import Tokenizer

FloatArray = npt.NDArray[np.float64]

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
FinishReason: TypeAlias = Literal["eos", "stop", "length", "reply"]


@dataclass(frozen=True)
class Prompt:
    """A prompt's text, and whatever else a reward needs to know about it.

    Args:
        text: What the policy reads.
        columns: References, attributes, answers …; rewards receive them by name.
        id: A name for logs and splits; the text itself where none is given.
        messages: The conversation that the text is a rendering of; `from_messages` makes such prompts.

    Raises:
        PromptError: The text is no string, or the columns have no names.
    """

    text: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""
    messages: Messages = ()

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise PromptError(f"a prompt's text is {excerpt(repr(self.text))}; it must be a string")
        if not isinstance(self.columns, Mapping):
            raise PromptError(
                f"a prompt's columns are {excerpt(repr(self.columns))}; they must be a dict, such as "
                "{'answer': ...}"
            )
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

    @property
    def talk(self) -> Talk:
        """The prompt as people are shown it: its messages, or the text as what the user says."""
        return as_talk(self.messages) if self.messages else (("user", self.text),)

    def encode(self, tokenizer: Tokenizer) -> list[int]:
        """Return the prompt's ids: of its messages where the tokenizer renders them, else of its text."""
        chat = self.chat_template(tokenizer)
        return tokenizer.encode(self.text) if chat is None else chat.encode(self.messages)

    def encode_completion(self, completion: str, tokenizer: Tokenizer) -> list[int]:
        """Return the ids of a whole completion, with the EOS that the model writes after it, if it has one.

        After messages that is the end of the turn, and the template may write around the completion.
        """
        chat = self.chat_template(tokenizer)
        eos = list(tokenizer.eos_ids[:1])
        if chat is None:
            return tokenizer.encode(completion) + eos
        ids = chat.encode_reply(self.messages, completion)
        end = next((i for i, token in enumerate(ids) if token in tokenizer.eos_ids), None)
        return ids + eos if end is None else ids[: end + 1]

    def chat_template(self, tokenizer: Tokenizer) -> ChatTemplate | None:
        """Return the tokenizer's chat template, if it renders the prompt's messages to its very text."""
        chat: ChatTemplate | None = getattr(tokenizer, "chat", None)
        if not self.messages or chat is None or chat.render(self.messages) != self.text:
            return None
        return chat


@dataclass(frozen=True, init=False)
class Turn:
    """One turn of a conversation: what the agent or the environment wrote before the other one's turn came.

    Args:
        role: Who wrote it: "assistant" is the agent; a reply's role is its respondent's, "user" or "tool".
        text: The text, without what ended the turn and without the chat template's own tokens.
        ids: `(n,)` int64, all tokens that stand for it, those of the chat template included.
        reward: What the environment's reply paid on the last token of this turn, if the agent wrote it.
    """

    role: str
    text: str
    ids: IntArray
    reward: float = 0.0

    def __init__(self, role: str, text: str, ids: IntArray, reward: float = 0.0) -> None:
        self.__dict__.update(role=role, text=text, ids=ids, reward=reward)

    @classmethod
    def packed(cls, role: str, text: str | Callable[[list[int]], str], ids: bytes) -> Turn:
        """Make a turn of which only what somebody reads is made: conversations have many.

        Args:
            role: As for the class.
            text: Likewise, or what decodes ids.
            ids: The bytes of the array.
        """
        turn = object.__new__(cls)
        fields = turn.__dict__
        fields["role"], fields["_ids"] = role, ids
        fields["text" if isinstance(text, str) else "_decode"] = text
        return turn

    def paid(self, reward: float) -> Turn:
        """Return the turn with another reward."""
        turn = object.__new__(Turn)
        turn.__dict__.update(self.__dict__, reward=reward)
        return turn

    def __reduce__(self) -> tuple[Any, ...]:
        return Turn, (self.role, self.text, self.ids, self.reward)

    if not TYPE_CHECKING:  # to a type checker, all names would be attributes

        def __getattr__(self, name: str) -> Any:
            """Make what was only packed, once somebody reads it."""
            fields = self.__dict__
            if name == "ids" and "_ids" in fields:
                fields[name] = unpacked(fields["_ids"])
            elif name == "text" and "_decode" in fields:
                fields[name] = fields["_decode"](memoryview(fields["_ids"]).cast("q").tolist())
            else:
                raise AttributeError(f"'Turn' object has no attribute {name!r}")
            return fields[name]


def unpacked(ids: bytes) -> IntArray:
    """Return an array of ids from its bytes."""
    return np.frombuffer(ids, dtype=np.int64).copy()


def turns_of(ids: IntArray, parts: Iterable[tuple[str, str, int, float]]) -> tuple[Turn, ...]:
    """Return the turns that completion ids `(T,)` consist of, by role, text, number of tokens and reward.

    >>> parts = [("assistant", "a", 2, 0.5), ("user", "b", 1, 0.0)]
    >>> [turn.ids.tolist() for turn in turns_of(np.arange(3), parts)]
    [[0, 1], [2]]
    """
    turns, begin = [], 0
    for role, text, length, reward in parts:
        turns.append(Turn(role, text, ids[begin : begin + length], reward))
        begin += length
    return tuple(turns)


@dataclass(frozen=True, repr=False)
class Episode:
    """One prompt with one completion, finished or, for stepwise rewards, so far.

    Args:
        prompt: The prompt.
        prompt_ids: `(P,)` int64, the prompt's tokens.
        completion_ids: `(T,)` int64, the tokens generated, EOS included when it was.
        tokenizer: What the ids belong to.
        finish_reason: Why it ended: "eos", "stop" (a stop string), "length" (cut at the token limit, so
            that the text may be torn, or at a conversation's limit of turns or context) or "reply" (a
            respondent's reply ended it); None while it runs.
        stop: The stop string it ended with, if any; `completion` leaves it out.
        agent_mask: `(T,)` bool, False where the environment and not the agent wrote the token;
            None means that every token is the agent's.
        seed: Seed of the stream of episodes it came from.
        index: Number of the episode in that stream (`k`).
        turns: The turns of a conversation, the agent's and the environment's; empty where no environment
            answers.
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
    turns: tuple[Turn, ...] = ()

    def __repr__(self) -> str:
        ended = self.finish_reason or "running"
        texts = f"{excerpt(self.prompt.text.strip(), 40)} -> {excerpt(self.completion, 60)}"
        return f"Episode({texts}, {len(self.completion_ids)} tokens, {ended})"

    def _repr_html_(self) -> str:
        return as_html(self)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Make what a batch has only packed, since its episodes are asked for at every turn."""
            fields = self.__dict__
            if name in ("prompt_ids", "completion_ids") and "_ids" in fields:
                ids, start = unpacked(fields["_ids"]), fields["_start"]
                fields["prompt_ids"], fields["completion_ids"] = ids[:start], ids[start:]
            elif name == "agent_mask" and "turns" in fields:
                own = [turn.role == "assistant" for turn in self.turns for _ in turn.ids]
                fields[name] = np.array(own, dtype=np.bool_)
            else:
                raise AttributeError(f"'Episode' object has no attribute {name!r}")
            return fields[name]

    @property
    def completion(self) -> str:
        """The text after the prompt, replies included, without EOS and the stop string; decoded once."""
        text: str | None = self.__dict__.get("completion")
        if text is None:
            text = self.__dict__["completion"] = self._decode()
        return text

    @property
    def decoded(self) -> str | None:
        """`completion`, if it has been decoded; else None."""
        return self.__dict__.get("completion")

    def know(self, completion: str) -> None:
        """Take `completion` from another process, which has decoded the same ids."""
        self.__dict__["completion"] = completion

    def _decode(self) -> str:
        ids = self.completion_ids.tolist()
        if ids and ids[-1] in self.tokenizer.eos_ids:  # not every tokenizer leaves out each of its EOS ids
            del ids[-1]
        text = decode_ids(self.tokenizer, ids)
        # The environment's turns may hold what would have ended the agent's.
        earlier = self.completion_ids[: -len(self.turns[-1].ids)].tolist() if self.turns else []
        begin = len(decode_ids(self.tokenizer, earlier)) if self.stop and earlier else 0
        return text[: text.find(self.stop, begin)] if self.stop and self.stop in text[begin:] else text

    @property
    def turn_texts(self) -> list[str]:
        """The completion in parts, one for each turn, with what ended the turn; together they are all of it.

        `Turn.text` leaves out a string that ends turns, which in some tasks is all that the agent said.
        """
        ends, count = [], 0
        for turn in self.turns[:-1]:
            count += len(turn.ids)
            ends.append(len(decode_ids(self.tokenizer, self.completion_ids[:count].tolist())))
        whole = self.completion
        borders = [0, *ends, len(whole)] if self.turns else []
        return [whole[begin:end] for begin, end in pairwise(borders)]

    @property
    def talk(self) -> Talk:
        """The turns of the completion as people are shown them; a single one where nobody answers."""
        if not self.turns:
            return (("assistant", self.completion),)
        texts = [t.text for t in self.turns] if self.prompt.messages else self.turn_texts
        return tuple((turn.role, text) for turn, text in zip(self.turns, texts, strict=True))

    @property
    def messages(self) -> list[Mapping[str, str]]:
        """The conversation with the assistant's reply, or with all turns; empty if the prompt is a text."""
        messages = self.prompt.messages
        written = [(turn.role, turn.text) for turn in self.turns] or [("assistant", self.completion)]
        return [*messages, *({"role": r, "content": text} for r, text in written)] if messages else []

    @property
    def done(self) -> bool:
        """True if the episode is over."""
        return self.finish_reason is not None

    @property
    def agent_ids(self) -> IntArray:
        """The tokens that the agent wrote, `(n,)` int64: all but those of an environment's replies."""
        return self.completion_ids if self.agent_mask is None else self.completion_ids[self.agent_mask]

    @property
    def agent_turns(self) -> int:
        """The number of turns that the agent wrote, or began to write."""
        return sum(turn.role == "assistant" for turn in self.turns) if self.turns else 1

    @property
    def whole(self) -> bool:
        """True if the text ended by itself, by EOS, a stop string or a reply, and was not cut."""
        return self.finish_reason in ("eos", "stop", "reply")

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


del Episode.agent_mask  # a default of the class would be found where `__getattr__` is to make the mask


def share_cut(episodes: Sequence[Episode]) -> float:
    """Return the share of episodes cut at the token limit, in [0, 1]."""
    return sum(e.finish_reason == "length" for e in episodes) / len(episodes)


def word_counts(episodes: Sequence[Episode]) -> FloatArray:
    """Count the words of each completion, separated by white space: `(n,)`."""
    return np.array([len(e.completion.split()) for e in episodes], dtype=np.float64)


# Of SplitMix64, the hash that chooses prompts.
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def stream_keys(seeds: IntArray) -> npt.NDArray[np.uint64]:
    """Hash seeds to stream keys, `(n,)` uint64, so that neighbouring seeds have unrelated streams."""
    return hash64(seeds.astype(np.uint64))


def hash64(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea & Flood 2014): a stateless, vectorised hash of 64-bit integers."""
    z = x + _GAMMA
    z = (z ^ (z >> _SHIFTS[0])) * _FACTORS[0]
    z = (z ^ (z >> _SHIFTS[1])) * _FACTORS[1]
    return z ^ (z >> _SHIFTS[2])


def decode_ids(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Decode ids.

    Raises:
        TokenError: The tokenizer cannot, or returns no string; one of the user's own may do either.
    """
    try:
        text = tokenizer.decode(ids)
    except TextGymError:
        raise
    except Exception as error:
        raise TokenError(
            f"{type(tokenizer).__name__} cannot decode {excerpt(repr(list(ids)))}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(text, str):
        raise TokenError(f"{type(tokenizer).__name__}.decode returned {excerpt(repr(text))}, not a string")
    return text
