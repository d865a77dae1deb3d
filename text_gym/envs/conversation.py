"""Conversation: the turns of a batch's episodes, in which an environment answers the agent.

Replies are written into the batch's buffers as token ids behind what the agent wrote; nothing is ever
tokenised again. Who replies is said in `text_gym.respondents`; what a token is worth is not known here.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from text_gym.episode import BoolArray, Episode, IntArray, Turn
from text_gym.errors import ConfigError, RespondentError, TextGymError, excerpt
from text_gym.respondents import Reply, TurnGenerators, checked_reply, reply_ids, reply_room
from text_gym.rewards.source import RewardSource
from text_gym.rewards.values import Rewards
from text_gym.tokenizer import Tokenizer
from text_gym.utils.user_code import where_raised

from .options import EpisodeOptions, TurnEnds


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
        ends: What ends a turn.
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
        self._flat = _Flat(tokens, attention_mask, self._replied)
        self.ends = TurnEnds(options, tokenizer)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Look at the copied buffers."""
        self.__dict__.update(state)
        self._flat = _Flat(self.tokens, self.attention_mask, self._replied)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the views, which cannot be copied."""
        return {name: value for name, value in self.__dict__.items() if name != "_flat"}

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
        if any(ended.tolist()):
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
        effects = self.ends.effects
        # Between passes of a model each kind of call is a slow one, and there are few turns in a step: these
        # loops take less time than as many operations of numpy's.
        may_end = [place for place, token in enumerate(tokens.tolist()) if effects[token]]
        may_end = [place for place in may_end if ended.item(place) == cut.item(place)]
        places = [place for place in may_end if self._close_turn(rows.item(place))]
        if not places:
            return []
        asked = [rows.item(place) for place in places]
        speaking = episodes(asked, running=True)
        replies, errors = self._replies(speaking, [self.spoken[row] for row in asked])
        for place, row, episode, reply in zip(places, asked, speaking, replies, strict=True):
            # What the limit says is decided anew: a last turn is answered, whatever room there is left.
            by_reply, cut[place] = self._answer(row, episode, reply, errors)
            ended[place] = by_reply or cut[place]
        return errors

    def complete(self, episode: Episode, row: int, end: int) -> None:
        """Tell the episode in a row, up to this column, who wrote what, and of a reply that ended it."""
        fields, turns, begin = episode.__dict__, self.turns[row], self.turn_starts.item(row)
        if end > begin:
            ids = self.tokens[row, begin:end].tobytes()
            turns = (*turns, Turn.packed("assistant", partial(self.ends.text, stop=episode.stop), ids))
        fields["turns"] = turns
        if self._ended_by_reply[row] and episode.finish_reason == "eos":
            fields["finish_reason"] = "reply"

    def _close_turn(self, row: int) -> bool:
        """Close the running turn of a row if its last token ends it; return True if it does."""
        end = self.lengths.item(row)
        own = self._flat.read(row, self.turn_starts.item(row), end)
        text = self.ends.close(own.tolist())
        if text is None:
            return False
        self.turns[row] += (Turn.packed("assistant", text, own.tobytes()),)
        self.turn_starts[row] = end
        self.spoken[row] += 1
        return True

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
        ids = None
        if reply is not None:
            try:
                ids = reply_ids(episode, reply)
            except TextGymError as error:
                said = excerpt(str(reply.text))
                errors.append(RespondentError(f"{self.name}: the reply {said} cannot be used: {error}"))
                errors[-1].__cause__ = error
        if reply is None or ids is None:
            self.dropped[row] = True
            return False, True
        if reply.reward:
            self.rewards[row], self._paying = reply.reward, True
            *earlier, last = self.turns[row]
            self.turns[row] = (*earlier, last.paid(float(reply.reward)))
        begin = self.lengths.item(row)
        end = begin + len(ids)
        left = self.starts.item(row) + self.room - end
        if ids and left >= 0:
            text = reply.text if isinstance(reply.text, str) else self.tokenizer.decode
            self.turns[row] += (Turn.packed(reply.role, text, self._flat.write(row, begin, ids)),)
            self.lengths[row] = self.turn_starts[row] = end
        remaining = self.remaining.item(row)
        if left < remaining:
            self.remaining[row] = remaining = max(0, left)
        if reply.ends:
            self._ended_by_reply[row] = True
            return True, False
        limit = self.options.max_turns
        return False, remaining <= 0 or (limit is not None and self.spoken[row] >= limit)


class _Flat:
    """A batch's buffers through Python's own views, which for a few tokens are faster than numpy's.

    Args:
        tokens: `(B, W)` int64.
        masks: `(B, W)`, of one byte each; they are 1 where a reply stands.
    """

    def __init__(self, tokens: IntArray, *masks: npt.NDArray[Any]) -> None:
        self._width = tokens.shape[1]
        self._tokens = tokens.reshape(-1).data
        self._masks = [mask.data.cast("B") for mask in masks]

    def read(self, row: int, begin: int, end: int) -> memoryview[int]:
        """Return the tokens in these columns of a row; they are not copied."""
        return self._tokens[row * self._width + begin : row * self._width + end]

    def write(self, row: int, column: int, ids: list[int]) -> bytes:
        """Write a reply's tokens into a row from a column on; return their bytes."""
        begin = row * self._width + column
        place, there = slice(begin, begin + len(ids)), b"\1" * len(ids)
        self._tokens[place] = packed = array(self._tokens.format, ids)
        for mask in self._masks:
            mask[place] = there
        return packed.tobytes()


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
