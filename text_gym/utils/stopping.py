"""Handles the signals that ask a run to end: SIGINT (Ctrl-C), SIGTERM and SIGHUP.

They never interrupt an iteration at once: what was learnt is saved first. A second signal does not wait.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_ASKING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stop:
    """Remembers whether a run was asked to end; made by `stop_signals`.

    Attributes:
        signal: The first signal that came while it could not be obeyed at once; None if there was none.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._patient = False

    @contextmanager
    def patience(self) -> Iterator[None]:
        """Within the block, only note the first signal, so that the work can end cleanly and save.

        Raises:
            SystemExit: After the block, with status 128 + signal, if it was SIGTERM or SIGHUP. After Ctrl-C
                a person is watching, and the run goes on to show what was learnt.
        """
        self._patient = True
        try:
            yield
        finally:
            self._patient = False
        if self.signal not in (None, signal.SIGINT):
            _end(self.signal)

    def handle(self, number: int, _: FrameType | None = None) -> None:
        """Note a signal, or act on it."""
        if not self._patient or self.signal is not None:
            _end(number)
        self.signal = number


def _end(number: int | None) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + int(number or 0))


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """Catch the signals within the block; only the main thread can catch them.

    A signal that the process was told to ignore (`nohup`) stays ignored.
    """
    stop = Stop()
    before = {}
    try:
        for number in _ASKING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, stop.handle)
    except ValueError:  # outside the main thread, signals are the caller's business
        pass
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
