"""Minari: episodes of text as one of its data sets, and a data set's episodes back.

`minari.DataCollector` records a text environment like any other; here are the two ways from and to what
text-gym's own algorithms, rewards and transcripts read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np

from text_gym.envs.episode_batch import EpisodeBatch
from text_gym.envs.single import TextEnv
from text_gym.envs.streams import stream_seed
from text_gym.episode import Episode, FloatArray, IntArray
from text_gym.errors import ConfigError, DataError, MissingLibraryError, excerpt

try:
    import minari
except ModuleNotFoundError as error:
    raise MissingLibraryError("text_gym.agents.adapters.minari", "minari", "minari[all]") from error

_TRIES = 64  # numbers a prompt, among which one that begins with it is found with near certainty


def minari_dataset(
    episodes: Sequence[Episode],
    env: gym.Env[Any, Any],
    dataset_id: str,
    *,
    record_infos: bool = False,
    **about: Any,
) -> Any:
    """Play finished episodes again in an environment, and store what it shows and pays as a data set.

    Args:
        episodes: Of a rollout, of `read_transcripts`, or your own; their prompts are the environment's.
        env: From `gymnasium.make`, without a `DataCollector`.
        dataset_id: For instance `"text_gym/reverse/random-v0"`.
        record_infos: Keep infos too, numbers or (`infos="constant"`) texts as well: Minari wants the same
            keys in each step.
        **about: For Minari's `create_dataset`: `algorithm_name`, `author`, …

    Returns:
        The `MinariDataset`.

    Raises:
        ConfigError: Infos that change, or an environment of another kind.
        DataError: An episode begins with no prompt of the environment, or does not end where it would
            there, or is answered otherwise there.
    """
    inner = _text_env(env)
    if record_infos and inner.vector.options.infos not in ("constant", "numbers"):
        raise ConfigError('record_infos needs gymnasium.make(..., infos="constant"), or "numbers"')
    batch = inner.vector.batch
    numbers = _numbers(batch, episodes)
    collector = minari.DataCollector(env, record_infos=record_infos)
    for episode, number in zip(episodes, numbers.tolist(), strict=True):
        collector.reset(seed=0, options={"episode_index": number})
        over = [False]  # before each token, and after the last
        for token in episode.agent_ids.tolist():
            if not over[-1]:
                *_, terminated, truncated, _ = collector.step(np.int64(token))
            over.append(over[-1] or terminated or truncated)
        if batch.conversation is not None and not _same_talk(batch.episodes([0])[0], episode):
            raise DataError(
                f"the environment answers otherwise than in {excerpt(episode.completion)}: its respondent "
                "draws, or is another; record conversations with minari.DataCollector as they are played"
            )
        if over[-2:] != [False, True]:
            raise DataError(
                f"the text {excerpt(episode.completion)} does not end where the environment ends it; make "
                "the environment with the max_tokens and stop strings that it was written under"
            )
    return collector.create_dataset(dataset_id, **about)


def episodes_of(dataset: Any, env: gym.Env[Any, Any] | None = None) -> tuple[list[Episode], FloatArray]:
    """Return the episodes of a data set that was recorded in a text environment, and their returns.

    Args:
        dataset: A `MinariDataset` with `observation="tokens"` or `"ids"`.
        env: The environment; recovered from the data set if None.

    Returns:
        `n` episodes, for rewards, `SFT`, `DPO` or `write_transcripts`, and `(n,)` float64.

    Raises:
        ConfigError: Observations of another kind, or an environment that the data set cannot recover.
        DataError: A text begins with no prompt of the environment or with one that cannot be told from
            others, goes on after its end, or is answered otherwise than when it was recorded.
    """
    again = _Again(_text_env(_recovered(dataset) if env is None else env).vector.batch)
    episodes, returns = [], []
    for recorded in dataset.iterate_episodes():
        about = next(iter(dataset.storage.get_episode_metadata([recorded.id])))
        episodes.append(again.play(recorded, about))
        returns.append(float(np.sum(recorded.rewards)))
    return episodes, np.array(returns, dtype=np.float64)


def _recovered(dataset: Any) -> gym.Env[Any, Any]:
    try:
        env: gym.Env[Any, Any] = dataset.recover_environment()
    except Exception as error:  # Minari's, Gymnasium's, or of the task
        raise ConfigError(
            f"the data set cannot make its environment again ({error}); pass the env it was recorded in"
        ) from error
    return env


class _Again:
    """Plays recorded episodes again, each from the seed and the number that Minari keeps of it."""

    def __init__(self, batch: EpisodeBatch) -> None:
        self._places: dict[tuple[int, ...], list[int]] = {}
        for i in range(len(batch.prompts)):
            self._places.setdefault(tuple(batch.table.ids(i).tolist()), []).append(i)
        self._row = np.zeros(1, dtype=np.int64)
        parts = batch.prompts, batch.tokenizer, batch.reward, batch.max_tokens, 1
        self._by_seed = EpisodeBatch(*parts, replace(batch.options, group_size=1))
        self._in_order = EpisodeBatch(*parts, replace(batch.options, shuffle=False, group_size=1))

    def play(self, recorded: Any, about: Mapping[str, Any]) -> Episode:
        one, row = self._begin(recorded, about), self._row
        for token in recorded.actions:
            if one.done[0]:
                raise DataError(f"episode {recorded.id} goes on after its end; was it recorded elsewhere?")
            one.advance(row, np.array([token], dtype=np.int64))
        ids = _ids(recorded.observations, -1, one.tokenizer.vocab_size)
        if one.conversation is not None and ids != tuple(one.tokens[0, : one.lengths[0]].tolist()):
            raise DataError(f"episode {recorded.id} is answered otherwise than when it was recorded")
        return one.episodes(row)[0]

    def _begin(self, recorded: Any, about: Mapping[str, Any]) -> EpisodeBatch:
        """Begin with the prompt that was shown; what the prompt's ids leave open, the seed decides."""
        one, row = self._by_seed, self._row
        ids = _ids(recorded.observations, 0, one.tokenizer.vocab_size)
        places = self._places.get(ids, [])
        if not places:
            raise DataError(f"episode {recorded.id} begins with {ids}, which is no prompt of the environment")
        seed, number = about.get("seed"), (about.get("options") or {}).get("episode_index", 0)
        if seed is not None:
            one.begin(row, np.array([stream_seed(int(seed))]), np.array([number]))
            if one.prompt_index[0] in places:
                return one
        if any(one.prompts[i].columns != one.prompts[places[0]].columns for i in places):
            raise DataError(
                f"episode {recorded.id} begins as {len(places)} prompts of the environment do, and was not "
                "recorded with a seed that would tell which; pass the env that it was recorded in"
            )
        self._in_order.begin(row, row, np.array(places[:1]))
        return self._in_order


def _same_talk(one: Episode, other: Episode) -> bool:
    return [(t.role, t.text) for t in one.turns] == [(t.role, t.text) for t in other.turns]


def _text_env(env: gym.Env[Any, Any]) -> TextEnv:
    inner = env.unwrapped
    if not isinstance(inner, TextEnv):
        raise ConfigError(f"this is an environment of {type(inner).__name__}, not of text-gym")
    return inner


def _numbers(batch: EpisodeBatch, episodes: Sequence[Episode]) -> IntArray:
    """Return the number of an episode of stream 0 that begins with each episode's prompt, `(n,)` int64."""
    numbers = np.arange(_TRIES * len(batch.prompts))
    found, first = np.unique(batch.prompt_of(np.zeros_like(numbers), numbers), return_index=True)
    known: dict[str, list[tuple[Any, int]]] = {}
    for i, k in zip(found.tolist(), first.tolist(), strict=True):
        known.setdefault(batch.prompts[i].text, []).append((batch.prompts[i].columns, k))
    result = []
    for prompt in (e.prompt for e in episodes):
        places = known.get(prompt.text, [])
        fits = [k for columns, k in places if columns == prompt.columns or len(places) == 1]
        if not fits:
            raise DataError(f"{excerpt(prompt.text)} is no prompt of the environment; give it those prompts")
        result.append(fits[0])
    return np.array(result, dtype=np.int64)


def _ids(observations: Any, step: int, vocab_size: int) -> tuple[int, ...]:
    """Return the ids that an episode's observation at a step shows."""
    if isinstance(observations, dict) and {"tokens", "length"} <= observations.keys():
        return tuple(observations["tokens"][step, : int(observations["length"][step, 0])].tolist())
    if isinstance(observations, np.ndarray) and observations.dtype.kind == "i":
        return tuple(observations[step][observations[step] < vocab_size].tolist())
    raise ConfigError('episodes are read from observation="tokens" or "ids"; record them in one of these')
