"""Locks a folder, so that no two processes write the same run.

The operating system holds it and lets go when its process ends, however that happens: no lock is ever
stale. It is advice between runs of text-gym and keeps nobody else out; over some network file systems it
does not reach other machines.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from text_gym.errors import ConfigError

LOCK = "run.lock"


class FolderLock:
    """A lock on a folder, held from construction until `release`.

    Args:
        folder: An existing folder.

    Raises:
        ConfigError: Another process, or this one, holds it; the process is named.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / LOCK
        self._stream = self._acquire()
        self._stream.seek(0)
        self._stream.truncate()
        self._stream.write(f"{os.getpid()}\n")
        self._stream.flush()

    def release(self) -> None:
        """Release the lock."""
        if not self._stream.closed:
            with suppress(OSError):
                self.file.unlink()  # while it is ours: see `_acquire`
            self._stream.close()

    def _acquire(self) -> IO[str]:
        while True:
            stream = self.file.open("a+", encoding="ascii")
            if not _try_lock(stream):
                holder = _read_holder(stream)
                stream.close()
                raise ConfigError(
                    f"{self.file.parent} is in use by process {holder}; wait for it, or choose another folder"
                )
            try:  # the previous holder may have removed the file between our opening and locking it
                if os.path.samestat(os.fstat(stream.fileno()), self.file.stat()):
                    return stream
            except FileNotFoundError:
                pass
            stream.close()


def _read_holder(stream: IO[str]) -> str:
    """Return the id of the process that holds the lock, which it writes right after taking it."""
    for _ in range(100):
        stream.seek(0)
        if holder := stream.read().strip():
            return holder
        time.sleep(0.01)
    return "unknown"


def _try_lock(stream: IO[str]) -> bool:
    """Try to lock an open file without waiting; return False if another process has it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return _try_lock_on_windows(stream)
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _try_lock_on_windows(stream: IO[str]) -> bool:
    import msvcrt

    stream.seek(1 << 20)  # past the text, which others must be able to read
    try:
        msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    except OSError:
        return False
    return True
