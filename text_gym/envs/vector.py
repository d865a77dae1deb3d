"""TextVectorEnv is Gymnasium's vector environment over an `EpisodeBatch`.

Here are spaces, seeds, restarts, observations and infos; what a token does is in `episode_batch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from text_gym.episode import BoolArray, Episode, FloatArray, IntArray, Prompt
from text_gym.errors import EpisodeError
from text_gym.rewards.source import RewardSource
from text_gym.tasks.task import Task
from text_gym.tokenizer import Tokenizer

from .episode_batch import EpisodeBatch
from .infos import Info, infos_writer, put
from .inputs import check_allowed, episodes_asked_for, idle_rows, rows_to_reset, valid_tokens
from .observations import observer_of
from .options import check_choice, check_count, episode_parts, sort_options
from .rendering import renderer_of
from .streams import EpisodeStreams, Redraws


class TextVectorEnv(VectorEnv[Any, IntArray, npt.NDArray[Any]]):
    """Plays text episodes side by side, token by token, as one Gymnasium vector environment.

    Observation (a `Dict`; `P` is the longest prompt, `C` `max_tokens` and the room for replies; other kinds:
    `observation` of `VectorOptions`):

    - `tokens` `(P + C,)` int64: prompt and completion without a gap, then padding;
    - `attention_mask` `(P + C,)` int8: 1 where there is a token (padding may share an id with EOS);
    - `length` `(1,)` int64: how many there are;
    - `remaining` `(1,)` int64: how many more the token limit allows;
    - `action_mask` `(V,)` int8, with `mask=` only: 1 for tokens that may come next; also in info, and as bool
      by `action_masks()`. After an episode's end all are allowed.

    Action: `Discrete(V)`. Info of a reset: `prompt`, `episode_index`. Info of a last step: `completion`,
    `reward_terms` if the reward source names its parts, and `reward_abstained` (True) if it had no opinion.

    Args:
        prompts: Strings, `Prompt`s, or rows with a `prompt` column.
        tokenizer: A `Tokenizer`, a fast tokenizer of `transformers`, or the name of a folder or hub model.
        reward: A `RewardSource`, any function that `as_reward_source` takes, or the name of one to import,
            `"module:function"`, with which the spec can be written as JSON.
        max_tokens: `T`, token limit of a completion, EOS included.
        num_envs: `B`, episodes side by side.
        task: A `Task` or its name: gives prompts, tokenizer, reward and `max_tokens` where those are None.
        autoreset_mode: What happens after an episode's end, as in Gymnasium.
        render_mode: `"ansi"`, `"rgb_array"` or None; see `render`.
        **options: By name, the fields of `EpisodeOptions` (what an episode is: `stop`, `limit`, `mask`,
            `on_bad_reward`, `shuffle`, `group_size`, `max_prompt_tokens`, `on_long_prompt`, `context`, and
            `respondent`, `turn_stop`, `max_turns`, `max_context`, `on_bad_reply` of conversations) and of
            `VectorOptions` (how they are played and shown: `numbering`, `on_abstain`, `on_masked`, `copy`,
            `info_texts`, `observation`, `infos`); where a task is named, its parameters too (`length=6`).

    Attributes:
        batch: The `EpisodeBatch` that is played, for agents that step a changing subset of its rows.
        observer: Makes the observations.
        options: The `VectorOptions`; those of the episodes are `batch.options`.

    Raises:
        PromptError: An empty prompt without a BOS id, or one that does not fit.
        ConfigError: An argument that makes no sense; its name and value are told. For one that is unknown it
            is a `TypeError` too.

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
        "render_modes": ["ansi", "rgb_array"],
        "render_fps": 10,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        prompts: Iterable[Prompt | str | Mapping[str, Any]] | None = None,
        tokenizer: Any = None,
        reward: RewardSource | Callable[..., Any] | str | None = None,
        max_tokens: int | None = None,
        num_envs: int = 1,
        *,
        task: Task | str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        self.task, episode_options, self.options = sort_options(task, options)
        parts = episode_parts(self.task, prompts, tokenizer, reward, max_tokens)
        check_count("num_envs", num_envs)
        mode = autoreset_mode.value if isinstance(autoreset_mode, AutoresetMode) else autoreset_mode
        check_choice("autoreset_mode", mode, [m.value for m in AutoresetMode])
        self.num_envs = int(num_envs)
        self.autoreset_mode = AutoresetMode(mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = render_mode
        self.batch = EpisodeBatch(*parts, self.num_envs, episode_options)
        self.observer = observer_of(self.options.observation, self.batch, copy=self.options.copy)
        self._infos = infos_writer(self.batch, self.options)
        self._renderer = renderer_of(render_mode, self.batch)
        self.single_observation_space = self.observer.space
        self.single_action_space = Discrete(self.batch.tokenizer.vocab_size)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._rows = np.arange(self.num_envs)
        self._streams = EpisodeStreams(self.num_envs, self.options.numbering)
        self._redraws = Redraws(self.num_envs)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, Info]:
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
        options = options or {}
        rows = rows_to_reset(options, self.num_envs)
        index = episodes_asked_for(options, self.num_envs)
        seeds = self._streams.of_seed(seed)
        super().reset(seed=seeds[0] if seeds else None)
        self._streams.reseed(rows, seeds, self.np_random)
        self._redraws.since_judged[rows] = 0
        if index is None:
            self._begin_next(rows)
        else:
            self.batch.begin(rows, *self._streams.choose(rows, index[rows]))
        infos = self._infos.masks(self._infos.beginnings(self._infos.start(rows), rows), rows)
        if self._renderer is not None:
            self._renderer.paid(np.zeros(self.num_envs))
        return self.observer.all(), infos

    def step(
        self, actions: npt.ArrayLike, active: BoolArray | None = None
    ) -> tuple[Any, FloatArray, BoolArray, BoolArray, Info]:
        """Append one token to every running episode, and the reply where it ends a turn of a conversation.

        Args:
            actions: `(B,)` integer token ids (NumPy, torch on CPU, or a list). Under `NEXT_STEP` the
                ids of rows that restart in this step are ignored.
            active: `(B,)` bool, the rows to step; None steps all. The others stay as they are, whatever
                their id: nothing is paid or reset there, an episode that is over stays over, and info says
                `inactive`. It lets rows that finish at different times wait for each other.

        Raises:
            TokenError: An id out of range or not an integer, or another shape; nothing has changed.
            EpisodeError: Before `reset`, or (autoreset disabled) an episode is over.
            ConfigError: `active` has another form.
            RespondentError: A respondent failed: its episodes are over and unpaid, the others have gone on.
            RewardError: The reward source failed (with `on_abstain="redraw"` also: it abstained a hundred
                times in a row); the token was appended, and an episode that it ended is over.
        """
        batch = self.batch
        idle = self._rows[:0] if active is None else idle_rows(active, self.num_envs)
        restarting = self._rows_restarting(idle)
        ignored = np.union1d(restarting, idle) if len(idle) else restarting
        tokens = valid_tokens(actions, self.num_envs, self.tokenizer.vocab_size, ignored)
        if batch.mask is not None and self.options.on_masked == "raise":
            check_allowed(tokens, batch.action_masks(), ignored)
        infos = self._infos.start(self._rows)
        rewards = np.zeros(self.num_envs)
        rows, redrawn = self._rows, self._rows[:0]
        if len(ignored):
            rows = (~batch.done if active is None else active & ~batch.done).nonzero()[0]
            tokens = tokens[rows]
        if len(restarting):
            self._begin_next(restarting)
            self._infos.beginnings(infos, restarting)
        if len(rows):
            ended = batch.advance(rows, tokens)
            if batch.conversation is not None:
                rewards[rows] = batch.conversation.rewards[rows]
            if batch.reward.causal:
                going_on = rows[~ended | batch.truncated[rows]]
                rewards[going_on] = batch.pay_tokens(going_on)
            if np.count_nonzero(ended):
                redrawn = self._end(rows[ended], rewards, infos)
        truncated = batch.truncated.copy()
        terminated = batch.done & ~truncated
        if self.autoreset_mode is AutoresetMode.SAME_STEP and np.count_nonzero(batch.done):
            infos = self._restart_same_step(infos)
        if len(redrawn):
            self._infos.redraws(infos, redrawn, self._redraws.since_judged[redrawn])
        self._infos.masks(self._infos.idle(infos, idle), self._rows)
        if self._renderer is not None:
            self._renderer.paid(rewards)
        return self.observer.all(), rewards, terminated, truncated, infos

    def render(self) -> tuple[Any, ...] | None:
        """Return a frame for every row; None without a render mode.

        Under `"ansi"` it is prompt and completion so far, safe to print; under `"rgb_array"` a picture
        `(320, 640, 3)` uint8 of these, the newest token, its reward and the action mask.
        """
        return None if self._renderer is None else self._renderer.frames()

    # What users most often want from the batch

    def action_masks(self) -> BoolArray:
        """Return which tokens may come next, `(B, V)` bool; all of them if there is no mask."""
        return self.batch.action_masks()

    def episodes(self, rows: IntArray) -> list[Episode]:
        """Return the episodes in rows `(n,)` as they stand."""
        return self.batch.episodes(rows)

    @property
    def redrawn(self) -> int:
        """The number of episodes begun in place of ones nobody judged."""
        return self._redraws.total

    @property
    def prompts(self) -> Sequence[Prompt]:
        """The prompts that episodes begin with."""
        return self.batch.prompts

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer whose ids are the actions."""
        return self.batch.tokenizer

    @property
    def reward(self) -> RewardSource:
        """The source that is asked for rewards."""
        return self.batch.reward

    @property
    def max_tokens(self) -> int:
        """`T`, the token limit of a completion."""
        return self.batch.max_tokens

    # Helpers

    def _rows_restarting(self, idle: IntArray) -> IntArray:
        ended = self.batch.done.nonzero()[0]
        if len(idle) and self._streams.started:
            ended = np.setdiff1d(ended, idle)
        if len(ended) and not self._streams.started:
            raise EpisodeError("step was called before reset; call env.reset(seed=...) first")
        if len(ended) and self.autoreset_mode is not AutoresetMode.NEXT_STEP:
            raise EpisodeError(
                f"the episodes in rows {ended.tolist()} are over; call env.reset(options={{'reset_mask': "
                "terminated | truncated}) before the next step"
            )
        return ended

    def _begin_next(self, rows: IntArray) -> None:
        self.batch.begin(rows, *self._streams.take(rows))

    def _end(self, rows: IntArray, rewards: FloatArray, infos: Info) -> IntArray:
        """Pay the episodes that just ended, with infos, and return the rows that drew another one instead."""
        episodes, scores = self.batch.score(rows)
        asked = ~self.batch.truncated[rows]
        paid = rows[asked]
        rewards[paid] = self.batch.last_rewards(rows, scores)[asked]
        redrawn = rows[:0]
        if self.options.on_abstain == "redraw":
            redrawn = self._redraws.count(paid, scores.abstained[asked], self.reward)
            self._begin_next(redrawn)
        self._infos.endings(infos, rows, episodes, scores)
        return redrawn

    def _restart_same_step(self, infos: Info) -> Info:
        rows = self.batch.done.nonzero()[0]
        self._infos.masks(infos, rows)
        last = self.observer.rows(rows)
        final = np.fromiter((self.observer.one(last, i) for i in range(len(rows))), object, len(rows))
        self._begin_next(rows)
        result = put(self._infos.start(self._rows), self.num_envs, rows, {"final_obs": final})
        result["final_info"] = self._infos.of_rows(infos, rows)
        result["_final_info"] = result["_final_obs"].copy()
        return self._infos.beginnings(result, rows)
