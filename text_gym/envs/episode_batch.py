"""EpisodeBatch: the Markov decision process of text, `B` episodes at a time; it knows no Gymnasium.

Who calls whom in a step; agents that play whole episodes leave the Gymnasium environment out:

    TextVectorEnv.step ──┬─► begin(rows, seeds, k) ─► advance(rows, tokens) ─► which rows ended
    rollout of agents ───┘       prompts               limit, stop, mask             │
                                                     RewardSource ◄── score(rows) ◄──┘
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from text_gym.encoding import as_tokenizer, checked_tokenizer
from text_gym.episode import BoolArray, Episode, FloatArray, IntArray, Prompt, hash64, stream_keys
from text_gym.prompts import as_prompts
from text_gym.rewards.source import RewardSource, as_reward_source
from text_gym.rewards.tokens import checked_tokens, still_owed
from text_gym.rewards.values import Rewards, TokenBatch

from .conversation import Conversation, check_no_token_rewards, completion_room, with_turn_rewards
from .masks import Prefixes, mask_array
from .options import EpisodeOptions, check_count
from .prompts import PromptTable


class EpisodeBatch:
    """`B` episodes of text in one preallocated `(B, P + C)` buffer: how they begin, go on, end and are paid.

    State: prompt ids and the completion so far. Action: the next token id. Transition: append it and, where
    it ends a turn of a conversation, the respondent's reply. An episode ends with an EOS id, a stop string, a
    reply that says so, or a limit. Whoever plays decides which rows begin and go on, and when: no row
    restarts by itself, no policy is known here, and therefore no KL.

    Episode `k` of the stream of a seed is the same in any row of any batch: its prompt is a function of
    (seed, k), and all that follows is one of the tokens.

    Args:
        prompts: Strings, `Prompt`s, or rows with a `prompt` column.
        tokenizer: A `Tokenizer`, a fast tokenizer of `transformers`, or the name of a folder or hub model.
        reward: A `RewardSource` or any function that `as_reward_source` takes.
        max_tokens: `T`, limit of the tokens that the agent writes in an episode, EOS included.
        num_rows: `B`, episodes side by side.
        options: When episodes end, which prompts they begin with, and so on.

    Attributes:
        room: `C`, the most tokens of a completion: `T` and, in conversations, what replies may take.
        tokens: `(B, P + C)` int64: prompt and completion without a gap, then padding.
        attention_mask: `(B, P + C)` int8: 1 where there is a token (padding may share an id with EOS).
        starts: `(B,)` int64: where the completion begins, which is the prompt's length.
        lengths: `(B,)` int64: prompt and completion together, in tokens.
        remaining: `(B,)` int64: how many more tokens the limits allow the agent.
        done: `(B,)` bool: the episode is over, or none has begun.
        truncated: `(B,)` bool: the episode was cut under `limit="truncate"`, or nobody replied: it is unpaid.
        conversation: The turns, where the options have a respondent; else None.
        seeds: `(B,)` int64: the seed of each episode's stream.
        episode_index: `(B,)` int64: its number `k` in the stream.
        prompt_index: `(B,)` int64: its place in `prompts`.
        prompts: What episodes begin with; `table` holds their tokens.

        All arrays are the buffers themselves: read them, copy what you keep, and write to none.

    Raises:
        PromptError: An empty prompt without a BOS id, or one that does not fit.
        ConfigError: An argument that makes no sense; its name and value are told.

    >>> from text_gym import ByteTokenizer
    >>> batch = EpisodeBatch(["Hello"], ByteTokenizer(), lambda completion: len(completion), 3, num_rows=2)
    >>> rows = np.arange(2)
    >>> batch.begin(rows, seeds=np.zeros(2, dtype=np.int64), episode_index=rows)
    >>> batch.advance(rows, np.array([256, 33]))
    array([ True, False])
    >>> batch.advance(rows[1:], np.array([33])), batch.advance(rows[1:], np.array([256]))
    (array([False]), array([ True]))
    >>> episodes, rewards = batch.score(rows)
    >>> [episode.completion for episode in episodes], rewards.totals
    (['', '!!'], array([0., 2.]))
    """

    def __init__(
        self,
        prompts: Iterable[Prompt | str | Mapping[str, Any]],
        tokenizer: Any,
        reward: RewardSource | Callable[..., Any],
        max_tokens: int,
        num_rows: int = 1,
        options: EpisodeOptions | None = None,
    ) -> None:
        check_count("max_tokens", max_tokens)
        check_count("num_rows", num_rows)
        self.options = options = options or EpisodeOptions()
        self.tokenizer = checked_tokenizer(as_tokenizer(tokenizer))
        self.reward = as_reward_source(reward)
        self.max_tokens = int(max_tokens)
        self.num_rows = int(num_rows)
        self.stop = options.stop_strings
        self.mask = options.mask
        if self.mask is not None:
            self.mask.bind(self.tokenizer, self.max_tokens)
        self.prompts: Sequence[Prompt] = as_prompts(prompts, self.tokenizer)
        self.table = PromptTable(
            self.prompts,
            self.tokenizer,
            self.max_tokens,
            limit=options.max_prompt_tokens,
            on_long=options.on_long_prompt,
            context=options.context if options.max_context is None else options.max_context,
        )
        self.room = completion_room(options, self.max_tokens, self.max_prompt_tokens)
        self.table.widen(self.max_prompt_tokens + self.room)
        self._group_size = int(options.group_size)
        self._make_buffers()

    def _make_buffers(self) -> None:
        n, width, v = self.num_rows, self.max_prompt_tokens + self.room, self.tokenizer.vocab_size
        self.tokens = np.full((n, width), self.tokenizer.pad_id, dtype=np.int64)
        self.attention_mask = np.zeros((n, width), dtype=np.int8)
        self.lengths = np.ones(n, dtype=np.int64)
        self.starts = np.ones(n, dtype=np.int64)
        self.remaining = np.full(n, self.max_tokens, dtype=np.int64)
        self.done = np.ones(n, dtype=np.bool_)
        self.seeds = np.zeros(n, dtype=np.int64)
        self._keys = stream_keys(self.seeds)  # their hashes, which choose prompts
        self.episode_index = np.zeros(n, dtype=np.int64)
        self.prompt_index = np.zeros(n, dtype=np.int64)
        self._cut = np.zeros(n, dtype=np.bool_)  # done, and cut at a limit
        self.truncated = self._cut if self.options.limit == "truncate" else np.zeros_like(self._cut)
        self.conversation: Conversation | None = None
        self._turn_starts = self.starts  # where the agent's running turn begins
        if self.options.respondent is not None:
            check_no_token_rewards(self.reward)
            buffers = (self.tokens, self.attention_mask, self.starts, self.lengths, self.remaining)
            self.conversation = Conversation(self.options, self.tokenizer, *buffers, self.room)
            self._turn_starts = self.conversation.turn_starts
            self.truncated = self.conversation.truncated
        self._stopped_by = [""] * n
        self._paid = np.zeros(n)  # for tokens of the running episode, by a causal source
        self._is_eos = np.zeros(v, dtype=np.bool_)
        self._is_eos[list(self.tokenizer.eos_ids)] = True
        if self.conversation is not None:
            self._is_eos[list(self.conversation.ends.ids)] = False
        self._columns = np.arange(width)
        self._offsets = np.arange(n) * width  # where each row begins in the flat buffers
        self._allowed = np.ones((n, v) if self.mask is not None else (0, 0), dtype=np.bool_)
        self._stale = True  # True once the rows have moved on since `_allowed` was computed

    # Prompts

    @property
    def max_prompt_tokens(self) -> int:
        """The room for a prompt, `P` tokens."""
        return self.table.width

    @property
    def group_size(self) -> int:
        """Consecutive episode numbers that share a prompt; what is set holds for episodes yet to begin."""
        return self._group_size

    @group_size.setter
    def group_size(self, size: int) -> None:
        check_count("group_size", size)
        self._group_size = int(size)

    def prompt_of(self, seeds: IntArray, episode_index: IntArray) -> IntArray:
        """Return the prompt indices of episodes `k`, `(n,)` int64, a function of (seed, k) alone."""
        return self._choose(stream_keys(seeds), episode_index)

    def _choose(self, keys: npt.NDArray[np.uint64], episode_index: IntArray) -> IntArray:
        """Do what `prompt_of` does by seeds' `stream_keys`, `(n,)` uint64: a hash needs no random state."""
        group = episode_index if self._group_size == 1 else episode_index // self._group_size
        if not self.options.shuffle:
            return group % len(self.prompts)
        draw = hash64(keys + group.astype(np.uint64)) % np.uint64(len(self.prompts))
        return draw.astype(np.int64)

    # The transition

    def begin(self, rows: IntArray, seeds: IntArray, episode_index: IntArray) -> None:
        """Begin an episode in each of these rows, whatever they held before.

        Args:
            rows: `(n,)` int64, distinct rows.
            seeds: `(n,)` int64, the seeds of the streams that the episodes belong to.
            episode_index: `(n,)` int64, their numbers `k >= 0` in these streams.
        """
        if np.count_nonzero(self.seeds[rows] != seeds):  # rows mostly keep their stream
            self.seeds[rows] = seeds
            self._keys[rows] = stream_keys(seeds)
        choice = self._choose(self._keys[rows], episode_index)
        lengths = self.table.lengths[choice]
        self.lengths[rows] = self.starts[rows] = lengths
        self.attention_mask[rows] = mask = self._columns < lengths[:, None]
        found = self.table.windows[self.table.starts[choice]]  # other prompts follow in it
        np.copyto(found, self.tokenizer.pad_id, where=~mask)
        self.tokens[rows] = found
        self.remaining[rows] = self.max_tokens
        self.episode_index[rows] = episode_index
        self.prompt_index[rows] = choice
        self.done[rows] = self._cut[rows] = False
        for row in rows.tolist() if self.stop else ():
            self._stopped_by[row] = ""
        self._paid[rows] = 0.0
        self._stale = True
        if self.conversation is not None:
            self.conversation.begin(rows)

    def advance(self, rows: IntArray, tokens: IntArray) -> BoolArray:
        """Append `tokens[i]` to the running episode in row `rows[i]`, and return which of them ended.

        Nobody is asked for a reward (see `pay_tokens` and `score`), and a mask is not enforced: who plays has
        read `action_masks`.

        Args:
            rows: `(n,)` int64, distinct rows whose episode runs.
            tokens: `(n,)` int64, ids in `[0, V)`.

        Returns:
            `(n,)` bool.

        Raises:
            RespondentError: A respondent failed; its episodes are over, unpaid, and all others go on.
        """
        lengths = self.lengths[rows]
        places = self._offsets[rows] + lengths
        self.tokens.reshape(-1)[places] = tokens
        self.attention_mask.reshape(-1)[places] = 1
        lengths += 1
        self.lengths[rows] = lengths
        ended: BoolArray = self._is_eos[tokens]
        if self.stop:
            self._find_stop(rows, ended)
        remaining = self.remaining[rows]
        remaining -= 1
        self.remaining[rows] = remaining
        cut = remaining <= 0
        cut &= ~ended
        ended |= cut
        talk = self.conversation
        errors = [] if talk is None else talk.go_on(rows, tokens, ended, cut, self.episodes)
        self._cut[rows] = cut
        self.done[rows] = ended
        self._stale = True
        if errors:
            raise errors[0]
        return ended

    def action_masks(self) -> BoolArray:
        """Return the tokens that may come next, `(B, V)` bool; all of them after an end or without a mask.

        Raises:
            ConfigError: The mask forbids every token of a running episode, or is of another shape.
        """
        if self.mask is None:
            return np.ones((self.num_rows, self.tokenizer.vocab_size), dtype=np.bool_)
        if self._stale:
            rows = np.flatnonzero(~self.done)
            self._allowed[self.done] = True
            if len(rows):
                prefixes = Prefixes(rows, self.tokens[rows], self._turn_starts[rows], self.lengths[rows])
                shape = (len(rows), self._allowed.shape[1])
                self._allowed[rows] = mask_array(self.mask.allowed(prefixes), shape, rows)
            self._stale = False
        return self._allowed.copy()

    def episodes(self, rows: IntArray | list[int], *, running: bool = False) -> list[Episode]:
        """Return the episodes in these rows as they stand; their ids are copies that stay as they are.

        Args:
            rows: `(n,)` int64.
            running: Give them as texts that go on, whether they ended or not.
        """
        prompts, talk = self.prompts, self.conversation
        found, stopped_by, tokenizer = [], self._stopped_by, self.tokenizer
        for row in rows if isinstance(rows, list) else rows.tolist():
            reason, stop = None, ""
            if not running and self.done.item(row):
                stop = "" if self._cut.item(row) else stopped_by[row]
                reason = "length" if self._cut.item(row) else "stop" if stop else "eos"
            episode = object.__new__(Episode)  # the `__init__` of frozen dataclasses is slow
            fields = episode.__dict__
            length = self.lengths.item(row)
            fields["prompt"], fields["tokenizer"] = prompts[self.prompt_index.item(row)], tokenizer
            fields["seed"], fields["index"] = self.seeds.item(row), self.episode_index.item(row)
            fields["_ids"], fields["_start"] = self.tokens[row, :length].tobytes(), self.starts.item(row)
            if reason is not None:
                fields["finish_reason"], fields["stop"] = reason, stop
            if talk is None:
                fields["agent_mask"] = None
            else:
                talk.complete(episode, row, length)
            found.append(episode)
        return found

    # Rewards

    def pay_tokens(self, rows: IntArray) -> FloatArray:
        """Ask a causal source what the newest tokens earned in episodes that go on or were cut unpaid.

        Args:
            rows: `(n,)` int64. Ask once a token: the batch remembers what was paid, for `last_rewards`.

        Returns:
            `(n,)` float64; 0 of a source that is not causal.
        """
        if not self.reward.causal or not len(rows):
            return np.zeros(len(rows))
        lengths = self.lengths[rows]
        batch = TokenBatch(
            prompts=self.prompts,
            prompt_index=self.prompt_index[rows],
            tokens=self.tokens.reshape(-1)[self._offsets[rows] + lengths - 1],
            steps=lengths - self.starts[rows],
            tokenizer=self.tokenizer,
            episodes=lambda: self.episodes(rows, running=True),
            on_bad_reward=self.options.on_bad_reward,
        )
        rewards = checked_tokens(self.reward, batch)
        self._paid[rows] += rewards
        return rewards

    def score(self, rows: IntArray) -> tuple[list[Episode], Rewards]:
        """Have the reward source judge the episodes in these rows, in one batch.

        It is not asked about those that are `truncated`: they get 0, and NaN as terms.

        Args:
            rows: `(n,)` int64, rows that are done.

        Returns:
            The `n` episodes, and what each of them is worth, tokens included.

        Raises:
            RewardError: The reward source failed.
        """
        episodes = self.episodes(rows)
        return episodes, self.judge(episodes, self.truncated[rows])

    def judge(self, episodes: list[Episode], truncated: BoolArray) -> Rewards:
        """Return the rewards of `n` episodes of this batch; nobody is asked about the `truncated`."""
        asked = (~truncated).nonzero()[0]
        if len(asked) == len(episodes):
            scores = self.reward(episodes, self.options.on_bad_reward)
        else:
            judged = [episodes[i] for i in asked.tolist()]
            scores = self.reward(judged, self.options.on_bad_reward).among(episodes, asked)
        return scores if self.conversation is None else with_turn_rewards(episodes, scores)

    def last_rewards(self, rows: IntArray, scores: Rewards) -> FloatArray:
        """Return what is still owed on the last tokens, `(n,)`: totals minus what `pay_tokens` paid before.

        That is the reward at the end and that of the last token. Only where a part of the source abstained
        in the end were the earlier ones paid something else than they are worth now, and it is set right.

        Args:
            rows: `(n,)` int64, rows that are done.
            scores: Of them, by `score`.
        """
        if self.conversation is not None:
            return scores.totals - self.conversation.paid[rows]
        if not self.reward.causal:
            return scores.totals
        return still_owed(scores, self._paid[rows])

    def _find_stop(self, rows: IntArray, ended: BoolArray) -> None:
        """Mark rows whose text now holds a stop string."""
        # A stop string may begin inside a token and a character may take four byte tokens.
        window = 4 * max(map(len, self.stop)) + 8
        for j, i in enumerate(rows.tolist()):
            if ended[j]:
                continue
            tail = self.tokens[i, max(self._turn_starts[i], self.lengths[i] - window) : self.lengths[i]]
            text = self.tokenizer.decode(tail.tolist())
            found = [s for s in self.stop if s in text]
            if found:  # if one token holds several, the first counts
                self._stopped_by[i] = min(found, key=lambda s: (text.find(s), -len(s)))
                ended[j] = True
