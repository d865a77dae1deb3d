"""Scores finished episodes in threads of their own while others are still played.

Only when a source is asked changes, and about which episodes together. So rewards are the same where an
episode's does not depend on that, and other sources are refused; floats may differ in the last digits where a
network computes another batch in another order. Threads suit sources that wait: a judge, a service, Ray
actors. One that computes in Python takes its time from the policy.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from text_gym.envs.episode_batch import EpisodeBatch
from text_gym.episode import Episode, IntArray
from text_gym.errors import ConfigError
from text_gym.rewards.calls import concatenate, select_rewards
from text_gym.rewards.source import Composite, RewardSource
from text_gym.rewards.values import Rewards

from .together import remembers


@dataclass(frozen=True)
class _Chunk:
    """Episodes that the source is asked about together.

    Args:
        rows: `(n,)` int64, their rows.
        rewards: What it says, or will say.
    """

    rows: IntArray
    rewards: Future[Rewards]


class Scoring:
    """Hands finished rows of a batch to its reward source, at most so many chunks at a time.

    A chunk is what waits divided by the number of threads, rounded up, as in guided self-scheduling
    (Polychronopoulos & Kuck 1987): late ones are small, so that threads end at about the same time. It is
    larger where a call costs more than its episodes do, by the times of earlier chunks: seconds = a + b ·
    episodes, and `a / b` episodes are as many as cost as much as the call.

    Args:
        batch: `B` rows.
        in_flight: Chunks that may be scored at a time, at least 1.

    Raises:
        ConfigError: The reward source needs to see the whole batch at once.
    """

    def __init__(self, batch: EpisodeBatch, in_flight: int) -> None:
        check_overlap(batch.reward)
        self._batch, self._in_flight = batch, in_flight
        self._pool = ThreadPoolExecutor(in_flight, thread_name_prefix="reward")
        self._lock = threading.Lock()
        self._running = 0
        self._waiting: list[tuple[int, Episode]] = []
        self._given = np.zeros(batch.num_rows, dtype=np.bool_)  # to the source, or waiting for it
        self._chunks: list[_Chunk] = []
        self._times: list[tuple[int, float]] = []  # episodes of a chunk, and seconds

    def look(self, rows: IntArray) -> None:
        """Hand over those of these rows, `(n,)` int64, that have ended since.

        Raises:
            TextGymError: The source failed.
        """
        over = rows[self._batch.done[rows] & ~self._given[rows]]
        if len(over):
            self._given[over] = True
            episodes = self._batch.episodes(over)
            with self._lock:
                self._waiting += zip(over.tolist(), episodes, strict=True)
                starting = min(self._in_flight - self._running, len(self._waiting))
                self._running += starting
            for _ in range(starting):
                self._pool.submit(self._work)
        self._raise_first_error()

    def forget(self, rows: IntArray) -> None:
        """Drop what is known of rows, `(n,)` int64, that begin again."""
        again = set(rows.tolist())
        with self._lock:
            self._given[rows] = False
            self._waiting = [(row, episode) for row, episode in self._waiting if row not in again]

    def finish(self, rows: IntArray) -> Rewards:
        """Return the rewards of rows that are done, in their order; wait for what is still being scored.

        Raises:
            TextGymError: The source failed.
        """
        self.look(rows)
        self._pool.shutdown()
        self._raise_first_error()
        if not len(rows):
            return Rewards(np.zeros(0))
        parts = [chunk.rewards.result() for chunk in self._chunks]
        order = np.concatenate([chunk.rows for chunk in self._chunks])
        together = concatenate(parts, self._batch.episodes(order))
        places = {row: place for place, row in enumerate(order.tolist())}  # of rows played again, the last
        return select_rewards(together, [places[row] for row in rows.tolist()])

    def close(self, wait: bool) -> None:
        """Ask the source about nothing more, and wait for what it was asked, or not."""
        with self._lock:
            self._waiting.clear()
        self._pool.shutdown(wait=wait)

    def _work(self) -> None:
        """Score chunks until nothing waits, in a thread."""
        while True:
            with self._lock:
                n = chunk_size(len(self._waiting), self._in_flight, self._times)
                taken, self._waiting = self._waiting[:n], self._waiting[n:]
                if not taken:
                    self._running -= 1
                    return
                rows = np.array([row for row, _ in taken], dtype=np.int64)
                chunk = _Chunk(rows, Future())
                self._chunks.append(chunk)
            began = time.perf_counter()
            try:
                with torch.no_grad():  # a setting of each thread
                    unasked = self._batch.truncated[rows]
                    chunk.rewards.set_result(self._batch.judge([episode for _, episode in taken], unasked))
            except BaseException as error:
                chunk.rewards.set_exception(error)
            with self._lock:
                self._times.append((len(taken), time.perf_counter() - began))

    def _raise_first_error(self) -> None:
        """Raise the error of the first chunk that failed, if one did."""
        for chunk in list(self._chunks):
            error = chunk.rewards.exception() if chunk.rewards.done() else None
            if error is not None:
                raise error


def chunk_size(waiting: int, in_flight: int, times: Sequence[tuple[int, float]]) -> int:
    """Return how many of the waiting episodes to score in one call.

    Args:
        waiting: Number of episodes.
        in_flight: Calls that may be made at a time.
        times: Episodes and seconds of earlier calls.

    >>> chunk_size(64, 4, [])
    16
    >>> chunk_size(64, 4, [(1, 0.2), (8, 0.2)]), chunk_size(64, 4, [(1, 0.2), (8, 1.6)])
    (64, 16)
    """
    share = -(-waiting // in_flight)
    sizes, seconds = np.array(times, dtype=np.float64).reshape(-1, 2).T
    if len(set(sizes.tolist())) < 2:
        return share
    b, a = np.polyfit(sizes, seconds, 1)
    return max(share, waiting if b * waiting <= a else int(a / b))


@contextmanager
def scored_meanwhile(batch: EpisodeBatch, in_flight: int) -> Iterator[Scoring | None]:
    """Provide a `Scoring` of the batch within the block; None for 0 chunks in flight.

    Raises:
        ConfigError: The reward source needs to see the whole batch at once.
    """
    if not in_flight:
        yield None
        return
    scoring = Scoring(batch, in_flight)
    try:
        yield scoring
    except BaseException as error:
        scoring.close(wait=isinstance(error, Exception))
        raise
    scoring.close(wait=True)


def check_overlap(source: RewardSource) -> None:
    """Refuse a source that would say something else about a part of a batch than about the whole.

    Raises:
        ConfigError: It says so of itself, remembers earlier calls, or asks people.
    """
    why = None
    if source.interactive:
        why = "asks people, who are shown a batch at a time"
    elif not is_batch_invariant(source):
        why = "depends on which episodes it sees together (see `RewardSource.batch_invariant`)"
    elif remembers(source):
        why = "remembers earlier calls, whose order would be another"
    if why is not None:
        raise ConfigError(f"overlap_scoring must be 0 here: reward {source.name!r} {why}")


def is_batch_invariant(source: RewardSource) -> bool:
    """Return True if what a source says of an episode depends on no other, nor on the order of calls.

    A composite that does not say is so if it is deterministic, or only its parts keep it from that and all
    of them are batch-invariant.
    """
    if source.batch_invariant is not None:
        return source.batch_invariant
    parts = list(source.parts.values()) if isinstance(source, Composite) else []
    by_parts = any(not part.deterministic for part in parts) and all(map(is_batch_invariant, parts))
    return source.deterministic or by_parts
