"""Respondents answer the agent in a conversation: simulated users, tools, games, teachers.

What a reply does to an episode is said here; how it gets into the token buffer is `envs/conversation.py`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, overload, runtime_checkable

import numpy as np

from .episode import Episode
from .errors import ConfigError, RespondentError, TokenError, excerpt

LARGEST_REWARD = float(np.finfo(np.float32).max)
_NUMBERS = int, float, np.floating, np.integer
REPLY_ROOM = 32  # tokens a turn, where `max_context` does not say how long a conversation may become


@dataclass(frozen=True, init=False)
class Reply:
    """What the environment says to the turn that the agent has just ended.

    Args:
        text: A text, or token ids. It is appended as token ids after what the agent wrote, which is never
            tokenised again. After prompts that are `messages` the model's chat template writes around it;
            after prompts that are texts it stands as it is, so that separators are the respondent's own. An
            empty one adds nothing: the agent goes on writing.
        reward: Paid on the last token of the turn that is replied to.
        ends: The environment ends the episode (`terminated`); the text is appended all the same.
        role: "user" or "tool", which is how a chat template renders it.
    """

    text: str | Sequence[int]
    reward: float
    ends: bool
    role: str

    def __init__(
        self, text: str | Sequence[int], reward: float = 0.0, ends: bool = False, role: str = "user"
    ) -> None:
        fields = self.__dict__  # a frozen dataclass would set each of them by a call of its own
        fields["text"], fields["reward"], fields["ends"], fields["role"] = text, reward, ends, role


@runtime_checkable
class Respondent(Protocol):
    """Answers agents' turns, many at a time.

    It is a pure function of what it is given: it keeps no notes between calls, since episodes come in any
    order and number, and a run that is resumed must hear the same replies. What it has to remember it reads
    from the episode (`episode.turns`, `episode.prompt.columns`) or draws again with `reply_generator`.

    >>> class Echo:
    ...     def respond(self, episodes, generators):
    ...         return [Reply(f" You said: {e.turns[-1].text}.") for e in episodes]
    >>> isinstance(Echo(), Respondent)
    True
    """

    def respond(
        self, episodes: Sequence[Episode], generators: Sequence[np.random.Generator]
    ) -> Sequence[Reply]:
        """Return a reply to each episode's last turn.

        Args:
            episodes: The `n` episodes whose turn just ended, as they stand: `turns[-1]` is the agent's.
            generators: `n` sources of randomness, each a function of its episode's stream, number and turn.

        Returns:
            `n` replies in the same order.
        """
        ...


class ReplyWithin:
    """Gives a respondent so much time for each call; one that takes longer fails by name.

    The call that hangs goes on in a thread of its own, since nothing in Python can end it; what may hang for
    ever and often belongs into a process (`text_gym.utils.sandbox`).

    Args:
        respondent: Whoever answers.
        seconds: For each call, however many episodes it is about.

    Raises:
        ConfigError: `seconds` is not positive.
    """

    def __init__(self, respondent: Respondent, seconds: float) -> None:
        if not seconds > 0:
            raise ConfigError(f"seconds is {seconds!r}; it must be positive")
        self.respondent, self.seconds = respondent, seconds

    def respond(
        self, episodes: Sequence[Episode], generators: Sequence[np.random.Generator]
    ) -> Sequence[Reply]:
        """Implement `Respondent`.

        Raises:
            RespondentError: It took too long.
        """
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def work() -> None:
            try:
                answers.put(self.respondent.respond(episodes, generators))
            except BaseException as error:
                answers.put(error)

        name = type(self.respondent).__name__
        threading.Thread(target=work, name=name, daemon=True).start()
        try:
            found = answers.get(timeout=self.seconds)
        except queue.Empty:
            raise RespondentError(f"{name} took longer than {self.seconds:g} s") from TimeoutError(name)
        if isinstance(found, BaseException):
            raise found
        replies: Sequence[Reply] = found
        return replies


def reply_generator(episode: Episode, turn: int) -> np.random.Generator:
    """Return the generator of an episode's turn, the same whenever it is asked for.

    A secret that holds for a whole episode is drawn from that of turn 0, by which nobody is answered.

    Args:
        episode: An episode of a stream.
        turn: Number of the agent's turn, from 1 on.
    """
    return turn_generator(episode.seed or 0, episode.index or 0, turn)


def turn_generator(seed: int, index: int, turn: int) -> np.random.Generator:
    """Return the generator of turn `turn` of episode `index` in the stream of `seed`.

    Philox (Salmon et al. 2011) with the key (seed, index), as the noise of sampling has, and the turn in the
    counter's highest word, which that noise leaves at 0.
    """
    key = np.array([seed & (2**64 - 1), index], dtype=np.uint64)
    counter = np.array([0, 0, 0, turn + 1], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


class TurnGenerators(Sequence[np.random.Generator]):
    """The generators of episodes' turns, each made when it is asked for, since many respondents draw nothing.

    Args:
        episodes: The `n` episodes whose turn just ended.
        turns: The numbers of these turns.
    """

    def __init__(self, episodes: Sequence[Episode], turns: Sequence[int]) -> None:
        self._episodes, self._turns = episodes, turns
        self._made: dict[int, np.random.Generator] = {}

    def __len__(self) -> int:
        return len(self._turns)

    @overload
    def __getitem__(self, index: int) -> np.random.Generator: ...

    @overload
    def __getitem__(self, index: slice) -> list[np.random.Generator]: ...

    def __getitem__(self, index: int | slice) -> np.random.Generator | list[np.random.Generator]:
        places = range(len(self._turns))[index]
        if not isinstance(places, int):
            return [self[place] for place in places]
        if places not in self._made:
            self._made[places] = reply_generator(self._episodes[places], self._turns[places])
        return self._made[places]


def reply_room(max_tokens: int, prompt_tokens: int, max_turns: int | None, max_context: int | None) -> int:
    """Return the most tokens that agent and environment write in an episode together.

    Args:
        max_tokens: The most that the agent writes.
        prompt_tokens: `P`, the room for a prompt.
        max_turns: The most turns that the agent has, if there is such a limit.
        max_context: The most tokens of prompt and conversation, if there is such a limit.

    Raises:
        ConfigError: A conversation could go on for ever.
    """
    if max_context is not None:
        return max_context - prompt_tokens
    if max_turns is None:
        raise ConfigError(
            "with a respondent, pass max_turns, the most turns that the agent has, or max_context, the most "
            "tokens of prompt and conversation together"
        )
    return max_tokens + REPLY_ROOM * max_turns


def reply_ids(episode: Episode, reply: Reply) -> list[int]:
    """Return the ids of a reply to an episode's last turn, with what the chat template writes around it.

    Raises:
        TokenError: The vocabulary has no such tokens.
        PromptError: The chat template refuses the reply, or rewrites what was said before.
    """
    tokenizer = episode.tokenizer
    if not isinstance(reply.text, str):
        ids = list(map(int, reply.text))
        if ids and not 0 <= min(ids) <= max(ids) < tokenizer.vocab_size:
            wrong = next(i for i in ids if not 0 <= i < tokenizer.vocab_size)
            raise TokenError(f"id {wrong} is outside [0, {tokenizer.vocab_size})")
        return ids
    chat = episode.prompt.chat_template(tokenizer)
    if chat is None or not reply.text:
        return tokenizer.encode(reply.text)
    *earlier, own = episode.turns
    messages = [*episode.prompt.messages, *({"role": t.role, "content": t.text} for t in earlier)]
    closed = int(own.ids[-1]) == chat.end_of_turn
    said = {"role": reply.role, "content": reply.text}
    return chat.encode_answer(messages, own.text, said, closed=closed, go_on=not reply.ends)


def checked_reply(reply: Any, name: str) -> Reply:
    """Return a reply of a form that can be appended.

    Args:
        reply: What a respondent returned for one episode.
        name: The respondent, for the error.

    Raises:
        RespondentError: It is none, or one of its fields is of another type; the field is named.
    """
    if not isinstance(reply, Reply):
        raise RespondentError(f"{name} answered with {_shown(reply)}; it must return Reply objects")
    text, reward = reply.text, reply.reward
    if not (isinstance(text, str) or _are_ids(text)):
        raise RespondentError(f"{name}: Reply.text is {_shown(text)}, neither a text nor token ids")
    if not isinstance(reward, _NUMBERS) or isinstance(reward, bool) or not abs(reward) <= LARGEST_REWARD:
        raise RespondentError(
            f"{name}: Reply.reward is {_shown(reward)}, not a finite number up to {LARGEST_REWARD:.2g}"
        )
    if not isinstance(reply.ends, (bool, np.bool_)):
        raise RespondentError(f"{name}: Reply.ends is {_shown(reply.ends)}, not True or False")
    if reply.role not in ("user", "tool"):
        raise RespondentError(f'{name}: Reply.role is {_shown(reply.role)}; it must be "user" or "tool"')
    return reply


def _are_ids(found: Any) -> bool:
    if isinstance(found, list) and [*map(type, found)].count(int) == len(found):
        return True
    if isinstance(found, (bytes, bytearray)):  # an output that nobody decoded, and no ids
        return False
    try:
        ids = [int(i) for i in found]
        return all(i == j and not isinstance(j, bool) for i, j in zip(ids, found, strict=True))
    except (TypeError, ValueError):
        return False


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {excerpt(repr(value))}"
