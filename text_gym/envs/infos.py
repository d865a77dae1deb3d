"""Writes the infos of a vector environment for many rows at once, and reads them back row by row.

The form is Gymnasium's: an array for every key and, under `_key`, a mask of the rows that have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from text_gym.episode import Episode, IntArray
from text_gym.rewards.values import Rewards

from .episode_batch import EpisodeBatch
from .observations import shown_mask
from .options import VectorOptions

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


class ChangingInfos:
    """Writes each key where it has something to say; a call changes the infos it is given, and returns them.

    Args:
        batch: What is played.
        texts: Write prompts and completions as strings.
    """

    def __init__(self, batch: EpisodeBatch, *, texts: bool) -> None:
        self.batch, self.texts = batch, texts

    def start(self, rows: IntArray) -> Info:
        """Return the infos of a step or reset of rows `(n,)`, before anything is said."""
        return {}

    def beginnings(self, infos: Info, rows: IntArray) -> Info:
        """Say which episodes begin in rows `(n,)`."""
        batch = self.batch
        choice = batch.prompt_index[rows]
        columns: Info = {"episode_index": batch.episode_index[rows]}
        if self.texts:
            columns["prompt"] = batch.table.texts(choice)
        put(infos, batch.num_rows, rows, columns)
        dropped = batch.table.dropped[choice]
        some = dropped > 0
        if np.count_nonzero(some):
            put(infos, batch.num_rows, rows[some], {"prompt_tokens_dropped": dropped[some]})
        return infos

    def endings(self, infos: Info, rows: IntArray, episodes: Sequence[Episode], scores: Rewards) -> Info:
        """Say how episodes ended, except in rows that already run again.

        Args:
            infos: The infos so far.
            rows: `(n,)` int64.
            episodes: The `n` episodes that ended in these rows.
            scores: Of the `n` episodes.
        """
        batch = self.batch
        over = batch.done[rows]
        if scores.terms and np.count_nonzero(judged := over & ~batch.truncated[rows]):
            self._terms(infos, rows[judged], {k: np.asarray(v)[judged] for k, v in scores.terms.items()})
        silent = scores.abstained & over
        if np.count_nonzero(silent):
            put(infos, batch.num_rows, rows[silent], {"reward_abstained": silent[silent]})
        if self.texts and np.count_nonzero(over):
            found = [e.completion for e, ended in zip(episodes, over.tolist(), strict=True) if ended]
            put(infos, batch.num_rows, rows[over], {"completion": found})
        return infos

    def _terms(self, infos: Info, rows: IntArray, terms: Mapping[str, npt.NDArray[Any]]) -> None:
        columns = {name: values.astype(np.float64) for name, values in terms.items()}
        put(infos, self.batch.num_rows, rows, {"reward_terms": columns})

    def masks(self, infos: Info, rows: IntArray) -> Info:
        """Say which tokens may come next, if there is an action mask."""
        if self.batch.mask is not None:
            put(infos, self.batch.num_rows, rows, {"action_mask": shown_mask(self.batch)[rows]})
        return infos

    def redraws(self, infos: Info, rows: IntArray, times: IntArray) -> Info:
        """Say that other episodes were begun in place of ones nobody judged, and how often by now."""
        return put(self.beginnings(infos, rows), self.batch.num_rows, rows, {"redrawn": times})

    def idle(self, infos: Info, rows: IntArray) -> Info:
        """Say that rows `(n,)`, if any, were not stepped."""
        if len(rows):
            put(infos, self.batch.num_rows, rows, {"inactive": np.ones(len(rows), dtype=np.bool_)})
        return infos

    def of_rows(self, infos: Info, rows: IntArray) -> Info:
        """Return the infos of rows `(n,)` alone, which are those of episodes that ended."""
        return infos


class ConstantInfos(ChangingInfos):
    """Writes every key in every row, always: where there is nothing to say, 0, False or an empty text.

    Terms of rewards are left out: their names are known only once a text was scored.

    Args:
        batch: What is played.
        texts: Write prompts and completions as strings.
        redraws: Episodes may be drawn anew.
    """

    def __init__(self, batch: EpisodeBatch, *, texts: bool, redraws: bool) -> None:
        super().__init__(batch, texts=texts)
        n = batch.num_rows
        self._everywhere = np.ones(n, dtype=np.bool_)
        self._neutral: dict[str, npt.NDArray[Any]] = {"reward_abstained": np.zeros(n, dtype=np.bool_)}
        if texts:
            self._neutral["completion"] = np.full(n, "", dtype=object)
        self._prompts = np.full(n, "", dtype=object)  # each row's prompt, that of `_prompt_index`
        self._prompt_index = np.full(n, -1)
        if redraws:
            self._neutral["redrawn"] = np.zeros(n, dtype=np.int64)

    def start(self, rows: IntArray) -> Info:
        """Return infos that say which episode each row plays, and nothing else."""
        neutral = {key: values[rows] for key, values in self._neutral.items()}
        if len(rows) < self.batch.num_rows:
            return self.beginnings(put({}, self.batch.num_rows, rows, neutral), rows)
        infos: Info = {}  # of every step, so that it counts what this takes
        for key, values in (neutral | self._episodes(rows)).items():
            infos[key], infos[f"_{key}"] = values, self._everywhere.copy()
        return infos

    def beginnings(self, infos: Info, rows: IntArray) -> Info:
        """Say which episodes are in rows `(n,)`."""
        return put(infos, self.batch.num_rows, rows, self._episodes(rows))

    def _episodes(self, rows: IntArray) -> dict[str, npt.NDArray[Any]]:
        batch = self.batch
        choice = batch.prompt_index[rows]
        columns = {
            "prompt_tokens_dropped": batch.table.dropped[choice],
            "episode_index": batch.episode_index[rows],
        }
        if self.texts:
            changed = rows[self._prompt_index[rows] != choice]
            self._prompt_index[changed] = batch.prompt_index[changed]
            self._prompts[changed] = batch.table.texts(self._prompt_index[changed])
            columns["prompt"] = self._prompts[rows]
        return columns

    def of_rows(self, infos: Info, rows: IntArray) -> Info:
        """Return them with nothing in the other rows."""
        columns = {key: infos[key][rows] for key in infos if not key.startswith("_")}
        return put({}, self.batch.num_rows, rows, columns)

    def _terms(self, infos: Info, rows: IntArray, terms: Mapping[str, npt.NDArray[Any]]) -> None:
        pass


class NoInfos(ChangingInfos):
    """Writes nothing."""

    def beginnings(self, infos: Info, rows: IntArray) -> Info:
        """Return the infos as they are."""
        return infos

    def endings(self, infos: Info, rows: IntArray, episodes: Sequence[Episode], scores: Rewards) -> Info:
        """Return the infos as they are."""
        return infos

    def masks(self, infos: Info, rows: IntArray) -> Info:
        """Return the infos as they are."""
        return infos

    def redraws(self, infos: Info, rows: IntArray, times: IntArray) -> Info:
        """Return the infos as they are."""
        return infos

    def idle(self, infos: Info, rows: IntArray) -> Info:
        """Return the infos as they are."""
        return infos


def infos_writer(batch: EpisodeBatch, options: VectorOptions) -> ChangingInfos:
    """Make the writer of infos that the options ask for."""
    if options.infos in ("constant", "numbers"):
        texts = options.info_texts and options.infos == "constant"
        return ConstantInfos(batch, texts=texts, redraws=options.on_abstain == "redraw")
    kind = NoInfos if options.infos == "none" else ChangingInfos
    return kind(batch, texts=options.info_texts)


def infos_of_row(infos: Mapping[str, Any], row: int) -> Info:
    """Return one row's infos with plain Python numbers, without the masks."""
    single: Info = {}
    for key, values in infos.items():
        mask = infos.get(f"_{key}")
        if mask is None or not mask[row]:
            continue
        value = values[row] if isinstance(values, np.ndarray) else infos_of_row(values, row)
        single[key] = value.item() if isinstance(value, np.generic) else value
    return single
