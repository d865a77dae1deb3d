"""Decides which episode each row of a vector environment plays next, and which are redrawn.

A stream is an endless series of numbered episodes, named by a seed. What an episode is, is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from text_gym.episode import BoolArray, IntArray
from text_gym.errors import ConfigError, RewardError
from text_gym.rewards.source import RewardSource
from text_gym.utils.display import harmless

MOST_ABSTENTIONS = 100  # in a row, before an environment that draws episodes anew gives up


def stream_seed(seed: int) -> int:
    """Return the seed as a stream keeps it, in 63 bits: Gymnasium's may have any number of them.

    >>> stream_seed(7), stream_seed(2**64 + 7)
    (7, 7)
    """
    return seed % 2**63


def _checked(seed: object) -> int:
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ConfigError(f"seed is {seed!r}; it must be a whole number of at least 0")
    return int(seed)


class EpisodeStreams:
    """The seed of each row's stream, and the number of its next episode.

    Args:
        num_rows: `B`.
        numbering: `"per_env"`: row `i` has the stream of seed `s + i`. `"global"`: all rows share that of
            seed `s`, and the next free number goes to the next row that asks.

    Attributes:
        seeds: `(B,)` int64.
        started: Seeds were given or drawn, by a first `reseed`.
    """

    def __init__(self, num_rows: int, numbering: Literal["per_env", "global"]) -> None:
        self.num_rows, self.numbering = num_rows, numbering
        self.seeds: IntArray = np.zeros(num_rows, dtype=np.int64)
        self.started = False
        self._next = np.zeros(num_rows, dtype=np.int64)

    def of_seed(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        """Return each row's seed from any of Gymnasium's three forms; empty for None.

        Raises:
            ConfigError: It has another number of entries than there are rows, or one that is no seed.
        """
        if seed is None:
            return ()
        if not isinstance(seed, (Sequence, np.ndarray)) or getattr(seed, "shape", None) == ():
            return self._from(_checked(seed))
        if len(seed) != self.num_rows:
            raise ConfigError(f"seed has {len(seed)} entries for num_envs={self.num_rows}")
        return [None if own is None else stream_seed(_checked(own)) for own in seed]

    def reseed(self, rows: IntArray, wanted: Sequence[int | None], generator: np.random.Generator) -> None:
        """Restart the streams of these rows where a seed is given.

        Args:
            rows: `(n,)` int64.
            wanted: A seed or None for each of the `B` rows, as `of_seed` gives them.
            generator: Draws the seeds of a first start that wants none.
        """
        if not self.started:
            every = len(wanted) > 0 and None not in wanted
            self.seeds = np.array(self._from(0 if every else int(generator.integers(2**31))), np.int64)
            self.started = True
        for i in rows.tolist() if wanted else ():
            own = wanted[i]
            if own is not None:
                self.seeds[i] = own
                self._next[i if self.numbering == "per_env" else slice(None)] = 0

    def take(self, rows: IntArray) -> tuple[IntArray, IntArray]:
        """Return seeds `(n,)` and numbers `(n,)` of these rows' next episodes, and advance the streams."""
        index = self._next[rows]
        if self.numbering == "global":
            index = index + np.arange(len(rows))
            self._next += len(rows)
        else:
            self._next[rows] += 1
        return self.seeds[rows], index

    def choose(self, rows: IntArray, index: IntArray) -> tuple[IntArray, IntArray]:
        """Do the same for numbers `(n,)` the caller chose, from which the streams continue."""
        if self.numbering == "per_env":
            self._next[rows] = index + 1
        else:
            self._next[:] = index.max() + 1
        return self.seeds[rows], index

    def _from(self, seed: int) -> list[int]:
        own = range(self.num_rows) if self.numbering == "per_env" else [0] * self.num_rows
        return [stream_seed(seed + row) for row in own]


class Redraws:
    """Counts the episodes that replace ones nobody judged.

    Args:
        num_rows: `B`.

    Attributes:
        total: How many there were.
        since_judged: `(B,)` int64: how many in each row since an episode of it was judged.
    """

    def __init__(self, num_rows: int) -> None:
        self.total = 0
        self.since_judged = np.zeros(num_rows, dtype=np.int64)
        self._in_a_row = 0

    def count(self, rows: IntArray, abstained: BoolArray, reward: RewardSource) -> IntArray:
        """Count episodes that ended, and return the rows of those that nobody judged.

        Args:
            rows: `(n,)` int64.
            abstained: `(n,)` bool.
            reward: The source that was asked.

        Raises:
            RewardError: No episode was judged for too long.
        """
        redrawn = rows[abstained]
        self._in_a_row = self._in_a_row + len(redrawn) if len(redrawn) == len(rows) else 0
        if self._in_a_row >= MOST_ABSTENTIONS:
            said = harmless(reward.last_failure or "it abstained and gave no reason", limit=400)
            count, self._in_a_row = self._in_a_row, 0
            raise RewardError(
                f"reward {reward.name!r} judged none of the last {count} episodes, and with "
                f"on_abstain='redraw' one has to be: {said}. Mend the reward and reset the environment"
            )
        self.since_judged[rows[~abstained]] = 0
        self.since_judged[redrawn] += 1
        self.total += len(redrawn)
        return redrawn
