"""A sandbox: functions and commands run with limits on time, memory, files, network and processes.

A function runs in a worker process that is reused; its answers and errors come back as plain data. This is
no virtual machine: it may read every file that you may read, and it shares your kernel.
"""

from __future__ import annotations

import inspect
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from text_gym.errors import ConfigError

from .limits import SandboxLimits, missing_limits
from .processes import START_SECONDS, LimitedProcess

__all__ = ["CommandResult", "Sandbox", "SandboxLimits", "run_command"]
_USUAL, _USUAL_OF_COMMANDS = SandboxLimits(), SandboxLimits(seconds=10.0)


@dataclass(frozen=True)
class CommandResult:
    """The result of a sandboxed command.

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

    def __init__(self, function: str | Callable[..., Any], limits: SandboxLimits = _USUAL) -> None:
        self.limits = limits
        self.name, self._target = _target(function)
        self._worker: LimitedProcess | None = None
        self._finalizer: weakref.finalize[..., Sandbox] | None = None
        self._lock = threading.RLock()

    @property
    def missing(self) -> dict[str, str]:
        """The limits that were asked for and that this machine cannot enforce, each with the reason."""
        return missing_limits(self.limits)

    @property
    def alive(self) -> bool:
        """True if a worker can take another call."""
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

    def start(self) -> None:
        """Start the worker, unless one is alive, so that the function is loaded before the first call.

        Raises:
            SandboxError: The function cannot be loaded.
        """
        with self._lock:
            self._started()

    def _started(self) -> LimitedProcess:
        if self._worker is None or not self._worker.alive:
            missing_limits(self.limits)  # said once, in the log
            self.close()
            worker = LimitedProcess(self.name, self.limits, {"target": self._target})
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
    limits: SandboxLimits = _USUAL_OF_COMMANDS,
) -> CommandResult:
    r"""Run a command in a sandbox, in a temporary folder of its own.

    Args:
        command: Program and arguments; no shell reads them.
        stdin: What it reads from standard input.
        files: Names and texts of files that lie in its folder when it starts.
        limits: What it may use; `output` is of both streams together.

    Raises:
        SandboxError: It ran out of time, or wrote too much.
        ConfigError: A file's name leads out of the folder, or there is no command.

    >>> run_command(["echo", "42"]).stdout
    b'42\n'
    """
    if not command:
        raise ConfigError("the command is empty")
    if os.name != "posix":
        raise ConfigError(
            "run_command needs Linux or macOS; sandboxed functions run here too, with fewer limits"
        )
    start = time.monotonic()
    missing_limits(limits)  # said once, in the log
    worker = LimitedProcess(command[0], limits, {"command": list(command)}, files=files or {})
    try:
        code = worker.run(stdin)
        return CommandResult(
            code, worker.printed("stdout"), worker.printed("stderr"), time.monotonic() - start
        )
    finally:
        worker.close()


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
