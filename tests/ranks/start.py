"""Starts processes with the environment variables that `torchrun` sets, without its seconds of its own.

`start` starts them anew; `fork` copies a process that has loaded PyTorch already, which saves seconds, too.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

# What is loaded late, and slowly.
SLOW = ("transformers.models.gpt2.modeling_gpt2", "matplotlib.figure", "matplotlib.backends.backend_agg")
ROOT = Path(__file__).resolve().parents[2]


class Process(Protocol):
    """What `finish` needs of a process."""

    @property
    def returncode(self) -> Any:
        """Its exit status."""
        ...

    def communicate(self, *, timeout: float | None = None) -> Any:
        """Wait for its end; return what it said."""
        ...

    def kill(self) -> None:
        """Kill it."""
        ...


def start(ranks: int, arguments: Sequence[str], **env: str) -> list[subprocess.Popen[str]]:
    """Start `python ARGUMENTS` as so many ranks; output of each, errors included, is piped."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return [
        subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env={**os.environ, **own, **env}, **pipes)
        for own in environments(ranks)
    ]


def environments(ranks: int) -> list[dict[str, str]]:
    """Return the environment variables of so many ranks."""
    shared = {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    return [{**shared, "RANK": str(r), "LOCAL_RANK": str(r), "WORLD_SIZE": str(ranks)} for r in range(ranks)]


def _free_port() -> int:
    """Find a port that nobody listens on, below those that systems give to outgoing connections."""
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with suppress(OSError), socket.socket() as found:
            found.bind(("127.0.0.1", port))
            return port


class Fork:
    """A rank that calls `main` of a module; its output is piped, as that of `start`."""

    def __init__(self, module: str, arguments: Sequence[str], env: dict[str, str]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([module, *SLOW])
        reader, writer = context.Pipe(duplex=False)
        self._process = context.Process(target=_be, args=(writer, module, list(arguments), env))
        self._process.start()
        writer.close()
        self._said = b""
        self._listening = threading.Thread(target=self._listen, args=(reader,), daemon=True)
        self._listening.start()

    def _listen(self, reader: Connection) -> None:
        while part := os.read(reader.fileno(), 65536):
            self._said += part
        reader.close()

    @property
    def returncode(self) -> int | None:
        """Its exit status, or the negative number of the signal that ended it."""
        return self._process.exitcode

    def communicate(self, *, timeout: float | None = None) -> tuple[str, None]:
        """Wait for its end; return what it said."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(["a rank"], timeout or 0)
        self._listening.join(5)
        return self._said.decode(errors="replace"), None

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()


def _be(writer: Connection, module: str, arguments: list[str], env: dict[str, str]) -> None:
    """Be a rank."""
    os.environ.update(env)
    for stream in (1, 2):
        os.dup2(writer.fileno(), stream)
    writer.close()
    sys.argv = [module, *arguments]
    sys.exit(importlib.import_module(module).main())


def fork(ranks: int, module: str, arguments: Sequence[str], **env: str) -> list[Fork]:
    """Have so many ranks call `main` of a module with these arguments."""
    return [Fork(module, arguments, {**own, **env}) for own in environments(ranks)]


def finish(processes: Sequence[Process], seconds: float) -> list[tuple[int | None, str]]:
    """Wait for all; return each one's exit status, None if it had to be killed, and what it said."""
    found: list[tuple[int | None, str]] = []
    for process in processes:
        try:
            said, _ = process.communicate(timeout=seconds)
            found.append((process.returncode, said))
        except subprocess.TimeoutExpired:
            process.kill()
            found.append((None, process.communicate()[0]))
    return found
