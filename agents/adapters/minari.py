"""Minari: episodes of text as one of its data sets, and a data set's episodes back.

`minari.DataCollector` records a text environment like any other; here are the two ways from and to what
text-gym's own algorithms, rewards and transcripts read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np

from text_gym.envs.episode_batch import EpisodeBatch
from text_gym.envs.single import TextEnv
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
        DataError: An episode begins with no prompt of the environment, or does not end where it would there.
    """
    inner = _text_env(env)
    if record_infos and inner.vector.options.infos not in ("constant", "numbers"):
        raise ConfigError('record_infos needs gymnasium.make(..., infos="constant"), or "numbers"')
    numbers = _numbers(inner.vector.batch, episodes)
    collector = minari.DataCollector(env, record_infos=record_infos)
    for episode, number in zip(episodes, numbers.tolist(), strict=True):
        collector.reset(seed=0, options={"episode_index": number})
        over = [False]  # before each token, and after the last
        for token in episode.completion_ids.tolist():
            if not over[-1]:
                *_, terminated, truncated, _ = collector.step(np.int64(token))
            over.append(over[-1] or terminated or truncated)
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
        ConfigError: Observations of another kind.
        DataError: A text begins with no prompt of the environment, or goes on after its end.
    """
    batch = _text_env(dataset.recover_environment() if env is None else env).vector.batch
    table, place = batch.table, dict[tuple[int, ...], int]()
    for i in range(len(batch.prompts)):
        place.setdefault(tuple(table.ids(i).tolist()), i)
    options = replace(batch.options, shuffle=False, group_size=1)
    one = EpisodeBatch(batch.prompts, batch.tokenizer, batch.reward, batch.max_tokens, 1, options)
    row, episodes, returns = np.zeros(1, dtype=np.int64), [], []
    for recorded in dataset.iterate_episodes():
        ids = _first_ids(recorded.observations, batch.tokenizer.vocab_size)
        if ids not in place:
            raise DataError(f"episode {recorded.id} begins with {ids}, which is no prompt of the environment")
        one.begin(row, row, np.array([place[ids]]))
        for token in recorded.actions:
            if one.done[0]:
                raise DataError(f"episode {recorded.id} goes on after its end; was it recorded elsewhere?")
            one.advance(row, np.array([token], dtype=np.int64))
        episodes += one.episodes(row)
        returns.append(float(np.sum(recorded.rewards)))
    return episodes, np.array(returns, dtype=np.float64)


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


def _first_ids(observations: Any, vocab_size: int) -> tuple[int, ...]:
    """Return the ids of the prompt, read off an episode's first observation."""
    if isinstance(observations, dict) and {"tokens", "length"} <= observations.keys():
        return tuple(observations["tokens"][0, : int(observations["length"][0, 0])].tolist())
    if isinstance(observations, np.ndarray) and observations.dtype.kind == "i":
        return tuple(observations[0][observations[0] < vocab_size].tolist())
    raise ConfigError('episodes are read from observation="tokens" or "ids"; record them in one of these')
