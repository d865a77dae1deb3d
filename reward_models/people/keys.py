"""Reads what a rater types, key by key from a terminal or line by line from a pipe.

Pasted text is never taken for answers. Nothing is shown here, and no key has a meaning yet.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import time
from collections import deque
from types import TracebackType
from typing import Any, BinaryIO, Protocol

from text_gym.errors import ConfigError

try:
    import termios
except ImportError:  # Windows reads lines only
    termios = None  # type: ignore[assignment]

PASTE = "<paste>"  # stands for pasted text, which is never a key
_MANY = 16  # more keys than this at once count as pasted text
_LONGEST = 65_536  # bytes of a line that are read; the rest is discarded
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]?|O.?|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[^\x1b])?", re.DOTALL)
_BEGUN = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|O|\][^\x07\x1b]*)?$")  # an escape sequence cut short
_ARROWS = {"\x1b[D": "left", "\x1b[C": "right", "\x1bOD": "left", "\x1bOC": "right"}
_PASTE_ON, _PASTE_OFF = "\x1b[?2004h", "\x1b[?2004l"


class Keys(Protocol):
    """A source of keystrokes; it is a context manager, so that the terminal is restored."""

    def __enter__(self) -> Keys: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def read(self) -> list[str]:
        """Return the next key, or the words of the next line; raise `EOFError` at the end of the input."""

    def discard(self) -> None:
        """Discard what was typed so far, because it cannot answer a question not yet shown."""


class TerminalKeys:
    r"""Single keystrokes from a terminal, without Enter and without echo.

    Ctrl-C and Ctrl-D come as `"\x03"` and `"\x04"`: in a training, a signal would only ask for a stop after
    the iteration, and the question would stay on the screen.

    Args:
        source: File descriptor of the terminal.
        sink: File descriptor that its settings are written to, or None.
    """

    def __init__(self, source: int, sink: int | None = None) -> None:
        self.source, self.sink = source, sink
        self._waiting: deque[str] = deque()
        self._pasting = False
        self._before: list[Any] | None = None

    def __enter__(self) -> TerminalKeys:
        self._before = termios.tcgetattr(self.source)
        mode = termios.tcgetattr(self.source)
        mode[0] &= ~termios.IXON
        mode[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN)
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self.source, termios.TCSADRAIN, mode)
        self._write(_PASTE_ON)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write(_PASTE_OFF)
        with contextlib.suppress(termios.error):  # the terminal may be gone
            termios.tcsetattr(self.source, termios.TCSAFLUSH, self._before or [])

    def read(self) -> list[str]:
        """Return one key: `"left"` and `"right"` for arrows, `PASTE` for pasted text."""
        while not self._waiting:
            text = self._chunk()
            while _BEGUN.search(text) and self._ready(0.02):
                text += self._chunk()
            if text in ("\x03", "\x04"):  # they work even if the end of a paste never came
                self._pasting = False
            self._waiting.extend(self._split(text))
        return [self._waiting.popleft()]

    def discard(self) -> None:
        """Discard type-ahead."""
        self._waiting.clear()
        with contextlib.suppress(termios.error):
            termios.tcflush(self.source, termios.TCIFLUSH)

    def _split(self, text: str) -> list[str]:
        """Split input that arrived at once into keys."""
        keys: list[str] = []
        at = 0
        while at < len(text):
            found = _ESCAPE.match(text, at)
            key = found.group() if found else text[at]
            at += len(key)
            if key in ("\x1b[200~", "\x1b[201~"):
                self._pasting = key == "\x1b[200~"
                keys += [] if self._pasting else [PASTE]
            elif not self._pasting and (not found or key in _ARROWS):
                keys.append(_ARROWS.get(key, key))
        if len(keys) <= _MANY:
            return keys
        deadline = time.monotonic() + 2.0
        while self._ready(0.05) and time.monotonic() < deadline:  # a terminal that does not mark pastes
            self._chunk()
        return [PASTE]

    def _chunk(self) -> str:
        try:
            content = os.read(self.source, 65_536)
        except OSError as error:  # the terminal was closed
            raise EOFError from error
        if not content:
            raise EOFError
        return content.decode("utf-8", "replace")

    def _ready(self, seconds: float) -> bool:
        return bool(select.select([self.source], [], [], seconds)[0])

    def _write(self, sequence: str) -> None:
        if self.sink is not None:
            with contextlib.suppress(OSError):
                os.write(self.sink, sequence.encode())


class LineKeys:
    """One line per answer, for pipes, scripts and simple terminals.

    Args:
        stream: Bytes to read lines from.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream

    def __enter__(self) -> LineKeys:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def read(self) -> list[str]:
        """Return the words of the next line, or `PASTE` if it is too long to be an answer."""
        line = self.stream.readline(_LONGEST)
        if not line:
            raise EOFError
        if not line.endswith(b"\n") and len(line) == _LONGEST:
            while rest := self.stream.readline(_LONGEST):
                if rest.endswith(b"\n"):
                    break
            return [PASTE]
        words = line.decode("utf-8", "replace").split()
        return words if len(words) <= _MANY else [PASTE]

    def discard(self) -> None:
        """Keep everything, because a script writes ahead."""


def standard_keys() -> Keys:
    """Read standard input by keystroke if it is a terminal, else by line.

    Raises:
        ConfigError: There is none that bytes can be read from.
    """
    try:
        source = sys.stdin.fileno()
        if termios is not None and os.isatty(source):
            termios.tcgetattr(source)
            return TerminalKeys(source, sys.stdout.fileno() if sys.stdout.isatty() else None)
    except (OSError, ValueError, AttributeError):  # no descriptor behind it: a notebook, a test
        pass
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None:
        raise ConfigError(
            f"answers cannot be read from standard input, which is {type(sys.stdin).__name__} here; start "
            "it in a terminal, or ask on a page (--web)"
        )
    return LineKeys(stream)
