"""A sandbox: functions and commands run with limits on time, memory, files, network and processes.

A function runs in a worker process that is reused; its answers and errors come back as plain data. This is
no virtual machine: it may read every file that you may read, and it shares your kernel.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from text_gym.errors import ConfigError, SandboxError

from . import sandbox_worker
from .display import harmless
from .sandbox_worker import receive, send, unavailable

LOG = logging.getLogger(__name__)
START_SECONDS = 120.0  # a worker imports what its function needs
_TICK = 0.02  # seconds between two looks at the clock
_IDLE_TICKS = 50  # without a call, after which the watch sleeps until the next one
_BLOCK = 4096  # the least that a file or a folder counts
_PIPE = 1 << 20  # bytes that a pipe holds, so that a batch is written in one go
_DEEPEST = 100  # folders within folders
_TAIL = 2000  # characters of a dead worker's output in its error
# What the worker inherits of the environment: no keys or tokens.
_INHERITED = (
    "PATH HOME LANG LC_ALL LC_CTYPE TZ LD_LIBRARY_PATH SYSTEMROOT OMP_NUM_THREADS MKL_NUM_THREADS "
    "OPENBLAS_NUM_THREADS OPENBLAS_CORETYPE OPENBLAS_L2_SIZE XDG_CACHE_HOME HF_HOME TORCH_HOME"
).split()
# Which limit an operating system's refusal stands for, by the number that the worker saw.
_REFUSALS = {
    errno.ENETDOWN: "network",
    errno.EAGAIN: "processes",
    errno.EACCES: "files",
    errno.EFBIG: "files",
    errno.EPERM: "permission",
    errno.ENOMEM: "memory",
}
_MEANING = {
    "network": "the sandbox gives no network",
    "processes": "the sandbox lets it start no process",
    "files": "in the sandbox it may write only to its temporary folder (`tempfile`), and only so much",
    "memory": "the sandbox gives it no more memory",
    "permission": "the sandbox refuses signals to others, changes of owner or mode, and system administration",
}


@dataclass(frozen=True)
class Limits:
    """What a sandboxed function or command may use.

    Args:
        seconds: Of one call; None for no limit. Imports at the start have two minutes of their own.
        memory: Bytes of address space; None for no limit. GPU drivers reserve far more than they use.
        files: Bytes that may lie in the private temporary folder, the only place that can be written to;
            None lets it write wherever you may.
        output: Bytes printed in one call, shown on standard error as they come, control characters written
            out; None leaves standard error to the worker.
        answer: Bytes of one answer.
        network: Allow sockets.
        processes: Allow it to start processes, to signal them and others, and what else needs privileges.
        environment: Pass the whole environment on, with the keys and tokens in it.
    """

    seconds: float | None = 60.0
    memory: int | None = 4 << 30
    files: int | None = 256 << 20
    output: int | None = 1 << 20
    answer: int = 16 << 20
    network: bool = False
    processes: bool = False
    environment: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or (value is None and field.name != "answer"):
                continue
            if not 0 < value < math.inf:
                raise ConfigError(f"limit {field.name} must be positive and finite, not {value!r}")


UNLIMITED = Limits(None, None, None, None, (1 << 32) - 1, True, True, True)


@dataclass(frozen=True)
class CommandResult:
    """How a sandboxed command ended.

    Args:
        code: Exit status; `-n` if signal `n` ended it, 127 if there is no such program.
        stdout: What it wrote to standard output.
        stderr: What it wrote to standard error.
        seconds: Wall-clock time from start to end, with the half a tenth of a second that the limits take.
    """

    code: int
    stdout: bytes
    stderr: bytes
    seconds: float


class Sandbox:
    """Runs one function in a limited worker process, which is reused from call to call.

    The worker starts with the first call. After a limit was hit or the worker died, the next call starts
    another one. Arguments and answers are JSON: tuples come back as lists.

    Args:
        function: `"file.py:name"`, `"module:name"`, or a function at the top of a module or script.
        limits: What it may use.

    Raises:
        ConfigError: The function has no name under which a worker could find it.

    >>> with Sandbox("math:hypot") as hypot:
    ...     hypot(3, 4)
    5.0
    """

    def __init__(self, function: str | Callable[..., Any], limits: Limits = Limits()) -> None:  # noqa: B008
        self.limits = limits
        self.name, self._target = _target(function)
        self._worker: _Worker | None = None
        self._finalizer: weakref.finalize[..., Sandbox] | None = None
        self._lock = threading.RLock()

    @property
    def missing(self) -> dict[str, str]:
        """The limits that were asked for and that this machine cannot enforce, each with the reason."""
        return _missing(self.limits)

    @property
    def alive(self) -> bool:
        """Whether a worker is there for the next call."""
        return self._worker is not None and self._worker.alive

    def __call__(self, *arguments: Any, data: bytes = b"", seconds: float | None = None) -> Any:
        """Call the function with JSON data and return its answer, which is JSON data too.

        Args:
            arguments: Passed on by position.
            data: Passed on as one more argument, unless it is empty.
            seconds: Another time limit for this call.

        Raises:
            SandboxError: It raised, died, or ran into a limit, which is named.
        """
        with self._lock:
            return self._started().exchange(list(arguments), seconds or self.limits.seconds, data)

    def _started(self) -> _Worker:
        if self._worker is None or not self._worker.alive:
            _say_once(tuple(sorted(self.missing.items())))
            self.close()
            worker = _Worker(self.name, self.limits, {"target": self._target})
            self._finalizer = weakref.finalize(self, worker.close)
            self._worker = worker
            worker.exchange(None, START_SECONDS)
        return self._worker

    def close(self) -> None:
        """End the worker, if there is one, and remove its temporary folder."""
        with self._lock:
            if self._worker is not None and self._finalizer is not None:
                self._finalizer()
                self._worker = self._finalizer = None

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def run_command(
    command: Sequence[str],
    *,
    stdin: bytes = b"",
    files: Mapping[str, str] | None = None,
    limits: Limits = Limits(seconds=10.0),  # noqa: B008
) -> CommandResult:
    """Run a command in a sandbox, in a temporary folder of its own.

    Args:
        command: Program and arguments; no shell reads them.
        stdin: What it reads from standard input.
        files: Names and texts of files that lie in its folder when it starts.
        limits: What it may use; `output` is of both streams together.

    Raises:
        SandboxError: It ran out of time, or wrote too much.
        ConfigError: A file's name leads out of the folder, or there is no command.

    >>> run_command([sys.executable, "-c", "print(6 * 7)"]).stdout
    b'42\\n'
    """
    if not command:
        raise ConfigError("the command is empty")
    start = time.monotonic()
    _say_once(tuple(sorted(_missing(limits).items())))
    worker = _Worker(command[0], limits, {"command": list(command)}, files=files or {})
    try:
        code = worker.run(stdin)
        return CommandResult(code, worker.printed("stdout"), worker.printed("stderr"), time.monotonic() - start)
    finally:
        worker.close()


class _Worker:
    """One worker process, its temporary folder, and the threads that watch over it.

    The thread that starts the process also watches the clock, and lives as long as the process: on Linux a
    process dies with the *thread* that started it. The watch ends the process when time is up, which ends
    every read and write that waits for it; so nothing here needs a time-out of its own.
    """

    def __init__(
        self, name: str, limits: Limits, job: Mapping[str, Any], files: Mapping[str, str] | None = None
    ) -> None:
        self.name, self.limits = name, limits
        self.owner = os.getpid()
        self.folder = tempfile.mkdtemp(prefix="text-gym-sandbox-")
        self.is_command = "command" in job
        self._ended_by: str | None = None
        self._deadline: float | None = None
        self._busy = False
        self._lock = threading.Lock()
        self._called, self._closed, self._ready = threading.Event(), threading.Event(), threading.Event()
        self._output: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self._count = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._readers: list[threading.Thread] = []
        try:
            _write_files(Path(self.folder), files or {})
            threading.Thread(target=self._watch, daemon=True, name=f"sandbox {name}").start()
            self._ready.wait()
            if self._process is None:
                raise SandboxError(f"{name}: the sandbox could not be started: {self._ended_by}")
            self._begin(START_SECONDS)
            settings = {"parent": os.getpid(), "path": [p or os.getcwd() for p in sys.path]}
            settings |= {"limits": asdict(limits), "folder": self.folder, "dies_with_parent": True}
            with contextlib.suppress(OSError):  # it died at once: the first exchange says so
                send(self._stream("stdin"), settings | job)
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        own = self.owner == os.getpid() and self._ended_by is None and not self._closed.is_set()
        return own and self._process is not None and self._process.poll() is None

    def exchange(self, message: list[Any] | None, seconds: float | None, data: bytes = b"") -> Any:
        """Send arguments (None: nothing, at the start) and return the answer to them."""
        self._begin(seconds)
        try:
            if message is not None:
                send(self._stream("stdin"), message, data)
            answer, _ = receive(self._stream("stdout"), self.limits.answer)
            if not isinstance(answer, dict) or len({"value", "error"} & set(answer)) != 1:
                raise ValueError("an answer of another form")
        except (OSError, EOFError):
            raise self._death(seconds) from None
        except (ValueError, RecursionError) as error:  # what it sent is no answer, or a message is no JSON
            self.close()
            raise SandboxError(f"{self.name}: {harmless(str(error), limit=300)}", "answer") from None
        except BaseException:  # Ctrl-C: the answer may still come, so the pipe cannot be used again
            self.close()
            raise
        finally:
            self._end()
        if "error" in answer:
            raise as_error(self.name, answer["error"], self.limits)
        return answer["value"]

    def run(self, stdin: bytes) -> int:
        """Feed a command and wait for its end; the exit status."""
        assert self._process is not None
        self._begin(self.limits.seconds)
        try:
            with contextlib.suppress(OSError):  # it need not read what it is given
                stream = self._process.stdin
                if stream is not None:
                    stream.write(stdin)
                    stream.close()
            code = self._process.wait()
            self._kill()  # what it started and left behind holds the pipes open
            for reader in self._readers:
                reader.join()
        finally:
            self._end()
        if self._ended_by is not None:
            raise self._death(self.limits.seconds)
        return code

    def printed(self, stream: str) -> bytes:
        """What came on standard output or error, the latter of functions only in part."""
        return bytes(self._output[stream])

    def close(self) -> None:
        """Kill the process and all that it started, and remove the folder."""
        self._stop("closed")
        self._closed.set()
        self._called.set()
        for stream in (self._process.stdin, self._process.stdout) if self._process is not None else ():
            if stream is not None and not (stream.closed or self.is_command):
                stream.close()
        if self.owner == os.getpid():
            _remove(self.folder)

    def _stream(self, name: str) -> int:
        stream: IO[bytes] = getattr(self._process, name)
        return stream.fileno()

    def _begin(self, seconds: float | None) -> None:
        with self._lock:
            self._count = 0
            self._busy = True
            self._deadline = None if seconds is None else time.monotonic() + seconds
        if not self._called.is_set():
            self._called.set()

    def _end(self) -> None:
        with self._lock:
            self._busy = False
            self._deadline = None

    def _stop(self, why: str) -> None:
        """Kill the process; the first reason given is the one that is told."""
        with self._lock:
            self._ended_by = self._ended_by or why
        self._kill()

    def _kill(self) -> None:
        """Kill the process and all that it started, once and for all."""
        if self._process is None or self.owner != os.getpid() or self._closed.is_set():
            return
        # Where nothing may be started, a dead process's number may already be another's.
        if hasattr(os, "killpg") and (self.limits.processes or self._process.poll() is None):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()

    def _watch(self) -> None:
        try:
            self._start()
        except Exception as error:
            self._ended_by = str(error)
            return
        finally:
            self._ready.set()
        idle = ticks = 0
        while not self._closed.wait(_TICK):
            ticks += 1
            idle = 0 if self._busy else idle + 1
            if idle > _IDLE_TICKS:
                self._called.clear()
                if not self._busy:
                    self._called.wait()
                idle = 0
            with self._lock:
                late = self._deadline is not None and time.monotonic() > self._deadline
            if late:
                self._stop("time")
            elif ticks % 5 == 0 and self.limits.files is not None and self._busy:
                if _size(self.folder, self.limits.files) > self.limits.files:
                    self._stop("files")

    def _start(self) -> None:
        pipe = subprocess.PIPE
        options: dict[str, Any] = {"start_new_session": True} if os.name == "posix" else {}
        own_stderr = self.limits.output is None and not self.is_command
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", sandbox_worker.__file__],
            stdin=pipe,
            stdout=pipe,
            stderr=None if own_stderr else pipe,
            env=_environment(self.folder, whole=self.limits.environment),
            cwd=self.folder if self.is_command else None,
            bufsize=0,
            pipesize=_PIPE,
            **options,
        )
        self._process = process
        for name in ["stdout"] * self.is_command + ["stderr"] * (not own_stderr):
            reader = threading.Thread(target=self._read, args=(name,), daemon=True, name=f"sandbox {name}")
            reader.start()
            self._readers.append(reader)

    def _read(self, name: str) -> None:
        """Collect a command's output, or show a function's, until there is too much of it."""
        stream, most = self._stream(name), self.limits.output
        while True:
            with contextlib.suppress(OSError):
                if part := os.read(stream, 1 << 16):
                    with self._lock:
                        self._count += len(part)
                        over = most is not None and self._count > most
                    if over:
                        self._stop("output")
                        return
                    self._output[name] += part
                    if not self.is_command:
                        print(harmless(part.decode(errors="replace"), newlines=True), end="", file=sys.stderr)
                        del self._output[name][:-_TAIL]
                    continue
            return

    def _death(self, seconds: float | None) -> SandboxError:
        """The error for a process that is gone, by what ended it."""
        assert self._process is not None
        if self._ended_by is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        code, why = self._process.poll(), self._ended_by
        self.close()
        if why == "time":
            return SandboxError(f"{self.name} took longer than {seconds:g} s and was ended", "time")
        if why in ("files", "output"):
            most = getattr(self.limits, why)
            what = "left more in its temporary folder than" if why == "files" else "printed more than"
            return SandboxError(f"{self.name} {what} {most:,} bytes and was ended", why)
        for reader in self._readers:
            reader.join(1.0)
        tail = harmless(self.printed("stderr").decode(errors="replace").strip()[-300:], newlines=True)
        said = f"; its last words: {tail}" if tail else ""
        return SandboxError(f"{self.name}: its process died ({_ending(code)}){said}")


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def as_error(name: str, found: Any, limits: Limits) -> SandboxError:
    """The error that a worker described; everything in the description is its own choice."""
    found = found if isinstance(found, dict) else {}
    types = tuple(t for t in found.get("types") or () if isinstance(t, str))[:20] or ("builtins.Exception",)
    message, place, number = (found.get(key) for key in ("message", "place", "errno"))
    limit = "memory" if "builtins.MemoryError" in types else None
    if "builtins.OSError" in types and isinstance(number, int):
        limit = _REFUSALS.get(number)
    if limit is not None and _lifted(limits)[limit]:
        limit = None
    kind = types[0].removeprefix("builtins.")
    text = f"{kind}: {message}" + (f" ({place})" if place else "")
    hint = _MEANING[limit] if limit else ""
    said = f"{name} raised {harmless(text, limit=1000)}" + (f"; {hint}" if hint else "")
    return SandboxError(said, limit, types, hint)


def _target(function: str | Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """A function's name, and where a worker finds it."""
    if isinstance(function, str):
        place, _, name = function.rpartition(":")
        if not place or not name:
            raise ConfigError(f"{function!r} names no function; write file.py:name or module:name")
        if not place.endswith(".py"):
            return name, {"module": place, "name": name}
        if not Path(place).is_file():
            raise ConfigError(f"there is no file {place}")
        return name, {"file": str(Path(place).resolve()), "name": name}
    name = getattr(function, "__qualname__", "")
    module = getattr(function, "__module__", None)
    if not name or not module or "<" in name:
        raise ConfigError(f"{function!r} cannot be found by name; define it at the top of a module or a file")
    if module == "__main__":
        return name, {"file": str(Path(inspect.getfile(function)).resolve()), "name": name}
    return name, {"module": module, "name": name}


def _lifted(limits: Limits) -> dict[str, bool]:
    return {
        "memory": limits.memory is None,
        "files": limits.files is None,
        "network": limits.network,
        **dict.fromkeys(("processes", "signals", "permission"), limits.processes),
    }


def _missing(limits: Limits) -> dict[str, str]:
    lifted = _lifted(limits)
    return {name: why for name, why in _unavailable().items() if not lifted.get(name, False)}


_unavailable = lru_cache(1)(unavailable)


@lru_cache(16)
def _say_once(missing: tuple[tuple[str, str], ...]) -> None:
    if missing:
        LOG.warning("the sandbox cannot limit %s", "; ".join(f"{name} ({why})" for name, why in missing))


def _environment(folder: str, *, whole: bool) -> dict[str, str]:
    kept = dict(os.environ) if whole else {k: os.environ[k] for k in _INHERITED if k in os.environ}
    return kept if whole else kept | dict.fromkeys(("TMPDIR", "TEMP", "TMP", "MPLCONFIGDIR"), folder)


def _write_files(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        place = (folder / name).resolve()
        if not place.is_relative_to(folder.resolve()) or place == folder.resolve():
            raise ConfigError(f"file {name!r} does not lie in the command's folder")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")


def _size(folder: str, most: int) -> float:
    """Bytes that a folder holds, every file and folder counted as a block at least; stops above `most`."""
    total, left = 0, [(folder, 0)]
    while left and total <= most:
        place, depth = left.pop()
        if depth > _DEEPEST:
            return math.inf
        with contextlib.suppress(OSError):  # it is at work there
            for entry in os.scandir(place):
                total += max(entry.stat(follow_symlinks=False).st_size, _BLOCK)
                if entry.is_dir(follow_symlinks=False):
                    left.append((entry.path, depth + 1))
    return total


def _remove(folder: str) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except (OSError, RecursionError):  # nested so deep that Python cannot
        subprocess.run(["rm", "-rf", "--", folder], check=False, capture_output=True)
