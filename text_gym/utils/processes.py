"""A process under limits, watched from outside: the clock, what it prints, and what it leaves in its folder.

What it sends is plain data of its own choice and is treated so. Its limits on itself are `confinement`'s.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from text_gym.errors import ConfigError, SandboxError

from . import confinement
from .confinement import receive, send
from .display import harmless
from .limits import SandboxLimits, as_error, environment_of

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

START_SECONDS = 120.0  # a worker imports what its function needs
_TICK = 0.02  # seconds between two looks at the clock
_IDLE_TICKS = 50  # without a call, after which the watch sleeps until the next one
_BLOCK = 4096  # the least that a file or a folder counts
_PIPE = 1 << 18  # bytes that the pipe to a worker holds
_DEEPEST = 100  # folders within folders
_TAIL = 2000  # characters of a dead worker's output in its error


class LimitedProcess:
    """A limited process, its temporary folder, and the threads that watch over it.

    The thread that starts the process also watches the clock, and lives as long as the process: on Linux a
    process dies with the *thread* that started it. The watch ends the process when time is up, which ends
    every read and write that waits for it; so nothing here needs a time-out of its own.
    """

    def __init__(
        self, name: str, limits: SandboxLimits, job: Mapping[str, Any], files: Mapping[str, str] | None = None
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
            if not self.alive:
                raise SandboxError(f"{name}: the sandbox could not be started: {self._ended_by}")
            self._begin(START_SECONDS)
            settings: dict[str, Any] = {
                "parent": os.getpid(),
                "path": [str(p) or os.getcwd() for p in sys.path],
            }
            settings |= {"limits": asdict(limits), "folder": self.folder}
            with contextlib.suppress(OSError):  # it died at once: the first exchange says so
                send(self._stream("stdin"), {**settings, **job})
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """True if the process can take another message."""
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
        """The output on standard output and error; of a function's errors only a part is kept."""
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
            elif ticks % 5 == 0 and self._busy and self._has_filled_its_folder():
                self._stop("files")

    def _has_filled_its_folder(self) -> bool:
        most = self.limits.files
        return most is not None and _size(self.folder, most) > most

    def _start(self) -> None:
        pipe = subprocess.PIPE
        options: dict[str, Any] = {"start_new_session": True} if os.name == "posix" else {}
        own_stderr = self.limits.output is None and not self.is_command
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", confinement.__file__],
            stdin=pipe,
            stdout=pipe,
            stderr=None if own_stderr else pipe,
            env=environment_of(self.limits, self.folder),
            cwd=self.folder if self.is_command else None,
            bufsize=0,
            **options,
        )
        self._process = process
        with contextlib.suppress(OSError):  # where there is room: a batch is then written in one go
            if fcntl is not None and sys.platform == "linux":
                fcntl.fcntl(self._stream("stdin"), fcntl.F_SETPIPE_SZ, _PIPE)
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
