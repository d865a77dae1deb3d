"""Calls reward sources within a time limit, again after a failure, or in parallel.

Nothing here changes a reward.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

from text_gym.episode import Episode, FloatArray
from text_gym.errors import ConfigError, RewardError, TextGymError

from .source import Source, Wrapper
from .values import OnBadReward, Rewards
from .worker import Worker, too_slow

WorkerKind = Literal["process", "thread"]
_HANGING_THREADS = 8


class Timeout(Wrapper):
    """A batch must be scored within `seconds`, or a `RewardError` says which source hung.

    `worker="process"` runs the source in a process of its own, which is killed when time is up; the next
    call starts another. Starting it (a few seconds) does not count. `worker="thread"` serves sources that do
    not pickle or that share memory; a hanging thread **cannot be killed**: it goes on until Python ends,
    holding what it holds, and after 8 of them the source is refused.

    Args:
        source: The source.
        seconds: Time limit of a batch.
        worker: Where the source runs.

    Raises:
        ConfigError: `seconds` is not positive, or the source cannot be sent to a process (when called).
    """

    def __init__(self, source: Source, seconds: float, worker: WorkerKind = "process") -> None:
        super().__init__(source)
        if not 0 < seconds < float("inf") or worker not in ("process", "thread"):
            raise ConfigError(
                f"Timeout needs seconds > 0 and worker process or thread, not {seconds}, {worker!r}"
            )
        self.seconds, self.worker = seconds, worker
        self._process: Worker | None = None
        self._hanging: list[threading.Thread] = []

    def evaluate(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """The source's rewards, in time."""
        if self.worker == "thread":
            return self._in_thread(episodes, on_bad_reward)
        if self._process is None or not self._process.alive:
            self._process = Worker.of_object(self.source)
        rewards = self._process.score(episodes, on_bad_reward, self.seconds)
        self._last_failure = self._process.last_failure or self._last_failure
        return rewards

    def _in_thread(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        self._hanging = [thread for thread in self._hanging if thread.is_alive()]
        if len(self._hanging) >= _HANGING_THREADS:
            raise RewardError(f"reward {self.name!r}: {len(self._hanging)} earlier calls still hang; restart")
        answers: queue.SimpleQueue[Rewards | BaseException] = queue.SimpleQueue()

        def work() -> None:
            try:
                answers.put(self.source(episodes, on_bad_reward))
            except BaseException as error:
                answers.put(error)

        thread = threading.Thread(target=work, name=f"reward {self.name}", daemon=True)
        thread.start()
        try:
            answer = answers.get(timeout=self.seconds)
        except queue.Empty:
            self._hanging.append(thread)
            raise too_slow(self.name, self.seconds, episodes) from TimeoutError(self.name)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def state_dict(self) -> dict[str, Any]:
        """Return the source's memory; raise an error if it is in another process."""
        return _reachable(self, super().state_dict())

    def close(self) -> None:
        """End the worker process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def label(self) -> str:
        """The source with its time limit."""
        return f"{self.name}: Timeout after {self.seconds:g} s ({self.worker})"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_process": None, "_hanging": []}


class Retry(Wrapper):
    """Calls again after a transient error, waiting `wait`, `2·wait`, `4·wait` … seconds, at most `longest`.

    Only errors of the types `on` count as transient, found anywhere in the chain of causes: a reward that is
    NaN or of the wrong length is a mistake, and no second call mends it.

    Args:
        source: The source.
        attempts: Calls in all, >= 1.
        wait: Seconds before the second call.
        longest: Most seconds between two calls.
        on: Exception types that are worth another call.
    """

    def __init__(
        self,
        source: Source,
        attempts: int = 3,
        *,
        wait: float = 1.0,
        longest: float = 60.0,
        on: tuple[type[BaseException], ...] = (ConnectionError, TimeoutError),
    ) -> None:
        super().__init__(source)
        if attempts < 1 or wait < 0 or longest < 0:
            raise ConfigError(
                f"Retry needs attempts >= 1, wait >= 0 and longest >= 0, not {attempts}, {wait}, {longest}"
            )
        self.attempts, self.wait, self.longest, self.on = attempts, wait, longest, on

    def evaluate(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """The rewards of the first call that succeeds; the last error if none does."""
        for attempt in range(self.attempts):
            try:
                return self.source(episodes, on_bad_reward)
            except TextGymError as error:
                if attempt == self.attempts - 1 or not self._transient(error):
                    raise
                time.sleep(min(self.wait * 2**attempt, self.longest))
        raise AssertionError("unreachable")

    def _transient(self, error: BaseException | None) -> bool:
        while error is not None:
            if isinstance(error, self.on):
                return True
            error = error.__cause__
        return False

    def label(self) -> str:
        """The source with its number of calls."""
        return f"{self.name}: Retry, {self.attempts} attempts"


class Parallel(Wrapper):
    """Splits a batch into chunks that are scored at the same time; rewards come in the order of the episodes.

    Threads suit sources that wait (a judge, a web service); processes suit sources that compute in Python. A
    source in a process is a copy: what it remembers stays there.

    Args:
        source: The source.
        workers: Chunks scored at a time.
        worker: Where they are scored.
        chunk: Episodes in a chunk; None splits each batch evenly over the workers.
    """

    def __init__(
        self, source: Source, workers: int = 4, *, worker: WorkerKind = "thread", chunk: int | None = None
    ) -> None:
        super().__init__(source)
        if workers < 1 or (chunk is not None and chunk < 1) or worker not in ("process", "thread"):
            raise ConfigError(
                "Parallel needs workers >= 1, chunk >= 1 and worker process or thread, "
                f"not {workers}, {chunk}, {worker!r}"
            )
        self.workers, self.worker, self.chunk = workers, worker, chunk
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()

    def evaluate(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """The chunks' rewards, put together; the first chunk's error if any failed."""
        size = self.chunk or -(-len(episodes) // self.workers)
        chunks = [episodes[i : i + size] for i in range(0, len(episodes), size)]
        score = self._in_process if self.worker == "process" else self.source
        with ThreadPoolExecutor(min(self.workers, len(chunks))) as pool:
            futures = [pool.submit(score, chunk, on_bad_reward) for chunk in chunks]
            try:
                return concatenate([future.result() for future in futures], episodes)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _in_process(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        try:
            worker = self._idle.get_nowait()
        except queue.Empty:
            worker = Worker.of_object(self.source)
        try:
            rewards = worker.score(episodes, on_bad_reward, None)
            self._last_failure = worker.last_failure or self._last_failure
            return rewards
        finally:
            if worker.alive:
                self._idle.put(worker)

    def state_dict(self) -> dict[str, Any]:
        """Return the source's memory; raise an error if it is in another process."""
        return _reachable(self, super().state_dict())

    def close(self) -> None:
        """End the worker processes, if there are any."""
        while not self._idle.empty():
            self._idle.get().kill()

    def label(self) -> str:
        """The source with its number of workers."""
        return f"{self.name}: Parallel, {self.workers} × {self.worker}"

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_idle"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._idle = queue.SimpleQueue()


def _reachable(caller: Timeout | Parallel, state: dict[str, Any]) -> dict[str, Any]:
    if state and caller.worker == "process":
        raise ConfigError(
            f"reward {caller.name!r} remembers its earlier calls, and in a worker process nobody can save "
            "that memory; pass worker='thread'"
        )
    return state


def select_rewards(rewards: Rewards, rows: Sequence[int]) -> Rewards:
    """The rewards of some of the episodes."""
    index = np.asarray(rows, dtype=np.int64)
    return Rewards(
        rewards.values[index],
        rewards.per_token and tuple(rewards.per_token[i] for i in rows),
        {name: np.asarray(term, dtype=np.float64)[index] for name, term in rewards.terms.items()},
        rewards.abstained[index],
    )


def concatenate(batches: Sequence[Rewards], episodes: Sequence[Episode]) -> Rewards:
    """Rewards of consecutive batches as one; a term that a batch lacks is NaN there."""
    names = dict.fromkeys(name for batch in batches for name in batch.terms)
    terms: dict[str, FloatArray] = {
        name: np.concatenate([b.terms.get(name, np.full(len(b), np.nan)) for b in batches]) for name in names
    }
    per_token: tuple[FloatArray, ...] | None = None
    if any(batch.per_token is not None for batch in batches):
        given = [tokens for b in batches for tokens in (b.per_token or [None] * len(b))]
        per_token = tuple(
            np.zeros(len(e.completion_ids)) if tokens is None else tokens
            for e, tokens in zip(episodes, given, strict=True)
        )
    values = np.concatenate([batch.values for batch in batches])
    return Rewards(values, per_token, terms, np.concatenate([batch.abstained for batch in batches]))


def _key(episode: Episode, on_bad_reward: OnBadReward) -> Hashable:
    """A key of everything a source may look at, or None where columns have no faithful text.

    JSON writes `{1: 7}` like `{"1": 7}` and a tuple like a list, which a source may tell apart.
    """
    prompt = episode.prompt
    try:
        if not _is_json(dict(prompt.columns)):
            return None
        columns = json.dumps(dict(prompt.columns), sort_keys=True)
    except (ValueError, RecursionError):
        return None
    ending = (episode.finish_reason, episode.stop)
    mask = None if episode.agent_mask is None else episode.agent_mask.tobytes()
    turns = tuple((turn.role, turn.text, len(turn.ids), turn.reward) for turn in episode.turns)
    ids = (episode.prompt_ids.tobytes(), episode.completion_ids.tobytes(), episode.tokenizer.fingerprint)
    return (prompt.id, prompt.text, columns, episode.completion, ids, mask, turns, ending, on_bad_reward)


def _is_json(value: Any) -> bool:
    """Return True if a value is what JSON would give back: no tuple, no key but texts, no subclass."""
    if type(value) is dict:
        return all(type(key) is str and _is_json(item) for key, item in value.items())
    if type(value) is list:
        return all(map(_is_json, value))
    return value is None or type(value) in (str, int, float, bool)
