"""Writes the infos of a vector environment for many rows at once, and reads them back row by row.

The form is Gymnasium's: an array for every key and, under `_key`, a mask of the rows that have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from text_gym.episode import Episode, IntArray
from text_gym.rewards.values import Rewards

from .episode_batch import EpisodeBatch

Info = dict[str, Any]


def put(infos: Info, num_envs: int, rows: IntArray, columns: Mapping[str, Any]) -> Info:
    """Write columns into the infos, in place.

    What `VectorEnv._add_info` does row by row, with the same result.

    Args:
        infos: The infos so far.
        num_envs: `B`.
        rows: `(n,)` int64, rows written.
        columns: For each key `n` values: a numeric array, an object array or list, or a mapping of such.
    """
    for key, values in columns.items():
        mask = f"_{key}"
        if mask not in infos:
            if not isinstance(values, Mapping):
                numeric = isinstance(values, np.ndarray) and values.dtype != object
                infos[key] = (
                    np.zeros((num_envs, *values.shape[1:]), values.dtype)
                    if numeric
                    else np.empty(num_envs, object)
                )
            infos[mask] = np.zeros(num_envs, dtype=np.bool_)
        if isinstance(values, Mapping):
            infos[key] = put(infos.get(key, {}), num_envs, rows, values)
        else:
            infos[key][rows] = values
        infos[mask][rows] = True
    return infos


def put_beginnings(infos: Info, batch: EpisodeBatch, rows: IntArray, *, texts: bool) -> Info:
    """Write the infos of episodes that begin, in place.

    Args:
        infos: The infos so far.
        batch: What is played.
        rows: `(n,)` int64, rows whose episode begins.
        texts: Write prompts as strings.
    """
    choice = batch.prompt_index[rows]
    columns = {"episode_index": batch.episode_index[rows]}
    if texts:
        columns["prompt"] = batch.table.texts[choice]
    put(infos, batch.num_rows, rows, columns)
    dropped = batch.table.dropped[choice]
    some = dropped > 0
    if np.count_nonzero(some):
        put(infos, batch.num_rows, rows[some], {"prompt_tokens_dropped": dropped[some]})
    return infos


def put_endings(
    infos: Info,
    batch: EpisodeBatch,
    rows: IntArray,
    episodes: Sequence[Episode],
    scores: Rewards,
    *,
    texts: bool,
) -> Info:
    """Write the infos of episodes that ended, in place, except in rows that already run again.

    Args:
        infos: The infos so far.
        batch: What is played.
        rows: `(n,)` int64.
        episodes: The `n` episodes that ended in these rows.
        scores: Of the `n` episodes.
        texts: Write completions as strings.
    """
    over = batch.done[rows]
    judged = over & ~batch.truncated[rows]
    if scores.terms and judged.any():
        terms = {k: np.asarray(v, dtype=np.float64)[judged] for k, v in scores.terms.items()}
        put(infos, batch.num_rows, rows[judged], {"reward_terms": terms})
    silent = scores.abstained & over
    if silent.any():
        put(infos, batch.num_rows, rows[silent], {"reward_abstained": silent[silent]})
    if texts and over.any():
        found = [episodes[i].completion for i in np.flatnonzero(over).tolist()]
        put(infos, batch.num_rows, rows[over], {"completion": found})
    return infos


def infos_of_row(infos: Mapping[str, Any], row: int) -> Info:
    """Return one row's infos with plain Python numbers, without the masks."""
    single: Info = {}
    for key, values in infos.items():
        mask = infos.get(f"_{key}")
        if mask is None or not mask[row]:
            continue
        value = infos_of_row(values, row) if isinstance(values, Mapping) else values[row]
        single[key] = value.item() if isinstance(value, np.generic) else value
    return single
