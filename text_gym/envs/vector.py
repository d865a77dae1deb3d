"""TextVectorEnv: the token-level Markov decision process, `B` episodes at a time.

State: prompt ids and the completion so far. Action: the next token id. Transition: append it.
`terminated`: an EOS id, a stop string, or the token limit. Reward: a `RewardSource`, asked once an episode is
over. With `limit="truncate"` a text cut at the limit is no sample of the problem: `truncated`, and not paid.
Everything else in text-gym (`TextEnv`, the sampler of the agents, the adapters) steps through this
one implementation. It holds no policy and therefore knows no KL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Dict, Discrete, Space
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from text_gym.episode import BoolArray, Episode, FloatArray, IntArray, Prompt, as_prompts
from text_gym.errors import ConfigError, EpisodeError, RewardError, TokenError, UnknownNameError
from text_gym.rewards.source import RewardSource, as_reward_source
from text_gym.rewards.tokens import checked_tokens
from text_gym.rewards.values import OnBadReward, Rewards, TokenBatch
from text_gym.tasks.task import Task, load_task
from text_gym.tokenizer import as_tokenizer
from text_gym.utils.display import harmless

from .infos import Info, put
from .masks import ActionMask, Prefixes, mask_array
from .prompts import PromptTable, stream_keys

Observation = dict[str, npt.NDArray[Any]]
RESET_OPTIONS = ("reset_mask", "episode_index")
MOST_ABSTENTIONS = 100  # in a row, before an environment that draws episodes anew gives up


class TextVectorEnv(VectorEnv[Observation, IntArray, npt.NDArray[Any]]):
    """A batch of text episodes in one preallocated `(B, P + T)` buffer.

    Observation (a `Dict`, per episode; `P` is the longest prompt, `T` is `max_tokens`):

    - `tokens` `(P + T,)` int64: prompt and completion without a gap, then padding;
    - `attention_mask` `(P + T,)` int8: 1 where there is a token (padding may share an id with EOS);
    - `length` `(1,)` int64: how many there are;
    - `remaining` `(1,)` int64: how many more the token limit allows.

    Action: `Discrete(V)`. Info of a reset: `prompt`, `episode_index`. Info of a last step: `completion`,
    `reward_terms` if the reward source names its parts, and `reward_abstained` (True) if it had no opinion.

    An episode without an opinion returns 0: its last step takes back what a causal source was paid for
    earlier tokens. To an agent that knows nothing of `reward_abstained` that is a reward like any other, so
    a judge that is down looks like a judge that hates everything. With `on_abstain="redraw"` such an
    episode does not end: in the same step its row begins the next episode of its stream, neither terminated
    nor truncated, with return 0 so far. Every episode then ends judged, and an abstention is worth what a
    new episode is worth. The info of such a step has `redrawn` (how often that happened in the row since
    its last judged end) and, as that of a reset, `prompt` and `episode_index`; the observation is the new
    episode's first one. `redrawn` of the environment counts all. Agents of `text_gym.agents` play whole
    episodes and leave those out that were not judged, either way.

    Which prompt an episode gets depends on its stream's seed and its number `k` in the stream alone.
    As in Gymnasium's `SyncVectorEnv`, `reset(seed=s)` gives row `i` the stream of seed `s + i`; with
    `numbering="global"` all rows draw from the one stream of seed `s` (the next free `k` goes to the
    next row that restarts), so that the same episodes are played for any `num_envs`.

    Args:
        prompts: Strings, `Prompt`s, or rows with a `prompt` column.
        tokenizer: A `Tokenizer`, a fast tokenizer of `transformers`, or the name of a folder or hub model.
        reward: A `RewardSource` or any function that `as_reward_source` takes.
        max_tokens: `T`, token limit of a completion, EOS included.
        num_envs: `B`, episodes side by side.
        task: A `Task` or its name: gives prompts, tokenizer, reward and `max_tokens` where those are None.
        autoreset_mode: What happens after an episode's end, as in Gymnasium.
        copy: False returns views of the buffers, overwritten by the next `step` or `reset`: only for
            agents that keep no reference to an observation.
        stop: Strings that end an episode as EOS does; the completion leaves them out.
        shuffle: False takes prompts in order (evaluation); True draws them uniformly (training).
        group_size: Consecutive episode numbers that share a prompt (GRPO, RLOO).
        numbering: `"per_env"` or `"global"`, see above.
        max_prompt_tokens: `P`; the longest prompt's length if None.
        on_long_prompt: `"error"`, or `"truncate"`: drop tokens on the left and report how many in
            info (`prompt_tokens_dropped`).
        context: Largest `P + T` that the policy can read, in tokens, if there is such a limit.
        on_bad_reward: `"raise"`, or `"drop"`: a bad reward counts as an abstention.
        on_abstain: `"pay_zero"`, or `"redraw"`: go on with a new episode instead; see above.
        limit: What the token limit means. "end": it belongs to the task; the text is paid as it stands, the
            step is `terminated`. "truncate": a text that the limit cut is no sample of the problem; the step
            is `truncated`, and the text is neither scored nor paid. See below.
        fixed_horizon: Every episode takes `max_tokens` steps: after EOS further tokens are ignored (padding
            stands in their place) and the reward is paid at the last step, so that it does not matter to the
            return when EOS came. For agents that step; those of `text_gym.agents` play whole episodes.
        info_texts: False leaves `prompt` and `completion` out of info: Gymnasium's `NumpyToTorch` and the
            like convert every array in info and stop at one of strings.
        mask: Which tokens may come next, an `ActionMask`; it is shown as `action_mask` `(V,)` int8 in
            observations and info, and as bool by `action_masks()`. After an episode's end all are allowed.
        on_masked: `"raise"` refuses a forbidden token, `"allow"` takes it: the mask is advice then.
        render_mode: `"ansi"` or None.
        **task_parameters: Parameters of the named task, e.g. `length=6` for `copy`.

    An EOS or stop string on the last allowed token is an end like any other, under both meanings. A text that
    is cut has the `finish_reason` "length", and under `limit="end"` a reward may look at that. Never is a
    text both paid and `truncated`: an agent would add the value of the state after it to its reward, so that
    never stopping would pay twice. Under `limit="truncate"` the agents of `text_gym.agents` leave texts that
    were cut out of their updates; other libraries bootstrap from the value of a state in which nobody ever
    acts, which therefore nobody trains. Per-token rewards of a causal source are paid under both meanings, up
    to the cut.

    Raises:
        PromptError: An empty prompt without a BOS id, or one that does not fit.
        ConfigError: An argument that makes no sense; its name and value are told.

    >>> from text_gym import ByteTokenizer
    >>> env = TextVectorEnv(["Hello"], ByteTokenizer(), lambda completion: len(completion), 3, num_envs=2)
    >>> observation, info = env.reset(seed=0)
    >>> observation["length"].ravel(), observation["tokens"].shape
    (array([5, 5]), (2, 8))
    >>> _, reward, terminated, truncated, _ = env.step(np.array([256, 33]))
    >>> reward, terminated, truncated
    (array([0., 0.]), array([ True, False]), array([False, False]))
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["ansi"],
        "render_fps": 10,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        prompts: Iterable[Prompt | str | Mapping[str, Any]] | None = None,
        tokenizer: Any = None,
        reward: RewardSource | Callable[..., Any] | None = None,
        max_tokens: int | None = None,
        num_envs: int = 1,
        *,
        task: Task | str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
        stop: str | Sequence[str] = (),
        shuffle: bool = True,
        group_size: int = 1,
        numbering: Literal["per_env", "global"] = "per_env",
        max_prompt_tokens: int | None = None,
        on_long_prompt: Literal["error", "truncate"] = "error",
        context: int | None = None,
        on_bad_reward: OnBadReward = "raise",
        on_abstain: Literal["pay_zero", "redraw"] = "pay_zero",
        limit: Literal["end", "truncate"] = "end",
        fixed_horizon: bool = False,
        info_texts: bool = True,
        mask: ActionMask | None = None,
        on_masked: Literal["raise", "allow"] = "raise",
        render_mode: str | None = None,
        **task_parameters: Any,
    ) -> None:
        if "limit_terminates" in task_parameters:
            raise ConfigError(
                "limit_terminates is gone; "
                + ("leave it out" if task_parameters["limit_terminates"] else 'write limit="truncate"')
                + ': by default the token limit ends an episode (limit="end"); under limit="truncate" a text '
                "that it cuts is truncated and not paid"
            )
        task = _resolve_task(task, task_parameters)
        if task is not None:
            prompts = task.prompts if prompts is None else prompts
            tokenizer = task.tokenizer if tokenizer is None else tokenizer
            reward = task.reward if reward is None else reward
            max_tokens = task.max_tokens if max_tokens is None else max_tokens
        if prompts is None or tokenizer is None or reward is None or max_tokens is None:
            raise ConfigError("pass prompts, tokenizer, reward and max_tokens, or a task that has them")
        numbers = {"max_tokens": max_tokens, "num_envs": num_envs, "group_size": group_size}
        for name, number in numbers.items():
            if not isinstance(number, (int, np.integer)) or isinstance(number, bool) or number < 1:
                raise ConfigError(f"{name} is {number!r}; it must be a whole number of at least 1")
        self.stop = (stop,) if isinstance(stop, str) else tuple(stop)
        if "" in self.stop:
            raise ConfigError("an empty stop string would end every episode at once")
        _check_choice("autoreset_mode", autoreset_mode, [*AutoresetMode, *(m.value for m in AutoresetMode)])
        _check_choice("numbering", numbering, ["per_env", "global"])
        _check_choice("on_bad_reward", on_bad_reward, ["raise", "drop"])
        _check_choice("on_abstain", on_abstain, ["pay_zero", "redraw"])
        _check_choice("limit", limit, ["end", "truncate"])
        _check_choice("on_masked", on_masked, ["raise", "allow"])
        _check_choice("render_mode", render_mode, [None, "ansi"])

        self.task = task
        self.num_envs = int(num_envs)
        self.max_tokens = int(max_tokens)
        self.tokenizer = as_tokenizer(tokenizer)
        self.reward = as_reward_source(reward)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = render_mode
        self.copy = copy
        self.numbering = numbering
        self.on_bad_reward: OnBadReward = on_bad_reward
        self.on_abstain = on_abstain
        self.limit = limit
        self.fixed_horizon = fixed_horizon
        self.info_texts = info_texts
        self.mask, self.on_masked = mask, on_masked
        if mask is not None:
            mask.bind(self.tokenizer, self.max_tokens)
        self._table = PromptTable(
            as_prompts(prompts),
            self.tokenizer,
            self.max_tokens,
            limit=max_prompt_tokens,
            on_long=on_long_prompt,
            context=context,
            shuffle=shuffle,
            group_size=int(group_size),
        )
        self._make_spaces_and_buffers()

    def _make_spaces_and_buffers(self) -> None:
        n, width, v = self.num_envs, self.max_prompt_tokens + self.max_tokens, self.tokenizer.vocab_size
        spaces: dict[str, Space[Any]] = {
            "tokens": Box(0, v - 1, (width,), np.int64),
            "attention_mask": Box(0, 1, (width,), np.int8),
            "length": Box(1, width, (1,), np.int64),
            "remaining": Box(0, self.max_tokens, (1,), np.int64),
        }
        if self.mask is not None:
            spaces["action_mask"] = Box(0, 1, (v,), np.int8)
            self._allowed = np.ones((n, v), dtype=np.bool_)
        self._stale = True  # the rows have moved on since `_allowed` was computed
        self.single_observation_space = Dict(spaces)
        self.single_action_space = Discrete(v)
        self.observation_space = batch_space(self.single_observation_space, n)
        self.action_space = batch_space(self.single_action_space, n)

        self._tokens = np.full((n, width), self.tokenizer.pad_id, dtype=np.int64)
        self._attention = np.zeros((n, width), dtype=np.int8)
        self._lengths = np.ones(n, dtype=np.int64)
        self._remaining = np.full(n, self.max_tokens, dtype=np.int64)
        self._starts = np.ones(n, dtype=np.int64)  # where the completion begins
        self._done = np.ones(n, dtype=np.bool_)  # the episode is over, or none has begun
        self._cut = np.zeros(n, dtype=np.bool_)  # … and was cut at the token limit
        self._ends = np.zeros(n, dtype=np.int64)  # fixed horizon: where the text ended, or 0
        self._stopped_by = [""] * n
        self._is_eos = np.zeros(v, dtype=np.bool_)
        self._is_eos[list(self.tokenizer.eos_ids)] = True
        self._rows = np.arange(n)
        self._columns = np.arange(width)
        self._offsets = self._rows * width  # where each row begins in the flat buffers
        self._seeds: IntArray | None = None  # seed of each row's stream …
        self._keys = np.zeros(n, dtype=np.uint64)  # … and the hash of it that chooses prompts
        self._episode = np.zeros(n, dtype=np.int64)  # number k of the episode each row plays
        self._next = np.zeros(n, dtype=np.int64)  # number of the episode it plays next
        self._prompt_index = np.zeros(n, dtype=np.int64)
        self._paid = np.zeros(n)  # for tokens of the running episode, by a causal source
        self.redrawn = 0  # episodes begun in place of one that was not judged …
        self._redrawn = np.zeros(n, dtype=np.int64)  # … and those of each row since its last judged end
        self._abstentions = 0  # in a row

    # The Gymnasium interface

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, Info]:
        """Start an episode in every row, or in those of `options["reset_mask"]`.

        Args:
            seed: Row `i` draws from the stream of seed `seed + i` (or `seed[i]`), from its first
                episode on. None goes on with the streams there are.
            options: `reset_mask` `(B,)` bool: rows to reset. `episode_index` `(B,)` int or int: the
                number `k` of the episode that each row is to play.

        Returns:
            The observation of all rows, and info of the rows reset.

        Raises:
            ConfigError: A mask, seed or episode number of another form.
            UnknownNameError: Another option.
        """
        options = dict(options or {})
        for name in options:
            if name not in RESET_OPTIONS:
                raise UnknownNameError("reset option", name, RESET_OPTIONS)
        rows = self._rows_to_reset(options)
        index = self._episodes_asked_for(options)
        self._seed_rows(seed, rows)
        self._redrawn[rows] = 0
        if index is None:
            self._begin_next(rows)
        else:
            self.begin(rows, index[rows])
            if self.numbering == "per_env":
                self._next[rows] = index[rows] + 1
            else:
                self._next[:] = index[rows].max() + 1
        infos = self._begin_info({}, rows)
        if self.mask is not None:
            put(infos, self.num_envs, rows, {"action_mask": self._shown_mask()[rows]})
        return self._observe(), infos

    def step(self, actions: npt.ArrayLike) -> tuple[Observation, FloatArray, BoolArray, BoolArray, Info]:
        """Append one token to every running episode.

        Args:
            actions: `(B,)` integer token ids (NumPy, torch on CPU, or a list). Under `NEXT_STEP` the
                ids of rows that restart in this step are ignored.

        Raises:
            TokenError: An id out of range or not an integer, or another shape; nothing has changed.
            EpisodeError: Before `reset`, or (autoreset disabled) an episode is over.
            RewardError: The reward source failed (with `on_abstain="redraw"` also: it abstained a hundred
                times in a row); the token was appended, and an episode that it ended is over.
        """
        restarting = self._rows_restarting()
        tokens = self._valid_tokens(actions, restarting)
        if self.mask is not None and self.on_masked == "raise":
            self._check_allowed(tokens, restarting)
        infos: Info = {}
        rewards = np.zeros(self.num_envs)
        rows, redrawn = self._rows, self._rows[:0]
        if len(restarting):
            rows = np.flatnonzero(~self._done)
            tokens = tokens[rows]
            self._begin_next(restarting)
            self._begin_info(infos, restarting)
        if len(rows):
            ended = self.advance(rows, tokens)
            if self.reward.causal and not self.fixed_horizon:
                self._pay_tokens(rows[~ended | self.truncated[rows]], rewards)
            if np.count_nonzero(ended):
                redrawn = self._pay_episodes(rows[ended], rewards, infos)
        truncated = self.truncated.copy()
        terminated = self._done & ~truncated
        if self.autoreset_mode is AutoresetMode.SAME_STEP and np.count_nonzero(self._done):
            infos = self._restart_same_step(infos)
        if len(redrawn):
            put(self._begin_info(infos, redrawn), self.num_envs, redrawn, {"redrawn": self._redrawn[redrawn]})
        if self.mask is not None:
            put(infos, self.num_envs, self._rows, {"action_mask": self._shown_mask()})
        return self._observe(), rewards, terminated, truncated, infos

    def render(self) -> tuple[str, ...] | None:
        """Prompt and completion so far of every row, safe to print; None without a render mode."""
        if self.render_mode is None:
            return None
        return tuple(
            f"{harmless(e.prompt.text)}│{harmless(e.completion)}{'■' if e.done else '▁'}"
            for e in self.episodes(self._rows)
        )

    def action_masks(self) -> BoolArray:
        """`(B, V)` bool, True for tokens that may come next; all if there is no mask.

        Raises:
            ConfigError: The mask forbids every token of a running episode, or is of another shape.
        """
        if self.mask is None:
            return np.ones((self.num_envs, self.tokenizer.vocab_size), dtype=np.bool_)
        if self._stale:
            rows = np.flatnonzero(~self._done)
            self._allowed[self._done] = True
            if len(rows):
                prefixes = Prefixes(rows, self._tokens[rows], self._starts[rows], self._lengths[rows])
                shape = (len(rows), self._allowed.shape[1])
                self._allowed[rows] = mask_array(self.mask.allowed(prefixes), shape, rows)
            self._stale = False
        return self._allowed.copy()

    # The transition itself, for agents that step a changing subset of rows

    @property
    def prompts(self) -> Sequence[Prompt]:
        """The prompts episodes begin with."""
        return self._table.prompts

    @property
    def max_prompt_tokens(self) -> int:
        """`P`, room for a prompt, in tokens."""
        return self._table.tokens.shape[1]

    @property
    def shuffle(self) -> bool:
        """Whether prompts are drawn, or taken in order."""
        return self._table.shuffle

    @property
    def group_size(self) -> int:
        """Consecutive episode numbers that share a prompt."""
        return self._table.group_size

    @group_size.setter
    def group_size(self, size: int) -> None:
        self._table.group_size = int(size)  # which prompt an episode has is looked up when it begins

    @property
    def tokens(self) -> IntArray:
        """`(B, P + T)` int64, a view: prompts and completions, right-padded."""
        return self._tokens

    @property
    def starts(self) -> IntArray:
        """`(B,)` int64, a view: prompt lengths, in tokens."""
        return self._starts

    @property
    def lengths(self) -> IntArray:
        """`(B,)` int64, a view: prompt and completion lengths together, in tokens."""
        return self._lengths

    @property
    def truncated(self) -> BoolArray:
        """`(B,)` bool: rows whose episode was cut under `limit="truncate"`, and is not paid."""
        return self._cut if self.limit == "truncate" else np.zeros_like(self._cut)

    def begin(self, rows: IntArray, episode_index: IntArray) -> None:
        """Put episode `episode_index[i]` of its stream into row `rows[i]`; after a first `reset`."""
        if self._seeds is None:
            raise EpisodeError("begin was called before reset; call env.reset(seed=...) first")
        choice = self._table.choose(self._keys[rows], episode_index)
        lengths = self._table.lengths[choice]
        tokens = np.full((len(rows), self._tokens.shape[1]), self.tokenizer.pad_id, dtype=np.int64)
        tokens[:, : self.max_prompt_tokens] = self._table.tokens[choice]
        self._tokens[rows] = tokens
        self._attention[rows] = self._columns < lengths[:, None]
        self._lengths[rows] = self._starts[rows] = lengths
        self._remaining[rows] = self.max_tokens
        self._episode[rows] = episode_index
        self._prompt_index[rows] = choice
        self._done[rows] = self._cut[rows] = False
        self._ends[rows] = 0
        for row in rows.tolist() if self.stop else ():
            self._stopped_by[row] = ""
        self._paid[rows] = 0.0
        self._stale = True

    def advance(self, rows: IntArray, tokens: IntArray) -> BoolArray:
        """Append `tokens[i]` to the running episode in row `rows[i]`; tells which of them ended.

        Args:
            rows: `(n,)` int64, distinct rows whose episode runs.
            tokens: `(n,)` int64, valid ids.

        Returns:
            `(n,)` bool. No reward is computed: see `episodes` and `reward`.
        """
        lengths = self._lengths[rows]
        if self.fixed_horizon:
            over = self._ends[rows] > 0
            tokens = np.where(over, self.tokenizer.pad_id, tokens)
        places = self._offsets[rows] + lengths
        self._tokens.reshape(-1)[places] = tokens
        self._attention.reshape(-1)[places] = ~over if self.fixed_horizon else 1
        lengths += 1
        self._lengths[rows] = lengths
        ended: BoolArray = self._is_eos[tokens]
        if self.fixed_horizon:
            ended |= over  # padding may share an id with EOS, and the text ends but once
        if self.stop:
            self._find_stop(rows, ended)
        remaining = self.max_tokens - (lengths - self._starts[rows])
        self._remaining[rows] = remaining
        cut = remaining <= 0
        if self.fixed_horizon:
            self._ends[rows] = np.where(ended & ~over, lengths, self._ends[rows])
            ended, cut = cut, cut & ~ended
        else:
            cut &= ~ended
            ended |= cut
        self._cut[rows] = cut
        self._done[rows] = ended
        self._stale = True
        return ended

    def episodes(self, rows: IntArray, *, running: bool = False) -> list[Episode]:
        """The episodes in these rows as they stand: their ids do not change with the rows.

        Args:
            rows: `(n,)` int64.
            running: Give them as texts that go on, whether they ended or not.
        """
        prompts, prompt_ids = self.prompts, self._table.ids
        ends = np.where(self._ends > 0, self._ends, self._lengths) if self.fixed_horizon else self._lengths
        done = np.zeros_like(self._done) if running else self._done
        columns = (self._prompt_index, self._starts, ends, done, self._cut, self._episode)
        seeds = [None] * len(rows) if self._seeds is None else self._seeds[rows].tolist()
        return [
            _episode(
                prompt=prompts[prompt],
                prompt_ids=prompt_ids[prompt],
                completion_ids=self._tokens[row, start:length].copy(),
                tokenizer=self.tokenizer,
                finish_reason=(
                    None if not over else "length" if cut else "stop" if self._stopped_by[row] else "eos"
                ),
                stop=self._stopped_by[row] if over and not cut else "",
                agent_mask=None,
                seed=seed,
                index=index,
            )
            for row, seed, prompt, start, length, over, cut, index in zip(
                rows.tolist(), seeds, *(column[rows].tolist() for column in columns), strict=True
            )
        ]

    def prompt_of(self, seeds: IntArray, episode_index: IntArray) -> IntArray:
        """`(n,)` int64: which prompt episode `k` of a stream has. A function of (seed, k) alone."""
        return self._table.choose(stream_keys(seeds), episode_index)

    # Helpers

    def _rows_to_reset(self, options: Mapping[str, Any]) -> IntArray:
        if "reset_mask" not in options:
            return self._rows
        mask = options["reset_mask"]
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
            raise ConfigError(
                f"options['reset_mask'] must be a bool array of shape ({self.num_envs},), got "
                f"{getattr(mask, 'dtype', type(mask).__name__)} {getattr(mask, 'shape', '')}"
            )
        if not mask.any():
            raise ConfigError("options['reset_mask'] selects no row; leave the call out instead")
        return np.flatnonzero(mask)

    def _episodes_asked_for(self, options: Mapping[str, Any]) -> IntArray | None:
        if "episode_index" not in options:
            return None
        index = np.asarray(options["episode_index"])
        if index.dtype.kind not in "iu" or index.shape not in ((), (self.num_envs,)) or index.min() < 0:
            raise ConfigError(
                f"options['episode_index'] must be a whole number of at least 0, or {self.num_envs} of them, "
                f"got {options['episode_index']!r}"
            )
        return np.broadcast_to(index.astype(np.int64), (self.num_envs,))

    def _seed_rows(self, seed: int | Sequence[int | None] | None, rows: IntArray) -> None:
        wanted: Sequence[int | None] = []
        if isinstance(seed, (int, np.integer)):
            wanted = self._stream_seeds(int(seed)).tolist()
        elif seed is not None:
            wanted = seed
            if len(wanted) != self.num_envs:
                raise ConfigError(f"seed has {len(wanted)} entries for num_envs={self.num_envs}")
        super().reset(seed=wanted[0] if wanted else None)
        if self._seeds is None:
            every = len(wanted) > 0 and None not in wanted
            self._seeds = self._stream_seeds(0 if every else int(self.np_random.integers(2**31)))
        for i in rows.tolist() if wanted else ():
            own = wanted[i]
            if own is not None:
                self._seeds[i] = own
                self._next[i if self.numbering == "per_env" else slice(None)] = 0
        self._keys = stream_keys(self._seeds)

    def _stream_seeds(self, seed: int) -> IntArray:
        return np.full(self.num_envs, seed) if self.numbering == "global" else seed + np.arange(self.num_envs)

    def _begin_next(self, rows: IntArray) -> None:
        index = self._next[rows]
        if self.numbering == "global":
            index = index + np.arange(len(rows))
            self._next += len(rows)
        else:
            self._next[rows] += 1
        self.begin(rows, index)

    def _rows_restarting(self) -> IntArray:
        ended = np.flatnonzero(self._done)
        if len(ended) and self._seeds is None:
            raise EpisodeError("step was called before reset; call env.reset(seed=...) first")
        if len(ended) and self.autoreset_mode is not AutoresetMode.NEXT_STEP:
            raise EpisodeError(
                f"the episodes in rows {ended.tolist()} are over; call env.reset(options={{'reset_mask': "
                "terminated | truncated}) before the next step"
            )
        return ended

    def _valid_tokens(self, actions: npt.ArrayLike, ignored: IntArray) -> IntArray:
        given = token_array(actions, (self.num_envs,))
        v = self.tokenizer.vocab_size
        tokens = given.astype(np.int64, copy=False)
        if tokens.view(np.uint64).max() >= v:  # negative ids are huge as unsigned ones
            wrong = (tokens < 0) | (tokens >= v)
            wrong[ignored] = False
            if wrong.any():
                row = int(np.flatnonzero(wrong)[0])
                raise TokenError(f"token id {given[row]} in row {row} is outside [0, {v})")
        return tokens

    def _check_allowed(self, tokens: IntArray, ignored: IntArray) -> None:
        allowed = self.action_masks()[self._rows, tokens]
        allowed[ignored] = True
        if not allowed.all():
            row = int(np.flatnonzero(~allowed)[0])
            raise TokenError(
                f"token id {tokens[row]} in row {row} is masked; choose one of action_masks(), or make the "
                "environment with on_masked='allow'"
            )

    def _shown_mask(self) -> npt.NDArray[np.int8]:
        return self.action_masks().astype(np.int8)

    def _find_stop(self, rows: IntArray, ended: BoolArray) -> None:
        """Mark rows whose text now holds a stop string."""
        # A stop string may begin inside a token and a character may take four byte tokens.
        window = 4 * max(map(len, self.stop)) + 8
        for j, i in enumerate(rows.tolist()):
            if ended[j]:
                continue
            tail = self._tokens[i, max(self._starts[i], self._lengths[i] - window) : self._lengths[i]]
            text = self.tokenizer.decode(tail.tolist())
            found = [s for s in self.stop if s in text]
            if found:  # several in one token: the first one counts
                self._stopped_by[i] = min(found, key=lambda s: (text.find(s), -len(s)))
                ended[j] = True

    def _pay_tokens(self, rows: IntArray, rewards: FloatArray) -> None:
        """What the newest tokens earned in episodes that go on, or would but for the limit."""
        if len(rows):
            lengths = self._lengths[rows]
            batch = TokenBatch(
                prompts=self.prompts,
                prompt_index=self._prompt_index[rows],
                tokens=self._tokens.reshape(-1)[self._offsets[rows] + lengths - 1],
                steps=lengths - self._starts[rows],
                tokenizer=self.tokenizer,
                episodes=lambda: self.episodes(rows, running=True),
                on_bad_reward=self.on_bad_reward,
            )
            rewards[rows] = checked_tokens(self.reward, batch)
            self._paid[rows] += rewards[rows]

    def _pay_episodes(self, rows: IntArray, rewards: FloatArray, infos: Info) -> IntArray:
        """Rewards and info of episodes that ended now; returns the rows that began another one instead."""
        episodes = self.episodes(rows)
        paid = ~self.truncated[rows]
        redrawn = rows[:0]
        if paid.any():
            scored = self.reward([episodes[i] for i in np.flatnonzero(paid).tolist()], self.on_bad_reward)
            redrawn = self._pay(rows[paid], scored, rewards, infos)
        over = self._done[rows]  # all but those that began another episode
        if self.info_texts and over.any():
            texts = [episodes[i].completion for i in np.flatnonzero(over).tolist()]
            put(infos, self.num_envs, rows[over], {"completion": texts})
        return redrawn

    def _pay(self, rows: IntArray, scored: Rewards, rewards: FloatArray, infos: Info) -> IntArray:
        """Pay episodes that were scored; returns the rows that began another one instead of ending."""
        stepwise = self.reward.causal and not self.fixed_horizon
        rewards[rows] = self._left_to_pay(rows, scored) if stepwise else scored.totals
        redrawn = self._redraw(rows, scored.abstained) if self.on_abstain == "redraw" else rows[:0]
        over = self._done[rows]
        if scored.terms and over.any():
            terms = {k: np.asarray(v, dtype=np.float64)[over] for k, v in scored.terms.items()}
            put(infos, self.num_envs, rows[over], {"reward_terms": terms})
        silent = scored.abstained & over
        if silent.any():
            put(infos, self.num_envs, rows[silent], {"reward_abstained": silent[silent]})
        return redrawn

    def _left_to_pay(self, rows: IntArray, scored: Rewards) -> FloatArray:
        """`(n,)`: what episodes are worth, less what was paid for their earlier tokens.

        That is the reward at the end and that of the last token. Only where a part of the source abstained
        in the end were the earlier ones paid something else than they are worth now, and it is set right.
        """
        if scored.per_token is None:
            return scored.values - self._paid[rows]
        last = np.array([tokens[-1] for tokens in scored.per_token])
        # Summed in the order of the steps, so that equal payments have equal sums.
        earlier = np.array([np.cumsum(np.append(0.0, tokens[:-1]))[-1] for tokens in scored.per_token])
        left: FloatArray = scored.values + last - (self._paid[rows] - earlier)
        return left

    def _redraw(self, rows: IntArray, abstained: BoolArray) -> IntArray:
        """Begin new episodes in those of the rows whose episode was not judged, and return these.

        Raises:
            RewardError: No episode was judged for too long.
        """
        count = int(np.count_nonzero(abstained))
        self._abstentions = self._abstentions + count if count == len(rows) else 0
        if self._abstentions >= MOST_ABSTENTIONS:
            said = harmless(self.reward.last_failure or "it abstained and gave no reason", limit=400)
            count, self._abstentions = self._abstentions, 0
            raise RewardError(
                f"reward {self.reward.name!r} judged none of the last {count} episodes, and with "
                f"on_abstain='redraw' one has to be: {said}. Mend the reward and reset the environment"
            )
        self._redrawn[rows[~abstained]] = 0
        redrawn = rows[abstained]
        self._redrawn[redrawn] += 1
        self.redrawn += count
        self._begin_next(redrawn)
        return redrawn

    def _begin_info(self, infos: Info, rows: IntArray) -> Info:
        choice = self._prompt_index[rows]
        columns = {"episode_index": self._episode[rows]}
        if self.info_texts:
            columns["prompt"] = self._table.texts[choice]
        put(infos, self.num_envs, rows, columns)
        dropped = self._table.dropped[choice]
        some = dropped > 0
        if np.count_nonzero(some):
            put(infos, self.num_envs, rows[some], {"prompt_tokens_dropped": dropped[some]})
        return infos

    def _restart_same_step(self, infos: Info) -> Info:
        rows = np.flatnonzero(self._done)
        if self.mask is not None:
            put(infos, self.num_envs, rows, {"action_mask": self._shown_mask()[rows]})
        last = {k: v[rows] for k, v in self._views().items()}
        final = [{k: v[i] for k, v in last.items()} for i in range(len(rows))]
        result = put({}, self.num_envs, rows, {"final_obs": final})
        result["final_info"] = infos
        result["_final_info"] = result["_final_obs"].copy()
        self._begin_next(rows)
        return self._begin_info(result, rows)

    def _views(self) -> Observation:
        views: Observation = {
            "tokens": self._tokens,
            "attention_mask": self._attention,
            "length": self._lengths[:, None],
            "remaining": self._remaining[:, None],
        }
        if self.mask is not None:
            views["action_mask"] = self._shown_mask()
        return views

    def _observe(self) -> Observation:
        views = self._views()
        return {k: v.copy() for k, v in views.items()} if self.copy else views


def token_array(actions: Any, shape: tuple[int, ...]) -> npt.NDArray[np.integer[Any]]:
    """Actions as an array of integers of this shape.

    Raises:
        TokenError: They are something else: floats, bools, another shape.
    """
    try:
        array = np.asarray(actions)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TokenError(f"actions are no array of token ids ({error}); from a GPU, call .cpu()") from error
    kind = str(array.dtype)
    if isinstance(actions, (list, tuple)) and any(isinstance(a, (bool, np.bool_)) for a in actions):
        kind = "bool"  # NumPy makes integers of them
    if array.dtype.kind not in "iu" or array.shape != shape or kind == "bool":
        raise TokenError(
            f"actions have dtype {kind} and shape {array.shape}; expected integer token ids of shape {shape}"
        )
    return array


def _episode(**fields: Any) -> Episode:
    """An `Episode` of all its fields, without the slow `__init__` of frozen dataclasses."""
    episode = object.__new__(Episode)
    object.__setattr__(episode, "__dict__", fields)
    return episode


def _resolve_task(task: Task | str | None, parameters: dict[str, Any]) -> Task | None:
    if isinstance(task, str):
        try:
            return load_task(task, **parameters)
        except TypeError as error:
            raise ConfigError(f"task {task!r}: {error}") from error
    if parameters:
        raise ConfigError(
            f"unknown argument {next(iter(parameters))!r}; the environment has no such parameter, "
            "and no task was named that could have it"
        )
    return task


def _check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    if value not in choices:
        shown = ", ".join(repr(c) for c in choices if not isinstance(c, AutoresetMode))
        raise ConfigError(f"{name} is {value!r}; choose {shown}")
