"""A reward source whose copies score batches on Ray actors: for sources that are slow, or live elsewhere.

Scheduling and transport are Ray's. What an actor does with a batch is what a worker process does with it
(`worker`), so errors, tokenizers and rewards travel in the same way.
"""

from __future__ import annotations

import json
import logging
import queue
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from text_gym.episode import Episode
from text_gym.errors import ConfigError, RewardError, SandboxError
from text_gym.utils.display import harmless
from text_gym.utils.limits import UNLIMITED, SandboxLimits
from text_gym.utils.processes import START_SECONDS
from text_gym.utils.ray_cluster import load_ray, running_ray

from .calls import concatenate
from .source import Source, Wrapper
from .values import OnBadReward, Rewards
from .worker import Server, Worker

LOG = logging.getLogger(__name__)


class RemoteReward(Wrapper):
    """Scores batches on Ray actors, each of which holds a copy of the source.

    A batch is split into chunks. Each goes to the next actor that is free, which has no other meanwhile, so
    that no more than `actors` chunks are under way, whoever asks and from how many threads. Rewards come back
    in the order of the episodes. Where an actor dies, or its machine does, another is started and asked the
    same chunk again; a source that raises is not asked again, and its error comes back as if it had been
    raised here, with the traceback of the actor in its cause.

    The cluster is that of `RAY_ADDRESS`, or a local one, which ends with the program. text-gym must be
    installed on its machines. A copy counts on its own, too: the budget of calls of a judge holds for each
    actor. A source that remembers earlier calls can be had on one actor only, and keeps its memory when that
    actor dies.

    Args:
        source: The source; it is pickled. One that loads a model when it is first asked loads it on the
            actors alone.
        actors: Copies of it, which score at the same time.
        batch_size: Episodes of a chunk; None splits each batch evenly over the actors.
        restarts: Times that a chunk is asked again after the actor that had it died.
        seconds: Time limit of a chunk; None for none. An actor that is too slow is ended.
        cpus: Cores that Ray sets aside for an actor; 0 suits a source that waits for others.
        gpus: GPUs that it sets aside for an actor.

    Raises:
        ConfigError: A number that makes no sense, or, when it is asked, a source that cannot be pickled, or
            one that remembers earlier calls on several actors.
        MissingLibraryError: Ray is not installed.
        RewardError: When it is asked: the source raised, was too slow, or its actors died.
    """

    def __init__(
        self,
        source: Source,
        actors: int = 2,
        *,
        batch_size: int | None = None,
        restarts: int = 2,
        seconds: float | None = None,
        cpus: float = 0,
        gpus: float = 0,
    ) -> None:
        super().__init__(source)
        if actors < 1 or restarts < 0 or min(cpus, gpus) < 0 or (batch_size is not None and batch_size < 1):
            raise ConfigError(
                "RemoteReward needs actors and batch_size >= 1, restarts, cpus and gpus >= 0, not "
                f"{actors}, {batch_size}, {restarts}, {cpus}, {gpus}"
            )
        if seconds is not None and not 0 < seconds < float("inf"):
            raise ConfigError(f"RemoteReward needs seconds > 0, not {seconds}")
        self.actors, self.batch_size, self.restarts, self.seconds = actors, batch_size, restarts, seconds
        self.cpus, self.gpus = cpus, gpus
        self._started: list[Worker] = []
        self._closed = 0  # times that `close` was called
        self._free = _places(actors)
        load_ray("RemoteReward")

    def evaluate(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """The chunks' rewards, put together; the first chunk's error if any failed."""
        size = self.batch_size or -(-len(episodes) // self.actors)
        chunks = [episodes[i : i + size] for i in range(0, len(episodes), size)]
        with ThreadPoolExecutor(min(self.actors, len(chunks))) as pool:
            futures = [pool.submit(self._score, chunk, on_bad_reward) for chunk in chunks]
            try:
                return concatenate([future.result() for future in futures], episodes)
            except BaseException as error:
                pool.shutdown(wait=False, cancel_futures=True)
                if not isinstance(error, Exception):  # Ctrl-C does not wait for a slow source
                    self.close()
                raise

    def _score(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """Have the next free actor score a chunk, and another one if it dies."""
        free, closed = self._free, self._closed
        worker = free.get()
        try:
            for attempt in range(self.restarts + 1):
                try:
                    if worker is None or not worker.alive:
                        worker = self._start()
                    rewards = worker.score(episodes, on_bad_reward, self.seconds)
                    self._remember(worker)
                    self._last_failure = worker.last_failure or self._last_failure
                    return rewards
                except (RewardError, SandboxError) as error:
                    died = isinstance(error, _DeadActorError) or isinstance(error.__cause__, _DeadActorError)
                    if not died or attempt == self.restarts or closed != self._closed:
                        raise
                    LOG.warning("%s; another is started and asked again", harmless(str(error), limit=300))
            raise AssertionError("unreachable")
        finally:
            free.put(worker if worker is not None and worker.alive else None)

    def _start(self) -> Worker:
        """Start an actor with a copy of the source as it is here, memory included."""
        ray = running_ray("RemoteReward")
        try:
            data = ray.cloudpickle.dumps(self.source)
        except Exception as error:
            raise ConfigError(f"reward {self.name!r} cannot be sent to a Ray actor: {error}") from error
        process = _Actor(self.cpus, self.gpus)
        try:
            worker = Worker(self.name, {"main": {}}, UNLIMITED, data, process=process)
        except SandboxError as error:
            if error.limit == "time":
                raise RewardError(
                    f"reward {self.name!r}: no Ray actor started within {START_SECONDS:g} s; has the cluster "
                    f"{self.cpus:g} cores and {self.gpus:g} GPUs for each of {self.actors}?"
                ) from TimeoutError(self.name)
            raise
        except BaseException:
            process.close()
            raise
        self._started = [other for other in self._started if other.alive] + [worker]
        return worker

    def _remember(self, worker: Worker) -> None:
        """Keep here what the copy remembers, for checkpoints and for whoever takes its place."""
        state = worker.ask({}, self.seconds)["state"]
        if not state:
            return
        if self.actors > 1:
            raise ConfigError(
                f"reward {self.name!r} remembers its earlier calls, and each of {self.actors} actors would "
                "remember others; pass actors=1"
            )
        self.source.load_state_dict(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the memory; an actor that has another one makes way."""
        before = self.state_dict()
        super().load_state_dict(state)
        if before != self.state_dict():
            self.close()

    def close(self) -> None:
        """End the actors; the next call starts others."""
        self._closed += 1
        self._free, started, self._started = _places(self.actors), self._started, []
        for worker in started:
            worker.kill()

    def label(self) -> str:
        """The source with its number of actors."""
        return f"{self.name}: RemoteReward, {self.actors} × Ray actor"

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_free", "_started")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._started = []
        self._free = _places(self.actors)


def _places(actors: int) -> queue.SimpleQueue[Worker | None]:
    """Make the queue of the free places, one an actor; where it has not been started, there is None."""
    free: queue.SimpleQueue[Worker | None] = queue.SimpleQueue()
    for _ in range(actors):
        free.put(None)
    return free


class _DeadActorError(SandboxError):
    """An actor that is there no more."""


class _Actor:
    """An actor that answers as `Server` does; see `worker.Process`."""

    limits: SandboxLimits = UNLIMITED

    def __init__(self, cpus: float, gpus: float) -> None:
        self._ray = ray = running_ray("RemoteReward")
        make = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0)(_Server)
        self._handle: Any = make.remote()

    @property
    def alive(self) -> bool:
        """True if it has neither died nor been ended."""
        return self._handle is not None

    @property
    def missing(self) -> dict[str, str]:
        """Nothing is limited on an actor."""
        return {}

    def __call__(self, *arguments: Any, data: bytes = b"", seconds: float | None = None) -> Any:
        """Ask the actor."""
        handle = self._handle
        if handle is None:
            raise _DeadActorError("its Ray actor was ended")
        try:
            answer = self._ray.get(handle.serve.remote(*arguments, data), timeout=seconds)
        except self._ray.exceptions.GetTimeoutError:
            self.close()
            raise SandboxError(f"its Ray actor gave no answer within {seconds:g} s", "time") from None
        except self._ray.exceptions.RayTaskError as error:  # an answer that is no JSON
            raise SandboxError(f"its Ray actor could not answer: {_one_line(error)}") from error
        except self._ray.exceptions.RayError as error:
            self.close()
            raise _DeadActorError(f"its Ray actor died: {_one_line(error)}") from error
        return json.loads(answer)

    def close(self) -> None:
        """Kill the actor."""
        handle, self._handle = self._handle, None
        if handle is not None and self._ray.is_initialized():
            self._ray.kill(handle)


class _Server:
    """What runs on an actor."""

    def __init__(self) -> None:
        self._serve = Server()

    def serve(self, message: Mapping[str, Any], data: bytes) -> str:
        """Answer a message, in JSON: nothing that comes back is unpickled."""
        return json.dumps(self._serve(message, data))


def _one_line(error: Exception) -> str:
    return harmless(" ".join(str(error).split()), limit=300)
