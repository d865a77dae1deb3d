"""Conversation: the turns of a batch's episodes, in which an environment answers the agent.

Replies are written into the batch's buffers as token ids behind what the agent wrote; nothing is ever
tokenised again. Who replies is said in `text_gym.respondents`; what a token is worth is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from text_gym.episode import BoolArray, Episode, IntArray, Turn
from text_gym.errors import ConfigError, RespondentError, TextGymError, TokenError, excerpt
from text_gym.respondents import Reply, TurnGenerators, checked_reply, reply_room
from text_gym.rewards.source import RewardSource
from text_gym.rewards.values import Rewards
from text_gym.tokenizer import Tokenizer
from text_gym.utils.user_code import where_raised

from .options import EpisodeOptions


class Conversation:
    """The turns in each of `B` rows, and what becomes of an episode when one ends.

    A turn ends with the chat template's end-of-turn id or a string of `turn_stop`; where there is neither,
    with EOS. Then the respondent is asked, about all episodes whose turn ended in this step at once.

    Args:
        options: The batch's; they have a respondent.
        tokenizer: Encodes replies.
        tokens: `(B, P + C)` int64, the batch's buffer; the arrays that follow are the batch's too.
        attention_mask: `(B, P + C)` int8.
        starts: `(B,)` int64, where completions begin.
        lengths: `(B,)` int64, prompt and completion together.
        remaining: `(B,)` int64, tokens that the agent may still write.
        room: `C`, the most tokens of agent and environment together.

    Attributes:
        agent: `(B, P + C)` bool, True where the agent wrote the token.
        turn_starts: `(B,)` int64, where the agent's running turn begins.
        turns: The turns of each row that are over …
        spoken: … and `(B,)` int64, how many of them are the agent's.
        rewards: `(B,)` float64, what replies paid for the newest tokens.
        paid: `(B,)` float64, what replies paid for earlier tokens of the running episode.
        dropped: `(B,)` bool, episodes that ended since nobody answered, under `on_bad_reply="drop"`.
        truncated: `(B,)` bool, those, and under `limit="truncate"` those that a limit cut: they are not paid.

    Raises:
        ConfigError: Nothing would end a turn.
    """

    def __init__(
        self,
        options: EpisodeOptions,
        tokenizer: Tokenizer,
        tokens: IntArray,
        attention_mask: Any,
        starts: IntArray,
        lengths: IntArray,
        remaining: IntArray,
        room: int,
    ) -> None:
        assert options.respondent is not None
        self.options, self.tokenizer, self.respondent = options, tokenizer, options.respondent
        self.name = type(self.respondent).__name__
        self.tokens, self.attention_mask, self.room = tokens, attention_mask, room
        self.starts, self.lengths, self.remaining = starts, lengths, remaining
        n = len(tokens)
        self.agent: BoolArray = np.zeros(tokens.shape, dtype=np.bool_)
        self.turn_starts = np.ones(n, dtype=np.int64)
        self.turns: list[tuple[Turn, ...]] = [()] * n
        self.spoken = np.zeros(n, dtype=np.int64)
        self.rewards, self.paid = np.zeros(n), np.zeros(n)
        self.dropped, self.truncated = np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
        self._ended_by_reply = np.zeros(n, dtype=np.bool_)
        self.end_ids = turn_end_ids(tokenizer, options)
        self._is_end = np.zeros(tokenizer.vocab_size, dtype=np.bool_)
        self._is_end[list(self.end_ids)] = True
        self._silent = {*self.end_ids, *tokenizer.eos_ids}
        self._stops = options.turn_stop_strings
        self._last_chars = {stop[-1] for stop in self._stops}
        # A stop string may begin inside a token and a character may take four byte tokens.
        self._window = 4 * max(map(len, self._stops), default=0) + 8
        self._may_stop = np.full(tokenizer.vocab_size, -1, dtype=np.int8)  # 1, 0, or -1: not looked at yet
        joint = getattr(tokenizer, "separator", "")
        if any(char.isspace() or char in joint for char in self._last_chars):
            self._may_stop[:] = 1  # what stands between tokens may complete it

    def begin(self, rows: IntArray) -> None:
        """Begin conversations in these rows, `(n,)` int64."""
        self.turn_starts[rows] = self.starts[rows]
        self.spoken[rows] = 0
        self.agent[rows] = False
        self.rewards[rows] = self.paid[rows] = 0.0
        self.truncated[rows] = self.dropped[rows] = self._ended_by_reply[rows] = False
        for row in rows.tolist():
            self.turns[row] = ()

    def go_on(
        self,
        rows: IntArray,
        tokens: IntArray,
        ended: BoolArray,
        cut: BoolArray,
        episodes: Callable[..., list[Episode]],
    ) -> list[RespondentError]:
        """Take note of a token in each row; where it ends a turn, append the reply.

        Args:
            rows: `(n,)` int64.
            tokens: `(n,)` int64, which stand in the buffer already.
            ended: `(n,)` bool, changed in place: the episode is over.
            cut: `(n,)` bool, changed in place: it is so by a limit.
            episodes: `EpisodeBatch.episodes`.

        Returns:
            The errors of the respondent that are to be raised; their episodes are over, and the others have
            their replies.
        """
        errors = self._reply(rows, tokens, ended, cut, episodes)
        if np.count_nonzero(ended):
            unpaid = cut if self.options.limit == "truncate" else False
            self.truncated[rows] = self.dropped[rows] | unpaid
        return errors if self.options.on_bad_reply == "raise" else []

    def _reply(
        self,
        rows: IntArray,
        tokens: IntArray,
        ended: BoolArray,
        cut: BoolArray,
        episodes: Callable[..., list[Episode]],
    ) -> list[RespondentError]:
        """Have turns that ended replied to; return the errors of the respondent."""
        self.paid[rows] += self.rewards[rows]
        self.rewards[rows] = 0.0
        self.agent[rows, self.lengths[rows] - 1] = True
        over = self._is_end[tokens]
        if self._stops:
            self._find_stops(rows, tokens, over)
        over &= ~ended | cut
        places = np.flatnonzero(over)
        if not len(places):
            return []
        asked = rows[places]
        self._close_turns(asked)
        speaking = episodes(asked, running=True)
        replies, errors = self._replies(speaking, self.spoken[asked].tolist())
        # What the limit says is decided anew: a last turn is answered, whatever room there is left.
        by_reply, cut[places] = self._answer(asked, speaking, replies, errors)
        ended[places] = by_reply | cut[places]
        return errors

    def complete(self, episodes: Sequence[Episode], rows: IntArray) -> None:
        """Tell episodes of rows `(n,)` who wrote what, and of a reply that ended them."""
        columns = (self.starts, self.turn_starts, self.lengths, self._ended_by_reply)
        for episode, row, start, begin, end, by_reply in zip(
            episodes, rows.tolist(), *(column[rows].tolist() for column in columns), strict=True
        ):
            fields, turns = episode.__dict__, self.turns[row]
            if end > begin:
                ids = self.tokens[row, begin:end].copy()
                turns = (*turns, Turn("assistant", self._text(ids, episode.stop), ids))
            fields["turns"] = turns
            fields["agent_mask"] = self.agent[row, start:end].copy()
            if by_reply and episode.finish_reason == "eos":
                fields["finish_reason"] = "reply"

    # The turn that ends

    def _find_stops(self, rows: IntArray, tokens: IntArray, over: BoolArray) -> None:
        """Mark rows whose running turn now holds a stop string of turns."""
        # Only a token with the last character of a stop string completes one, or a part of a character.
        for token in set(tokens[self._may_stop[tokens] < 0].tolist()):
            text = self.tokenizer.decode([token])
            self._may_stop[token] = "\ufffd" in text or not self._last_chars.isdisjoint(text)
        places = np.flatnonzero((self._may_stop[tokens] > 0) & ~over)
        found = rows[places]
        ends = self.lengths[found]
        begins = np.maximum(self.turn_starts[found], ends - self._window)
        for place, row, begin, end in zip(*(x.tolist() for x in (places, found, begins, ends)), strict=True):
            text = self.tokenizer.decode(self.tokens[row, begin:end].tolist())
            over[place] = any(stop in text for stop in self._stops)

    def _close_turns(self, rows: IntArray) -> None:
        ends = self.lengths[rows]
        for row, begin, end in zip(*(x.tolist() for x in (rows, self.turn_starts[rows], ends)), strict=True):
            ids = self.tokens[row, begin:end].copy()
            self.turns[row] += (Turn("assistant", self._text(ids), ids),)
        self.turn_starts[rows] = ends
        self.spoken[rows] += 1

    def _text(self, ids: IntArray, stop: str = "") -> str:
        """Return the text of an agent's turn, without what ended it."""
        listed = ids.tolist()
        if listed and listed[-1] in self._silent:
            del listed[-1]
        text = self.tokenizer.decode(listed)
        ends = [text.find(s) for s in ((stop,) if stop else self._stops) if s in text]
        return text[: min(ends)] if ends else text

    # The reply

    def _replies(
        self, episodes: list[Episode], turns: list[int]
    ) -> tuple[list[Reply | None], list[RespondentError]]:
        """Ask the respondent; where it raises, ask about one episode after the other, to spare the rest."""
        replies: list[Reply | None] = []
        errors: list[RespondentError] = []
        try:
            found = self._ask(episodes, turns)
        except RespondentError as error:
            if len(episodes) == 1 or error.__cause__ is None:
                return [None] * len(episodes), [error]
            for episode, turn in zip(episodes, turns, strict=True):
                reply, failed = self._replies([episode], [turn])
                replies, errors = replies + reply, errors + failed
            return replies, errors
        for reply in found:
            try:
                replies.append(checked_reply(reply, self.name))
            except RespondentError as error:
                replies.append(None)
                errors.append(error)
        return replies, errors

    def _ask(self, episodes: list[Episode], turns: list[int]) -> list[Any]:
        """Return what the respondent replies to each episode's turn of these numbers.

        Raises:
            RespondentError: It raised, or returned something else than one reply per episode.
        """

        def about() -> str:
            return f"turn {turns[0]} of {len(episodes)} episodes, the first one {_place(episodes[0])}"

        try:
            replies = list(self.respondent.respond(episodes, TurnGenerators(episodes, turns)))
        except (Exception, SystemExit) as error:
            raise RespondentError(
                f"{self.name} raised {type(error).__name__}: {error}{where_raised(error)} ({about()})"
            ) from error
        if len(replies) != len(episodes):
            raise RespondentError(
                f"{self.name} gave {len(replies)} replies to {len(episodes)} turns ({about()})"
            )
        return replies

    def _answer(
        self,
        rows: IntArray,
        episodes: list[Episode],
        replies: list[Reply | None],
        errors: list[RespondentError],
    ) -> tuple[BoolArray, BoolArray]:
        """Append the replies that there are; return which episodes they ended, and which a limit did."""
        begins = self.lengths[rows]
        left, ends = (self.starts[rows] + self.room - begins).tolist(), [False] * len(rows)
        for i, (row, begin, reply) in enumerate(zip(rows.tolist(), begins.tolist(), replies, strict=True)):
            ids = None if reply is None else self._usable_ids(episodes[i], reply, errors)
            if reply is None or ids is None:
                self.dropped[row] = True
                continue
            turns, ends[i] = self.turns[row], bool(reply.ends)
            if reply.reward:
                self.rewards[row] = reply.reward
                turns = (*turns[:-1], replace(turns[-1], reward=float(reply.reward)))
            left[i] -= len(ids)
            if ids and left[i] >= 0:
                end = begin + len(ids)
                array = np.array(ids, dtype=np.int64)
                self.tokens[row, begin:end] = array
                self.attention_mask[row, begin:end] = 1
                self.lengths[row] = end
                text = reply.text if isinstance(reply.text, str) else self.tokenizer.decode(ids)
                turns = (*turns, Turn(reply.role, text, array))
            self.turns[row] = turns
        self.turn_starts[rows] = self.lengths[rows]
        self.remaining[rows] = room = np.maximum(0, np.minimum(self.remaining[rows], left))
        self._ended_by_reply[rows] = by_reply = np.array(ends)
        at_limit = (room == 0) | self.dropped[rows]
        if self.options.max_turns is not None:
            at_limit |= self.spoken[rows] >= self.options.max_turns
        return by_reply, at_limit & ~by_reply

    def _usable_ids(self, episode: Episode, reply: Reply, errors: list[RespondentError]) -> list[int] | None:
        try:
            return reply_ids(episode, reply)
        except TextGymError as error:
            failed = RespondentError(
                f"{self.name}: the reply {excerpt(str(reply.text))} cannot be used: {error}"
            )
            failed.__cause__ = error
            errors.append(failed)
            return None


def reply_ids(episode: Episode, reply: Reply) -> list[int]:
    """Return the ids of a reply to an episode's last turn, with what the chat template writes around it.

    Raises:
        TokenError: The vocabulary has no such tokens.
        PromptError: The chat template refuses the reply, or rewrites what was said before.
    """
    tokenizer = episode.tokenizer
    if not isinstance(reply.text, str):
        ids = [int(i) for i in reply.text]
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


def with_turn_rewards(episodes: Sequence[Episode], scores: Rewards) -> Rewards:
    """Add what replies paid to the rewards of episodes, on the last token of the turn that each is for.

    An episode that nobody judged is worth 0 altogether.
    """
    if not any(episode.turns for episode in episodes):
        return scores
    paid = []
    for i, episode in enumerate(episodes):
        own = None if scores.per_token is None else scores.per_token[i]
        rewards, end = np.zeros(len(episode.completion_ids)) if own is None else own.copy(), 0
        for turn in () if scores.abstained[i] else episode.turns:
            end += len(turn.ids)
            rewards[end - 1] += turn.reward
        paid.append(rewards)
    return replace(scores, per_token=tuple(paid))


def completion_room(options: EpisodeOptions, max_tokens: int, max_prompt_tokens: int) -> int:
    """Return `C`, the most tokens of a completion, replies included; without a respondent that is `T`.

    Raises:
        ConfigError: A conversation could go on for ever.
    """
    if options.respondent is None:
        return max_tokens
    room = reply_room(max_tokens, max_prompt_tokens, options.max_turns, options.max_context)
    return room if options.context is None else min(room, options.context - max_prompt_tokens)


def check_no_token_rewards(reward: RewardSource) -> None:
    """Refuse a reward that is paid token by token: between turns it is the replies that pay.

    Raises:
        ConfigError: It is named.
    """
    if reward.causal:
        raise ConfigError(
            f"reward {reward.name!r} is paid token by token, which conversations have no place for; pay "
            "turns by Reply.reward, and the whole conversation by a reward at its end"
        )


def turn_end_ids(tokenizer: Tokenizer, options: EpisodeOptions) -> tuple[int, ...]:
    """Return the ids that end a turn: a chat template's own, or EOS where nothing else would.

    Raises:
        ConfigError: There are none, and no stop string of turns.
    """
    chat = getattr(tokenizer, "chat", None)
    if chat is not None and chat.end_of_turn is not None:
        return (int(chat.end_of_turn),)
    if options.turn_stop_strings:
        return ()
    if not tokenizer.eos_ids:
        raise ConfigError(
            "nothing ends a turn: the tokenizer has no EOS id; pass turn_stop, a string that does"
        )
    return tuple(tokenizer.eos_ids)


def _place(episode: Episode) -> str:
    return f"number {episode.index} of stream {episode.seed}"
