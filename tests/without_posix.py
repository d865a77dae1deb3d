"""A pytest plugin that hides what Windows lacks, to see on Linux which modules and tests do without.

    python -m pytest -p tests.without_posix -n 0 tests/utils/test_locking.py

It takes modules, signals and functions of `os` away from our own code; other libraries, `os.name` and paths
stay what they are. `msvcrt` locks as Windows does: bytes of a file, for an open file, until it is closed.
"""

from __future__ import annotations

import builtins
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODULES = ("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty")
SIGNALS = ("SIGALRM", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGSTOP", "SIGTSTP", "SIGUSR1", "SIGUSR2")
FUNCTIONS = ("fork", "killpg", "mkfifo", "setsid")


class WindowsLocks(ModuleType):
    """`msvcrt.locking` over a table: a byte of a file has one holder, an open descriptor."""

    LK_NBLCK, LK_UNLCK = 2, 0

    def __init__(self) -> None:
        super().__init__("msvcrt")
        self.held: dict[tuple[int, int, int], int] = {}

    def locking(self, descriptor: int, mode: int, count: int) -> None:
        """Lock or unlock bytes from the descriptor's position on; OSError if another has one of them."""
        file = os.fstat(descriptor)
        at = os.lseek(descriptor, 0, os.SEEK_CUR)
        places = [(file.st_dev, file.st_ino, at + i) for i in range(count)]
        if mode == self.LK_UNLCK:
            for place in places:
                del self.held[place]
            return
        for place in places:
            holder = self.held.get(place)
            # A descriptor's number is given out again once it is closed: then it is not the holder.
            if holder is not None and holder != descriptor and _is_open(holder, place):
                raise PermissionError(13, "Permission denied")
        self.held |= dict.fromkeys(places, descriptor)


def _is_open(descriptor: int, place: tuple[int, int, int]) -> bool:
    try:
        file = os.fstat(descriptor)
    except OSError:
        return False
    return (file.st_dev, file.st_ino) == place[:2]


def hide() -> None:
    """Hide what Windows lacks from our own modules that are imported from now on."""
    importing = builtins.__import__
    instead = {
        "msvcrt": WindowsLocks(),
        "os": _without(os, FUNCTIONS),
        "signal": _without(signal, SIGNALS),
    }

    def import_unless_hidden(
        name: str, names: Mapping[str, Any] | None = None, *args: Any, **how: Any
    ) -> Any:
        if Path((names or {}).get("__file__") or "/").resolve().is_relative_to(ROOT):
            if name in MODULES:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            if name in instead:
                return instead[name]
        return importing(name, names, *args, **how)

    builtins.__import__ = import_unless_hidden  # type: ignore[assignment]


def _without(module: ModuleType, names: Sequence[str]) -> ModuleType:
    """Return a copy of a module that lacks some names; other libraries keep the module itself."""
    copy = ModuleType(module.__name__)
    vars(copy).update({name: value for name, value in vars(module).items() if name not in names})
    return copy


def pytest_configure() -> None:
    """Hide it before any test is collected."""
    hide()
