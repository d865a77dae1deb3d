"""A terminal for tests: runs `text-gym label` on a pty and reads what a person would see."""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAM = """
import sys
from text_gym.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


class RaterTerminal:
    """`text-gym label` on a pseudo-terminal of 80 columns; a context that kills what is left.

    Args:
        arguments: What stands after `text-gym`.
        program: Another Python program to run, instead.
    """

    def __init__(self, *arguments: str, program: str = PROGRAM, cwd: Path | None = None) -> None:
        self.seen = b""
        pty = pytest.importorskip("pty")
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.chdir(cwd or ROOT)
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", "NO_COLOR": "1"}
            os.execve(sys.executable, [sys.executable, "-c", program, *arguments], environment)
        self.status: int | None = None

    def __enter__(self) -> RaterTerminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)

    def read(self, seconds: float = 0.0) -> bytes:
        """What has come within so many seconds, without waiting for more."""
        found = b""
        while select.select([self.fd], [], [], seconds)[0]:
            try:
                more = os.read(self.fd, 65_536)
            except OSError:  # closed on the other side
                break
            if not more:
                break
            found += more
        self.seen += found
        return found

    def wait_for(self, text: str, seconds: float = 30.0) -> str:
        """Everything up to a text, from where the last call ended."""
        deadline = time.monotonic() + seconds
        while text.encode() not in self.seen:
            assert time.monotonic() < deadline, f"no {text!r} in {self.seen[-3000:].decode(errors='replace')}"
            if not self.read(0.05) and self.ended():
                self.read(0.0)
                assert text.encode() in self.seen, self.seen[-3000:].decode(errors="replace")
        shown, _, self.seen = self.seen.partition(text.encode())
        return (shown + text.encode()).decode(errors="replace")

    def type(self, keys: str | bytes) -> None:
        """Press keys."""
        os.write(self.fd, keys.encode() if isinstance(keys, str) else keys)

    def ended(self) -> bool:
        """Whether the program has ended."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is not None

    def wait(self, seconds: float = 30.0) -> int:
        """Exit status of the program (negative: the signal that ended it)."""
        deadline = time.monotonic() + seconds
        while not self.ended():
            assert time.monotonic() < deadline, self.seen[-3000:].decode(errors="replace")
            self.read(0.02)
        self.read(0.0)
        assert self.status is not None
        return self.status


def screen(text: str) -> str:
    """Without the sequences by which a terminal is told to mark pastes, and with plain line ends."""
    return re.sub(r"\x1b\[\?2004[hl]", "", text).replace("\r\n", "\n")
