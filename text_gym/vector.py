"""TextVectorEnv: the token-level Markov decision process, `B` episodes at a time.

State: prompt ids and the completion so far. Action: the next token id. Transition: append it.
`terminated`: an EOS id or a stop string. `truncated`: the token limit without either (an EOS on
the last allowed token is terminated only). Reward: a `RewardSource`, asked once an episode is over.
Everything else in text-gym (`TextEnv`, the sampler of the agents, the adapters) steps through this
one implementation. It holds no policy and therefore knows no KL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from .display import harmless
from .episode import BoolArray, Episode, IntArray, Prompt, as_prompts
from .errors import ConfigError, EpisodeError, PromptError, TokenError, UnknownNameError, excerpt
from .reward import FloatArray, OnBadReward, Rewards, RewardSource, as_reward_source
from .task import Task, load_task
from .tokenizer import as_tokenizer

Observation = dict[str, npt.NDArray[Any]]
Info = dict[str, Any]
RESET_OPTIONS = ("reset_mask", "episode_index")


class TextVectorEnv(VectorEnv[Observation, IntArray, npt.NDArray[Any]]):
    """A batch of text episodes in one preallocated `(B, P + T)` buffer.

    Observation (a `Dict`, per episode; `P` is the longest prompt, `T` is `max_tokens`):

    - `tokens` `(P + T,)` int64: prompt and completion without a gap, then padding;
    - `attention_mask` `(P + T,)` int8: 1 where there is a token (padding may share an id with EOS);
    - `length` `(1,)` int64: how many there are.

    Action: `Discrete(V)`. Info of a reset: `prompt`, `episode_index`. Info of a last step: `completion`,
    and `reward_terms` if the reward source names its parts.

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
        on_bad_reward: `"raise"`, or `"drop"`: pay 0 and set info `reward_abstained`.
        render_mode: `"ansi"` or None.
        **task_parameters: Parameters of the named task, e.g. `length=6` for `copy`.

    Raises:
        PromptError: An empty prompt without a BOS id, or one that does not fit.
        ConfigError: An argument that makes no sense; its name and value are told.

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
        render_mode: str | None = None,
        **task_parameters: Any,
    ) -> None:
        task = _resolve_task(task, task_parameters)
        if task is not None:
            prompts = task.prompts if prompts is None else prompts
            tokenizer = task.tokenizer if tokenizer is None else tokenizer
            reward = task.reward if reward is None else reward
            max_tokens = task.max_tokens if max_tokens is None else max_tokens
        if prompts is None or tokenizer is None or reward is None or max_tokens is None:
            raise ConfigError("pass prompts, tokenizer, reward and max_tokens, or a task that has them")
        for name, value in {"max_tokens": max_tokens, "num_envs": num_envs, "group_size": group_size}.items():
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name} is {value!r}; it must be a whole number of at least 1")
        if render_mode not in (None, "ansi"):
            raise ConfigError(f"render_mode is {render_mode!r}; the only one is 'ansi'")
        if numbering not in ("per_env", "global"):
            raise ConfigError(f"numbering is {numbering!r}; choose 'per_env' or 'global'")

        self.task = task
        self.num_envs = num_envs
        self.max_tokens = int(max_tokens)
        self.tokenizer = as_tokenizer(tokenizer)
        self.reward = as_reward_source(reward)
        self.prompts = as_prompts(prompts)
        self.stop = (stop,) if isinstance(stop, str) else tuple(stop)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = render_mode
        self.copy = copy
        self.shuffle = shuffle
        self.group_size = group_size
        self.numbering = numbering
        self.on_bad_reward: OnBadReward = on_bad_reward
        if "" in self.stop:
            raise ConfigError("an empty stop string would end every episode at once")

        self._encode_prompts(max_prompt_tokens, on_long_prompt, context)
        self._make_spaces_and_buffers()

    def _encode_prompts(self, limit: int | None, on_long: str, context: int | None) -> None:
        """Tokenize every prompt once, into `(number of prompts, P)` with lengths."""
        bos = self.tokenizer.bos_id
        encoded = [self.tokenizer.encode(p.text) or ([] if bos is None else [bos]) for p in self.prompts]
        if limit is None:
            limit = max(map(len, encoded))
            if context is not None and on_long == "truncate":
                limit = min(limit, context - self.max_tokens)
        if context is not None and limit + self.max_tokens > context:
            longest = max(range(len(encoded)), key=lambda i: len(encoded[i]))
            raise PromptError(
                f"{limit} prompt tokens (longest: prompt {longest}, {excerpt(self.prompts[longest].id)}) and "
                f"max_tokens={self.max_tokens} exceed the context of {context} tokens; shorten them, lower "
                "max_tokens, or pass on_long_prompt='truncate'"
            )
        if limit < 1:
            raise ConfigError(f"max_prompt_tokens is {limit}; it must be at least 1")
        self.max_prompt_tokens = limit
        self._prompt_tokens = np.full((len(encoded), limit), self.tokenizer.pad_id, dtype=np.int64)
        self._prompt_lengths = np.zeros(len(encoded), dtype=np.int64)
        self._prompt_dropped = np.zeros(len(encoded), dtype=np.int64)
        for i, ids in enumerate(encoded):
            where = f"prompt {i} ({excerpt(self.prompts[i].id)})"
            if not ids:
                raise PromptError(f"{where} has no tokens and the tokenizer has no BOS id to stand for it")
            if len(ids) > limit and on_long != "truncate":
                raise PromptError(
                    f"{where} has {len(ids)} tokens, max_prompt_tokens is {limit}; raise it, or pass "
                    "on_long_prompt='truncate' to drop tokens on the left"
                )
            self._prompt_dropped[i] = max(0, len(ids) - limit)
            ids = ids[-limit:]
            self._prompt_tokens[i, : len(ids)] = ids
            self._prompt_lengths[i] = len(ids)

    def _make_spaces_and_buffers(self) -> None:
        n, width, v = self.num_envs, self.max_prompt_tokens + self.max_tokens, self.tokenizer.vocab_size
        self.single_observation_space = Dict(
            {
                "tokens": Box(0, v - 1, (width,), np.int64),
                "attention_mask": Box(0, 1, (width,), np.int8),
                "length": Box(1, width, (1,), np.int64),
            }
        )
        self.single_action_space = Discrete(v)
        self.observation_space = batch_space(self.single_observation_space, n)
        self.action_space = batch_space(self.single_action_space, n)

        self._tokens = np.full((n, width), self.tokenizer.pad_id, dtype=np.int64)
        self._attention = np.zeros((n, width), dtype=np.int8)
        self._length = np.ones((n, 1), dtype=np.int64)
        self._lengths = self._length[:, 0]  # the same memory, flat
        self._starts = np.ones(n, dtype=np.int64)  # where the completion begins
        self._terminated = np.zeros(n, dtype=np.bool_)
        self._truncated = np.zeros(n, dtype=np.bool_)
        self._done = np.ones(n, dtype=np.bool_)
        self._stopped_by = [""] * n
        self._is_eos = np.zeros(v, dtype=np.bool_)
        self._is_eos[list(self.tokenizer.eos_ids)] = True
        self._rows = np.arange(n)
        self._seeds: IntArray | None = None  # seed of each row's stream
        self._episode = np.zeros(n, dtype=np.int64)  # number k of the episode each row plays
        self._next = np.zeros(n, dtype=np.int64)  # number of the episode it plays next
        self._prompt_index = np.zeros(n, dtype=np.int64)

    # The Gymnasium interface

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,  # type: ignore[override]
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
        """
        options = dict(options or {})
        for name in options:
            if name not in RESET_OPTIONS:
                raise UnknownNameError("reset option", name, RESET_OPTIONS)
        rows = self._rows_to_reset(options)
        self._seed_rows(seed, rows)
        if "episode_index" in options:
            index = np.broadcast_to(np.asarray(options["episode_index"], dtype=np.int64), (self.num_envs,))[rows]
            self.begin(rows, index)
            if self.numbering == "per_env":
                self._next[rows] = index + 1
            else:
                self._next[:] = index.max() + 1
        else:
            self._begin_next(rows)
        return self._observe(), self._begin_info({}, rows)

    def step(
        self, actions: npt.ArrayLike
    ) -> tuple[Observation, FloatArray, BoolArray, BoolArray, Info]:
        """Append one token to every running episode.

        Args:
            actions: `(B,)` integer token ids (NumPy, torch on CPU, or a list). Under `NEXT_STEP` the
                ids of rows that restart in this step are ignored.

        Raises:
            TokenError: An id out of range or not an integer, or another shape; nothing has changed.
            EpisodeError: Before `reset`, or (autoreset disabled) an episode is over.
            RewardError: The reward source failed on an episode that ended now.
        """
        restarting = self._rows_restarting()
        tokens = self._valid_tokens(actions, restarting)
        infos: Info = {}
        rewards = np.zeros(self.num_envs)
        rows = self._rows
        if len(restarting):
            rows = np.flatnonzero(~self._done)
            tokens = tokens[rows]
            self._begin_next(restarting)
            self._begin_info(infos, restarting)
        if len(rows):
            self.advance(rows, tokens)
            self._pay(rows, rewards, infos)
        terminated, truncated = self._terminated.copy(), self._truncated.copy()
        if self.autoreset_mode is AutoresetMode.SAME_STEP and self._done.any():
            infos = self._restart_same_step(infos)
        return self._observe(), rewards, terminated, truncated, infos

    def render(self) -> tuple[str, ...] | None:  # type: ignore[override]
        """Prompt and completion so far of every row, safe to print; None without a render mode."""
        if self.render_mode is None:
            return None
        return tuple(
            f"{harmless(e.prompt.text)}│{harmless(e.completion)}{'■' if e.done else '▁'}"
            for e in self.episodes(self._rows)
        )

    # The transition itself, for agents that step a changing subset of rows

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
        """`(B,)` bool, a view: rows whose episode was cut at the token limit."""
        return self._truncated

    def begin(self, rows: IntArray, episode_index: IntArray) -> None:
        """Put episode `episode_index[i]` of its stream into row `rows[i]`."""
        assert self._seeds is not None
        choice = self.prompt_of(self._seeds[rows], episode_index)
        self._episode[rows] = episode_index
        self._prompt_index[rows] = choice
        lengths = self._prompt_lengths[choice]
        self._tokens[rows, : self.max_prompt_tokens] = self._prompt_tokens[choice]
        self._tokens[rows, self.max_prompt_tokens :] = self.tokenizer.pad_id
        self._attention[rows] = np.arange(self._attention.shape[1]) < lengths[:, None]
        self._lengths[rows] = self._starts[rows] = lengths
        self._terminated[rows] = self._truncated[rows] = self._done[rows] = False

    def advance(self, rows: IntArray, tokens: IntArray) -> BoolArray:
        """Append `tokens[i]` to the running episode in row `rows[i]`; tells which of them ended.

        Args:
            rows: `(n,)` int64, distinct rows whose episode runs.
            tokens: `(n,)` int64, valid ids.

        Returns:
            `(n,)` bool. No reward is computed: see `episodes` and `reward`.
        """
        columns = self._lengths[rows]
        self._tokens[rows, columns] = tokens
        self._attention[rows, columns] = 1
        columns += 1
        self._lengths[rows] = columns
        terminated = self._is_eos[tokens]
        if self.stop:
            self._find_stop(rows, terminated)
        truncated = (columns - self._starts[rows] >= self.max_tokens) & ~terminated
        self._terminated[rows] = terminated
        self._truncated[rows] = truncated
        ended: BoolArray = terminated | truncated
        self._done[rows] = ended
        return ended

    def episodes(self, rows: IntArray) -> list[Episode]:
        """The episodes in these rows as they stand, with ids of their own (not views)."""
        seeds = self._seeds
        return [
            Episode(
                prompt=self.prompts[self._prompt_index[i]],
                prompt_ids=self._tokens[i, : self._starts[i]].copy(),
                completion_ids=self._tokens[i, self._starts[i] : self._lengths[i]].copy(),
                tokenizer=self.tokenizer,
                terminated=bool(self._terminated[i]),
                truncated=bool(self._truncated[i]),
                stop=self._stopped_by[i] if self._terminated[i] else "",
                seed=None if seeds is None else int(seeds[i]),
                index=int(self._episode[i]),
            )
            for i in rows.tolist()
        ]

    def prompt_of(self, seeds: IntArray, episode_index: IntArray) -> IntArray:
        """`(n,)` int64: which prompt episode `k` of a stream has. A function of (seed, k) alone."""
        group = episode_index // self.group_size
        if not self.shuffle:
            return group % len(self.prompts)
        draw = _hash64(_hash64(seeds.astype(np.uint64)) + group.astype(np.uint64))
        return (draw % np.uint64(len(self.prompts))).astype(np.int64)

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

    def _seed_rows(self, seed: int | Sequence[int | None] | None, rows: IntArray) -> None:
        wanted = self._stream_seeds(int(seed)).tolist() if isinstance(seed, (int, np.integer)) else seed
        if wanted is not None and len(wanted) != self.num_envs:
            raise ConfigError(f"seed has {len(wanted)} entries for num_envs={self.num_envs}")
        super().reset(seed=wanted[0] if wanted else None)
        if self._seeds is None:
            self._seeds = self._stream_seeds(int(self.np_random.integers(2**31)))
        for i in rows.tolist() if wanted else ():
            if wanted[i] is not None:
                self._seeds[i] = wanted[i]
                self._next[i if self.numbering == "per_env" else slice(None)] = 0

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
        if not self._done.any():
            return self._rows[:0]
        if self._seeds is None:
            raise EpisodeError("step was called before reset; call env.reset(seed=...) first")
        ended = np.flatnonzero(self._done)
        if self.autoreset_mode is not AutoresetMode.NEXT_STEP:
            raise EpisodeError(
                f"the episodes in rows {ended.tolist()} are over; call env.reset(options={{'reset_mask': "
                "terminated | truncated}) before the next step"
            )
        return ended

    def _valid_tokens(self, actions: npt.ArrayLike, ignored: IntArray) -> IntArray:
        try:
            tokens = np.asarray(actions)
        except (TypeError, ValueError) as error:
            raise TokenError(f"actions are not an array of token ids ({error}); from a GPU, call .cpu()") from error
        if tokens.dtype.kind not in "iu" or tokens.shape != (self.num_envs,):
            raise TokenError(
                f"actions have dtype {tokens.dtype} and shape {tokens.shape}; "
                f"expected integer token ids of shape ({self.num_envs},)"
            )
        v = self.tokenizer.vocab_size
        if tokens.min() < 0 or tokens.max() >= v:
            wrong = (tokens < 0) | (tokens >= v)
            wrong[ignored] = False
            if wrong.any():
                row = int(np.flatnonzero(wrong)[0])
                raise TokenError(f"token id {tokens[row]} in row {row} is outside [0, {v})")
            tokens = np.where((tokens < 0) | (tokens >= v), 0, tokens)
        return tokens.astype(np.int64, copy=False)

    def _find_stop(self, rows: IntArray, terminated: BoolArray) -> None:
        """Mark rows whose text now holds a stop string."""
        # A stop string may begin inside a token and a character may take four byte tokens.
        window = 4 * max(map(len, self.stop)) + 8
        for j, i in enumerate(rows.tolist()):
            tail = self._tokens[i, max(self._starts[i], self._lengths[i] - window) : self._lengths[i]]
            text = self.tokenizer.decode(tail.tolist())
            found = [s for s in self.stop if s in text]
            self._stopped_by[i] = max(found, key=len) if found and not terminated[j] else ""
            terminated[j] |= bool(found)

    def _pay(self, rows: IntArray, rewards: FloatArray, infos: Info) -> None:
        """Rewards and info of this step: the last token's, and the whole episode's where it ended."""
        ended = rows[self._done[rows]]
        asked = rows if self.reward.causal else ended
        if not len(asked):
            return
        episodes = self.episodes(asked)
        scored = self.reward(episodes, self.on_bad_reward)
        if self.reward.causal and scored.per_token is not None:
            rewards[asked] = [float(tokens[-1]) for tokens in scored.per_token]
            over = self._done[asked]
            rewards[ended] += scored.values[over]
        else:
            over = np.ones(len(asked), dtype=np.bool_) if asked is ended else self._done[asked]
            rewards[ended] = scored.totals[over]
        if len(ended):
            self._finish_info(infos, ended, over, episodes, scored)

    def _begin_info(self, infos: Info, rows: IntArray) -> Info:
        columns: dict[str, Any] = {
            "prompt": [self.prompts[i].text for i in self._prompt_index[rows].tolist()],
            "episode_index": self._episode[rows],
        }
        self._put(infos, rows, columns)
        dropped = self._prompt_dropped[self._prompt_index[rows]]
        if dropped.any():
            some = dropped > 0
            self._put(infos, rows[some], {"prompt_tokens_dropped": dropped[some]})
        return infos

    def _finish_info(
        self, infos: Info, ended: IntArray, over: BoolArray, episodes: Sequence[Episode], scored: Rewards
    ) -> None:
        columns: dict[str, Any] = {"completion": [episodes[j].completion for j in np.flatnonzero(over).tolist()]}
        if scored.terms:
            columns["reward_terms"] = {k: np.asarray(v, dtype=np.float64)[over] for k, v in scored.terms.items()}
        self._put(infos, ended, columns)
        abstained = scored.abstained[over]
        if abstained.any():
            self._put(infos, ended[abstained], {"reward_abstained": abstained[abstained]})

    def _put(self, infos: Info, rows: IntArray, columns: Mapping[str, Any]) -> Info:
        """`VectorEnv._add_info` for many rows at once, with the same result."""
        for key, values in columns.items():
            if isinstance(values, Mapping):
                infos[key] = self._put(infos.get(key, {}), rows, values)
            else:
                if key not in infos:
                    plain = isinstance(values, np.ndarray)
                    infos[key] = (
                        np.zeros(self.num_envs, values.dtype) if plain else np.full(self.num_envs, None, object)
                    )
                infos[key][rows] = values
            mask = infos.setdefault(f"_{key}", np.zeros(self.num_envs, dtype=np.bool_))
            mask[rows] = True
        return infos

    def _restart_same_step(self, infos: Info) -> Info:
        rows = np.flatnonzero(self._done)
        final = [
            {"tokens": self._tokens[i].copy(), "attention_mask": self._attention[i].copy(), "length": self._length[i].copy()}
            for i in rows.tolist()
        ]
        result = self._put({}, rows, {"final_obs": final})
        result["final_info"] = infos
        result["_final_info"] = result["_final_obs"].copy()
        self._begin_next(rows)
        return self._begin_info(result, rows)

    def _observe(self) -> Observation:
        views: Observation = {
            "tokens": self._tokens, "attention_mask": self._attention, "length": self._length,
        }
        return {k: v.copy() for k, v in views.items()} if self.copy else views


def _resolve_task(task: Task | str | None, parameters: dict[str, Any]) -> Task | None:
    if isinstance(task, str):
        try:
            return load_task(task, **parameters)
        except TypeError as error:
            raise ConfigError(f"task {task!r}: {error}") from error
    if parameters:
        raise ConfigError(f"unknown argument {next(iter(parameters))!r}; it is no parameter of the environment")
    return task


def _hash64(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea & Flood 2014): a stateless, vectorised hash of 64-bit integers."""
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
