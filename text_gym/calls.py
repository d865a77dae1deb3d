"""How a reward source is called: cached, within a time limit, again after a failure, in parallel.

Worker processes are spawned, never forked, so a source must pickle and a script needs its
`if __name__ == "__main__":`. Nothing here changes a reward.
"""

from __future__ import annotations

import json
import multiprocessing
import pickle
import queue
import signal
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Any, Literal

import numpy as np

from .compose import Source, Wrapper
from .episode import Episode
from .errors import ConfigError, RewardError, TextGymError, excerpt
from .reward import FloatArray, OnBadReward, Rewards, RewardSource
from .tokenizer import Tokenizer

WorkerKind = Literal["process", "thread"]
_START_SECONDS = 120.0  # a spawned worker imports text_gym and whatever the source needs
_HANGING_THREADS = 8


class Cache(Wrapper):
    """Remembers rewards; an episode seen before, or twice in a batch, is not scored again.

    The key is everything a source may look at: prompt id, text and columns, completion, token ids and how the
    episode ended. Prompts whose columns are not JSON are never cached, nor are abstentions: a source that
    failed may do better next time. Bounded; the least recently used goes.

    Args:
        source: A deterministic source.
        size: Episodes kept.

    Attributes:
        hits: Episodes answered from memory.
        misses: Episodes that the source had to score.

    Raises:
        ConfigError: The source is not deterministic.
    """

    def __init__(self, source: Source, size: int = 65_536) -> None:
        super().__init__(source)
        if not self.source.deterministic:
            raise ConfigError(
                f"reward {self.name!r} is not deterministic: a cache would freeze its first answer"
            )
        if size < 1:
            raise ConfigError(f"Cache needs size >= 1, not {size}")
        self.size, self.hits, self.misses = size, 0, 0
        self._kept: OrderedDict[Hashable, Rewards] = OrderedDict()
        self._lock = threading.Lock()

    def evaluate(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """Rewards from memory where they are, from the source (in one batch) where not."""
        keys = [_key(episode, on_bad_reward) or i for i, episode in enumerate(episodes)]
        with self._lock:
            known = {key: self._kept[key] for key in keys if key in self._kept}
            for key in known:
                self._kept.move_to_end(key)
        new = {key: i for i, key in reversed(list(enumerate(keys))) if key not in known}
        self.hits, self.misses = self.hits + len(keys) - len(new), self.misses + len(new)
        if new:
            order = sorted(new.values())
            scored = self.source([episodes[i] for i in order], on_bad_reward)
            known |= {keys[i]: take(scored, [row]) for row, i in enumerate(order)}
            with self._lock:
                kept = (key for key in new if not isinstance(key, int) and not known[key].abstained.any())
                self._kept |= {key: known[key] for key in kept}
                while len(self._kept) > self.size:
                    self._kept.popitem(last=False)
        return concatenate([known[key] for key in keys], episodes)

    def label(self) -> str:
        """With the bound."""
        return f"{self.name}: Cache of {self.size}"

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_kept")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._kept, self._lock = OrderedDict(), threading.Lock()


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
        self._process: _Worker | None = None
        self._hanging: list[threading.Thread] = []

    def evaluate(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """The source's rewards, in time."""
        if self.worker == "thread":
            return self._in_thread(episodes, on_bad_reward)
        if self._process is None or not self._process.alive:
            self._process = _Worker(self.source)
        self._process.send(episodes, on_bad_reward)
        rewards = self._process.receive(self.seconds, episodes)
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
            raise _too_slow(self.name, self.seconds, episodes) from TimeoutError(self.name)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def state_dict(self) -> dict[str, Any]:
        """What the source remembers; a memory in another process cannot be had."""
        return _reachable(self, super().state_dict())

    def close(self) -> None:
        """End the worker process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def label(self) -> str:
        """With the limit."""
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
        """With the number of calls."""
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
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()

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
            worker = _Worker(self.source)
        try:
            worker.send(episodes, on_bad_reward)
            rewards = worker.receive(None, episodes)
            self._last_failure = worker.last_failure or self._last_failure
            return rewards
        finally:
            if worker.alive:
                self._idle.put(worker)

    def state_dict(self) -> dict[str, Any]:
        """What the source remembers; a memory in another process cannot be had."""
        return _reachable(self, super().state_dict())

    def close(self) -> None:
        """End the worker processes, if there are any."""
        while not self._idle.empty():
            self._idle.get().kill()

    def label(self) -> str:
        """With the number of workers."""
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


def take(rewards: Rewards, rows: Sequence[int]) -> Rewards:
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


class _Worker:
    """A spawned process that holds a source and scores what it is sent.

    Tokenizers travel once, by fingerprint, since one may be megabytes and every episode has it.

    Attributes:
        last_failure: That of the source in the process, as it was after the last batch.
    """

    def __init__(self, source: RewardSource) -> None:
        self.name = source.name
        self.last_failure: str | None = None
        self._known: set[str] = set()
        try:
            payload = pickle.dumps(source)
        except Exception as error:
            raise ConfigError(
                f"reward {source.name!r} cannot be sent to a worker process ({error}); define it at the "
                "top of a module, or pass worker='thread'"
            ) from error
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, payload), daemon=True, name="reward worker"
        )
        self._process.start()
        theirs.close()
        self._answer(_START_SECONDS, f"reward {self.name!r}: the worker process did not start")

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def send(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> None:
        tokenizers = {e.tokenizer.fingerprint: e.tokenizer for e in episodes}
        new = {k: v for k, v in tokenizers.items() if k not in self._known}
        self._known |= set(new)
        try:
            self._pipe.send((new, [_packed(e) for e in episodes], on_bad_reward))
        except Exception as error:
            self.kill()
            raise RewardError(
                f"reward {self.name!r}: cannot send the batch to its worker: {error}"
            ) from error

    def receive(self, seconds: float | None, episodes: Sequence[Episode]) -> Rewards:
        rewards: Rewards
        rewards, self.last_failure = self._answer(seconds, str(_too_slow(self.name, seconds, episodes)))
        return rewards

    def _answer(self, seconds: float | None, slow: str) -> Any:
        try:
            if not self._pipe.poll(seconds):
                raise RewardError(slow) from TimeoutError(self.name)
            message, answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(1.0)
            code = self._process.exitcode
            self.kill()
            raise RewardError(
                f"reward {self.name!r}: its worker process died (exit code {code}); if it never started, the "
                'script lacks `if __name__ == "__main__":`'
            ) from None
        except (
            BaseException
        ):  # a timeout or Ctrl-C: the answer may still come, so the pipe cannot be used again
            self.kill()
            raise
        if message:
            raise RewardError(message) from answer
        return answer

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _serve(pipe: Any, payload: bytes) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    tokenizers: dict[str, Tokenizer] = {}
    try:
        # Made by the parent a moment ago and sent over its own pipe, as multiprocessing does; never a file.
        source: RewardSource = pickle.loads(payload)
        pipe.send(("", None))
    except BaseException as error:
        pipe.send((f"the worker process could not load the reward: {error!r}", _sendable(error)))
        return
    while True:
        try:
            new, rows, on_bad_reward = pipe.recv()
        except EOFError:
            return
        tokenizers |= new
        try:
            rewards = source([_unpacked(row, tokenizers) for row in rows], on_bad_reward)
            answer: tuple[str, Any] = ("", (rewards, source.last_failure))
        except Exception as error:
            answer = (str(error) or repr(error), _sendable(error.__cause__ or error))
        pipe.send(answer)


def _sendable(error: BaseException) -> BaseException:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(type(error), error, error.__traceback__)))
    return error


def _packed(episode: Episode) -> tuple[str, str, dict[str, Any]]:
    rest = {f.name: getattr(episode, f.name) for f in fields(Episode) if f.name != "tokenizer"}
    return episode.tokenizer.fingerprint, episode.completion, rest


def _unpacked(row: tuple[str, str, dict[str, Any]], tokenizers: Mapping[str, Tokenizer]) -> Episode:
    fingerprint, completion, rest = row
    episode = Episode(tokenizer=tokenizers[fingerprint], **rest)
    episode.__dict__["completion"] = completion
    return episode


def _too_slow(name: str, seconds: float | None, episodes: Sequence[Episode]) -> RewardError:
    return RewardError(
        f"reward {name!r} took longer than {seconds} s for {len(episodes)} episodes "
        f"(first prompt {excerpt(episodes[0].prompt.id)}); make it faster or raise the limit"
    )


def _key(episode: Episode, on_bad_reward: OnBadReward) -> Hashable:
    """A key of everything a source may look at, or None where columns have no faithful text."""
    prompt = episode.prompt
    try:
        columns = json.dumps(dict(prompt.columns), sort_keys=True)
    except (TypeError, ValueError):
        return None
    ending = (episode.finish_reason, episode.stop)
    mask = None if episode.agent_mask is None else episode.agent_mask.tobytes()
    ids = (episode.prompt_ids.tobytes(), episode.completion_ids.tobytes(), episode.tokenizer.fingerprint)
    return (prompt.id, prompt.text, columns, episode.completion, ids, mask, ending, on_bad_reward)
