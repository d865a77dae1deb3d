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

NEVER, ENDS, MAYBE, UNKNOWN = range(4)  # what tokens do to a turn: MAYBE end it, by a stop string


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
        turn_starts: `(B,)` int64, where the agent's running turn begins.
        turns: The turns of each row that are over …
        spoken: … and how many of them are the agent's.
        rewards: `(B,)` float64, what replies paid for the newest tokens.
        paid: `(B,)` float64, what replies paid for earlier tokens of the running episode.
        dropped: `(B,)` bool, episodes that ended since nobody answered; `last_failure` says why.
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
        self._replied: BoolArray = np.zeros(tokens.shape, dtype=np.bool_)  # the environment wrote the token
        self.turn_starts = np.ones(n, dtype=np.int64)
        self.turns: list[tuple[Turn, ...]] = [()] * n
        self.spoken = [0] * n
        self.rewards, self.paid = np.zeros(n), np.zeros(n)
        self._paying = False  # True if one of `rewards` may not be 0
        self.last_failure = ""
        self.dropped, self.truncated = np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
        self._ended_by_reply = [False] * n
        self.end_ids = turn_end_ids(tokenizer, options)
        self._silent = {*self.end_ids, *tokenizer.eos_ids}
        self._stops = options.turn_stop_strings
        self._last_chars = {stop[-1] for stop in self._stops}
        # A stop string may begin inside a token and a character may take four byte tokens.
        self._window = 4 * max(map(len, self._stops), default=0) + 8
        self._effects = np.full(tokenizer.vocab_size, UNKNOWN if self._stops else NEVER, dtype=np.int8)
        joint = getattr(tokenizer, "separator", "")
        if any(char.isspace() or char in joint for char in self._last_chars):
            self._effects[:] = MAYBE  # what stands between tokens may complete it
        self._effects[list(self.end_ids)] = ENDS

    @property
    def agent(self) -> BoolArray:
        """The tokens that the agent wrote, `(B, P + C)` bool."""
        columns = np.arange(self.tokens.shape[1])
        written = (columns >= self.starts[:, None]) & (columns < self.lengths[:, None])
        return written & ~self._replied

    def begin(self, rows: IntArray) -> None:
        """Begin conversations in these rows, `(n,)` int64."""
        self.turn_starts[rows] = self.starts[rows]
        self._replied[rows] = False
        self.rewards[rows] = self.paid[rows] = 0.0
        self.truncated[rows] = self.dropped[rows] = False
        for row in rows.tolist():
            self.turns[row], self.spoken[row], self._ended_by_reply[row] = (), 0, False

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
        if errors:
            self.last_failure = str(errors[-1])
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
        if self._paying:
            self.paid[rows] += self.rewards[rows]
            self.rewards[rows] = 0.0
            self._paying = bool(self.rewards.any())
        may_end = self._effects[tokens].astype(np.bool_)  # NEVER is 0
        may_end &= ended == cut
        places = [
            place
            for place in may_end.nonzero()[0].tolist()
            if self._close_turn(rows.item(place), tokens.item(place))
        ]
        if not places:
            return []
        asking = rows[places]
        speaking, asked = episodes(asking, running=True), asking.tolist()
        replies, errors = self._replies(speaking, [self.spoken[row] for row in asked])
        for place, row, episode, reply in zip(places, asked, speaking, replies, strict=True):
            # What the limit says is decided anew: a last turn is answered, whatever room there is left.
            by_reply, cut[place] = self._answer(row, episode, reply, errors)
            ended[place] = by_reply or cut[place]
        return errors

    def complete(self, episode: Episode, row: int, start: int, end: int) -> None:
        """Tell the episode in these columns of a row who wrote what, and of a reply that ended it."""
        fields, turns, begin = episode.__dict__, self.turns[row], self.turn_starts.item(row)
        if end > begin:
            ids = self.tokens[row, begin:end].copy()
            turns = (*turns, Turn("assistant", self._text(ids.tolist(), episode.stop), ids))
        fields["turns"] = turns
        fields["agent_mask"] = ~self._replied[row, start:end]
        if self._ended_by_reply[row] and episode.finish_reason == "eos":
            fields["finish_reason"] = "reply"

    # The turn that ends

    def _close_turn(self, row: int, token: int) -> bool:
        """Close the running turn of a row if this token, its last one, ends it; return True if it does."""
        effect = self._effects.item(token)
        if effect == UNKNOWN:
            effect = self._find_effect(token)
        if effect == NEVER:
            return False
        end = self.lengths.item(row)
        ids = self.tokens[row, self.turn_starts.item(row) : end].copy()
        listed, text = ids.tolist(), None
        if effect == MAYBE:
            text = self._until_stop(self.tokenizer.decode(listed[-self._window :]))
            if text is None:
                return False
        if text is None or len(listed) > self._window:
            text = self._text(listed)
        self.turns[row] += (Turn("assistant", text, ids),)
        self.turn_starts[row] = end
        self.spoken[row] += 1
        return True

    def _find_effect(self, token: int) -> int:
        """Find out, once, what a token does to a turn; MAYBE if it may complete a stop string."""
        # Only a token with the last character of a stop string completes one, or a part of a character.
        text = self.tokenizer.decode([token])
        can = "\ufffd" in text or not self._last_chars.isdisjoint(text)
        self._effects[token] = effect = MAYBE if can else NEVER
        return effect

    def _text(self, ids: list[int], stop: str = "") -> str:
        """Return the text of an agent's turn, without what ended it."""
        if ids and ids[-1] in self._silent:
            ids = ids[:-1]
        text = self.tokenizer.decode(ids)
        found = self._until_stop(text, stop)
        return text if found is None else found

    def _until_stop(self, text: str, stop: str = "") -> str | None:
        """Return the text before the first stop string of turns, or of another; None if there is none."""
        first = -1
        for string in (stop,) if stop else self._stops:
            at = text.find(string)
            if at >= 0 and (at < first or first < 0):
                first = at
        return None if first < 0 else text[:first]

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
            first = f"number {episodes[0].index} of stream {episodes[0].seed}"
            return f"turn {turns[0]} of {len(episodes)} episodes, the first one {first}"

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
        self, row: int, episode: Episode, reply: Reply | None, errors: list[RespondentError]
    ) -> tuple[bool, bool]:
        """Append the reply if there is one; return whether it ended the episode, and whether a limit did."""
        begin, ids, by_reply = self.lengths.item(row), None, False
        left = self.starts.item(row) + self.room - begin
        if reply is not None:
            try:
                ids = reply_ids(episode, reply)
            except TextGymError as error:
                said = excerpt(str(reply.text))
                errors.append(RespondentError(f"{self.name}: the reply {said} cannot be used: {error}"))
                errors[-1].__cause__ = error
        if reply is None or ids is None:
            self.dropped[row] = True
        else:
            left -= len(ids)
            turns, by_reply = self.turns[row], bool(reply.ends)
            if by_reply:
                self._ended_by_reply[row] = True
            if reply.reward:
                self.rewards[row], self._paying = reply.reward, True
                turns = (*turns[:-1], replace(turns[-1], reward=float(reply.reward)))
            if ids and left >= 0:
                end = begin + len(ids)
                self.tokens[row, begin:end] = own = np.array(ids, dtype=np.int64)
                self.attention_mask[row, begin:end] = 1
                self._replied[row, begin:end] = True
                self.lengths[row] = self.turn_starts[row] = end
                text = reply.text if isinstance(reply.text, str) else self.tokenizer.decode(ids)
                turns += (Turn(reply.role, text, own),)
            self.turns[row] = turns
        if left < self.remaining.item(row):
            self.remaining[row] = max(0, left)
        limit = self.options.max_turns
        at_limit = ids is None or self.remaining.item(row) <= 0
        at_limit = at_limit or (limit is not None and self.spoken[row] >= limit)
        return by_reply, at_limit and not by_reply


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


def with_turn_rewards(episodes: Sequence[Episode], scores: Rewards) -> Rewards:
    """Add what replies paid to the rewards of episodes, on the last token of the turn that each is for.

    An episode that nobody judged is worth 0 altogether.
    """
    if not any(turn.reward for episode in episodes for turn in episode.turns):
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
