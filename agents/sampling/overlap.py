"""Scores finished episodes in threads of their own while others are still played.

Only when a source is asked changes, and about which episodes together. So rewards are the same where an
episode's does not depend on that, and other sources are refused; floats may differ in the last digits where a
network computes another batch in another order. Threads suit sources that wait: a judge, a service, Ray
actors. One that computes in Python takes its time from the policy.

Whether scoring early pays depends on what a call costs beside its episodes, which is learnt from the calls
(`CallCost`). A judge that answers a batch as fast as a text is asked once, in the end, as without overlap. No
rollout can take less than playing and a call for the texts that end last.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

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


class CallCost:
    """What calls of a reward source cost, learnt from their times: seconds = a + b · episodes.

    It is the least-squares line through the calls so far, of which each counts a little less than the next.

    Attributes:
        even: The number of episodes that cost as much as the call itself, a / b; None before it is known. It
            stays what it was while all calls are of about one size.
        largest: Episodes of the largest call so far.

    >>> cost = CallCost()
    >>> cost.add(1, 0.3)
    >>> cost.even
    >>> cost.add(4, 0.6)
    >>> round(cost.even, 6)
    2.0
    """

    DECAY = 0.97

    def __init__(self) -> None:
        self.even: float | None = None
        self.largest = 0
        self._sums = np.zeros(5)  # of 1, n, n², seconds and n · seconds

    def add(self, episodes: int, seconds: float) -> None:
        """Learn from a call."""
        self.largest = max(self.largest, episodes)
        self._sums *= self.DECAY
        self._sums += [1, episodes, episodes**2, seconds, episodes * seconds]
        weight, n, squares, total, products = self._sums.tolist()
        spread = weight * squares - n * n
        if spread < 0.01 * weight * squares:
            return
        b = (weight * products - n * total) / spread
        a = (total - b * n) / weight
        self.even = max(0.0, a / b) if b > 0 else math.inf


_COSTS: WeakKeyDictionary[EpisodeBatch, tuple[RewardSource, CallCost]] = WeakKeyDictionary()


class Scoring:
    """Hands finished rows of a batch to its reward source, at most so many calls at a time.

    `chunk_sizes` decides when. What calls cost is remembered until the batch has another source.

    Args:
        batch: `B` rows.
        in_flight: Calls that may be made at a time, at least 1.

    Raises:
        ConfigError: The reward source needs to see the whole batch at once.
    """

    def __init__(self, batch: EpisodeBatch, in_flight: int) -> None:
        check_overlap(batch.reward)
        self._batch, self._in_flight = batch, in_flight
        source, self._cost = _COSTS.get(batch, (None, CallCost()))
        if source is not batch.reward:
            self._cost = CallCost()
            _COSTS[batch] = batch.reward, self._cost
        self._pool = ThreadPoolExecutor(in_flight, thread_name_prefix="reward")
        self._lock = threading.Lock()
        self._running = 0
        self._playing = True
        self._waiting: list[tuple[int, Episode]] = []
        self._given = np.zeros(batch.num_rows, dtype=np.bool_)  # to the source, or waiting for it
        self._chunks: list[_Chunk] = []

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
                self._start_calls()
        self._raise_first_error()

    def forget(self, rows: IntArray) -> None:
        """Drop what is known of rows, `(n,)` int64, that begin again."""
        again = set(rows.tolist())
        with self._lock:
            self._given[rows] = False
            self._waiting = [(row, episode) for row, episode in self._waiting if row not in again]

    def hurry(self, rows: IntArray) -> None:
        """Hand over what is left of these rows, `(n,)` int64, none of which plays any more; all are scored.

        Raises:
            TextGymError: The source failed.
        """
        self.look(rows)
        with self._lock:
            self._playing = False
            self._start_calls()  # for what waited for more

    def finish(self, rows: IntArray) -> Rewards:
        """Return the rewards of rows that are done, in their order; wait for what is still being scored.

        Raises:
            TextGymError: The source failed.
        """
        self.hurry(rows)
        if not len(rows):
            return Rewards(np.zeros(0))
        parts = [chunk.rewards.result() for chunk in self._chunks]  # which grow in number meanwhile
        order = np.concatenate([chunk.rows for chunk in self._chunks])
        together = concatenate(parts, self._batch.episodes(order))
        places = {row: place for place, row in enumerate(order.tolist())}  # of rows played again, the last
        return select_rewards(together, [places[row] for row in rows.tolist()])

    def close(self, wait: bool) -> None:
        """Ask the source about nothing more, and wait for what it was asked, or not."""
        with self._lock:
            self._waiting.clear()
        self._pool.shutdown(wait=wait)

    def _start_calls(self) -> None:
        """Make the calls that are to be made now; the lock is held."""
        free = self._in_flight - self._running
        for n in chunk_sizes(len(self._waiting), free, self._in_flight, self._cost, playing=self._playing):
            taken, self._waiting = self._waiting[:n], self._waiting[n:]
            rows, episodes = zip(*taken, strict=True)
            chunk = _Chunk(np.array(rows, dtype=np.int64), Future())
            self._chunks.append(chunk)
            self._running += 1
            self._pool.submit(self._score, chunk, episodes)

    def _score(self, chunk: _Chunk, episodes: Sequence[Episode]) -> None:
        """Score a chunk, in a thread; the next calls are made before its rewards are known to others."""
        began = time.perf_counter()
        rewards: Rewards | BaseException
        try:
            with torch.no_grad():  # a setting of each thread
                rewards = self._batch.judge(list(episodes), self._batch.truncated[chunk.rows])
        except BaseException as error:
            rewards = error
        with self._lock:
            self._cost.add(len(episodes), time.perf_counter() - began)
            self._running -= 1
            self._start_calls()
        if isinstance(rewards, BaseException):
            chunk.rewards.set_exception(rewards)
        else:
            chunk.rewards.set_result(rewards)

    def _raise_first_error(self) -> None:
        """Raise the error of the first chunk that failed, if one did."""
        for chunk in list(self._chunks):
            error = chunk.rewards.exception() if chunk.rewards.done() else None
            if error is not None:
                raise error


# In units of the episodes that cost as much as a call:
EARLY = 4  # at least so many are scored in a call while others play
LAST = 2  # and in the end, if there are no more calls than threads
LARGE = 32  # more are not worth keeping others waiting
PROBE = 4  # episodes of the second call of all, from which the line is drawn


def chunk_sizes(waiting: int, free: int, in_flight: int, cost: CallCost, *, playing: bool) -> list[int]:
    """Return how many of the waiting episodes to score in each of the calls that are to be made now.

    While others play, a call is made only if its episodes cost some times what the call does: each call more
    than one costs that much, and its thread may be missed in the end. Before it is known what calls cost, one
    at a time tries it. In the end what waits is divided evenly, unless fewer calls take about as long. Shares
    are those of all threads, as in guided self-scheduling (Polychronopoulos & Kuck 1987), so that late chunks
    are small and threads end at about the same time.

    Args:
        waiting: Number of episodes.
        free: Calls that can be made now.
        in_flight: Calls that may be made at a time, these and those that are under way.
        cost: What is known of calls.
        playing: Others are still played.

    >>> per_batch, per_text = CallCost(), CallCost()
    >>> for n in (1, 4):
    ...     per_batch.add(n, 0.2)
    ...     per_text.add(n, 0.2 * n)
    >>> [chunk_sizes(64, 4, 4, cost, playing=True) for cost in (per_batch, per_text, CallCost())]
    [[], [1, 1, 1, 1], [1]]
    >>> [chunk_sizes(64, 4, 4, cost, playing=False) for cost in (per_batch, per_text, CallCost())]
    [[64], [1, 1, 1, 1], [16, 16, 16, 16]]
    """
    even, share = cost.even, waiting / in_flight
    if even is None and playing:
        trying = free < in_flight
        return [] if trying or waiting <= cost.largest else [min(waiting, PROBE if cost.largest else 1)]
    least, size = 0.0, share
    if even is not None:
        least = EARLY * even if playing else 0.0
        usual = least if playing else min(LAST * even, waiting / max(1, free))
        size = min(max(share + even / 20, usual), LARGE * even)
    size = math.ceil(min(max(1.0, size), waiting))
    sizes = [min(size, waiting - begin) for begin in range(0, waiting, size or 1)][:free]
    return [n for n in sizes if n >= least]


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
