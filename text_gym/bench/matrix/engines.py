"""Engines run the jobs of a matrix in worker processes or on a Ray cluster.

A job reads and writes one folder and nothing else. What jobs there are, and in what order, is not decided
here.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from text_gym.errors import ConfigError, TextGymError
from text_gym.utils.ray_cluster import load_ray, running_ray
from text_gym.utils.sealed import MANIFEST, read_about, write_sealed

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class Job(Protocol):
    """A piece of work that can be pickled. Paths are relative to the folder."""

    @property
    def name(self) -> str:
        """The job's name in messages."""

    @property
    def needs(self) -> list[str]:
        """The files and sealed folders the job reads."""

    @property
    def makes(self) -> list[str]:
        """The files and sealed folders the job writes; the first is written last."""

    def done(self, folder: Path) -> bool:
        """True if the job need not be run."""

    def run(self, folder: Path) -> None:
        """Run the job; the same job always gives the same bytes."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job.

    Args:
        job: The job.
        seconds: How long it took.
        error: What went wrong, in a line; empty if nothing did.
        trace: The traceback, where that helps.
    """

    job: Any
    seconds: float
    error: str = ""
    trace: str = ""


class Engine(Protocol):
    """Runs jobs that do not depend on each other, in any order."""

    def run(self, jobs: Sequence[Any], folder: Path) -> Iterator[Outcome]:
        """Yield outcomes as they come; a failing job does not stop the others."""

    def close(self) -> None:
        """Stop whatever was started."""


class LocalEngine:
    """Runs jobs in worker processes of one thread each, so that results do not depend on their number.

    Args:
        workers: How many; 0 runs the jobs in this process, one after another.
    """

    def __init__(self, workers: int) -> None:
        if workers < 0:
            raise ConfigError(f"workers is {workers}; it must be 0 (this process) or more")
        self.workers = workers
        self._pools: list[ProcessPoolExecutor] = []

    def run(self, jobs: Sequence[Any], folder: Path) -> Iterator[Outcome]:
        """Yield outcomes as they come."""
        if not self.workers:
            with one_thread():
                yield from (attempt(job, folder) for job in jobs)
            return
        todo, running = list(reversed(jobs)), dict[Future[Outcome], tuple[int, Any]]()
        free = list(range(self.workers))
        with _environment(_ONE_THREAD):  # workers start when they get their first job
            while todo or running:
                while todo and free:
                    slot, job = free.pop(), todo.pop()
                    running[self._pool(slot).submit(attempt, job, folder)] = slot, job
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    slot, job = running.pop(future)
                    free.append(slot)
                    yield self._outcome(future, slot, job)

    def close(self) -> None:
        """Stop the workers, whatever they are doing."""
        for pool in self._pools:
            for process in list((getattr(pool, "_processes", None) or {}).values()):
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
        self._pools = []

    def _pool(self, slot: int) -> ProcessPoolExecutor:
        """Start pools of one process each, so that a dead process points to its job."""
        while len(self._pools) <= slot:
            self._pools.append(_new_pool())
        return self._pools[slot]

    def _outcome(self, future: Future[Outcome], slot: int, job: Any) -> Outcome:
        try:
            return future.result()
        except BrokenProcessPool:
            self._pools[slot] = _new_pool()
            return Outcome(job, 0.0, "its process died (was it killed, or out of memory?)")
        except Exception as error:
            raise _not_to_be_sent(job, error) from error


class RayEngine:
    """Runs jobs as tasks of a Ray cluster, one core each; files travel as bytes, so nothing is shared.

    The cluster is that of `RAY_ADDRESS`, or a local one that ends with the benchmark. text-gym must be
    installed on its machines, and files of rewards must lie where they lie here.

    Args:
        workers: Cores of a local cluster; all if None.

    Raises:
        MissingLibraryError: Ray is not installed.
    """

    def __init__(self, workers: int | None = None) -> None:
        self._owner = not load_ray("--engine ray").is_initialized()
        self.ray = ray = running_ray("--engine ray", workers)
        self._far = ray.remote(max_retries=1)(attempt_far)
        self._sent: dict[str, Any] = {}

    def run(self, jobs: Sequence[Any], folder: Path) -> Iterator[Outcome]:
        """Yield outcomes as they come, and write what each task made."""
        running = {}
        for job in jobs:
            for path in job.needs:
                if path not in self._sent:
                    self._sent[path] = self.ray.put(pack(folder, [path]))
            running[self._far.remote(job, [self._sent[path] for path in job.needs])] = job
        while running:
            done, _ = self.ray.wait(list(running), num_returns=1)
            job = running.pop(done[0])
            try:
                outcome, files = self.ray.get(done[0])
            except self.ray.exceptions.RayError as error:
                why = str(getattr(error, "cause", None) or error).strip().splitlines() or [""]
                yield Outcome(job, 0.0, f"its Ray task failed: {why[-1]}", str(error))
                continue
            if not outcome.error:
                unpack(files, folder)
            yield outcome

    def close(self) -> None:
        """Stop the cluster if it was started here."""
        self._sent.clear()
        if self._owner:
            self.ray.shutdown()


def attempt(job: Any, folder: Path) -> Outcome:
    """Run a job and report any failure as part of the outcome."""
    started = time.perf_counter()
    try:
        job.run(folder)
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        trace = "" if isinstance(error, TextGymError) else traceback.format_exc()
        return Outcome(job, time.perf_counter() - started, message, trace)
    return Outcome(job, time.perf_counter() - started)


def attempt_far(job: Any, files: Sequence[Any]) -> tuple[Outcome, dict[str, dict[str, bytes]]]:
    """Call `attempt` away from the folder; the job's inputs and outputs travel as bytes."""
    import ray

    _quiet()
    folder = Path(tempfile.mkdtemp(prefix="text-gym-"))
    try:
        with one_thread():
            for file in files:
                unpack(ray.get(file), folder)
            outcome = attempt(job, folder)
            return outcome, {} if outcome.error else pack(folder, job.makes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def pack(folder: Path, paths: Sequence[str]) -> dict[str, dict[str, bytes]]:
    """Read files and whole folders as bytes: path -> name inside it (empty for a file) -> content."""
    packed = {}
    for path in paths:
        place = folder / path
        if not place.exists():  # the page about rollouts, where none were kept
            continue
        files = [place] if place.is_file() else sorted(f for f in place.rglob("*") if f.is_file())
        packed[path] = {"" if f == place else f.relative_to(place).as_posix(): f.read_bytes() for f in files}
    return packed


def unpack(packed: dict[str, dict[str, bytes]], folder: Path) -> None:
    """Write what `pack` read, folders first, each completely or not at all."""
    for path, files in sorted(packed.items(), key=lambda item: "" in item[1]):
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if "" in files:
            partial = place.with_name(f".{place.name}.partial")
            partial.write_bytes(files[""])
            partial.replace(place)
        else:
            _unpack_folder(files, place)


def _unpack_folder(files: dict[str, bytes], place: Path) -> None:
    def fill(partial: Path) -> None:
        for name, content in files.items():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(content)
        about.append(read_about(partial))
        (partial / MANIFEST).unlink(missing_ok=True)

    about: list[Any] = []
    with tempfile.TemporaryDirectory() as other:
        fill(Path(other))
    write_sealed(place, fill, about[0])


def _new_pool() -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=_begin_worker)


def _begin_worker() -> None:
    """Set up a worker: one thread, Ctrl-C left to the parent, and no life beyond the parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    _quiet()
    import torch

    torch.set_num_threads(1)


def _quiet() -> None:
    """Silence advice about single runs, which would flood the matrix's output."""
    log = logging.getLogger("text_gym")
    log.addHandler(logging.NullHandler())
    log.propagate = False


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch compute on one thread, so that results depend on no number of cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Return the environment for new processes, which libraries read when they load."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _not_to_be_sent(job: Any, error: Exception) -> Exception:
    """Explain a job that cannot be pickled, usually because of its design."""
    text = str(error)
    if "pickle" not in text.lower() and "local object" not in text:  # which 3.13.0 cannot "get"
        return error
    return ConfigError(
        f"{job.name} cannot be sent to a worker process: {text}; define the design's function at the top "
        "level of a module, or use workers=0"
    )
