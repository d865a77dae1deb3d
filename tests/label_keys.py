"""Type random keys into the rater's console on a pseudo-terminal; prints what became of it.

A program of its own: it forks, and a process that forks should have no threads.
Usage: label_keys.py FOLDER STREAMS SEED
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import re
import select
import signal
import sys
import time
from pathlib import Path

from text_gym.cli.labels import run_label
from text_gym.cli.options.labels import read_label
from text_gym.reward_models import LabelStore
from text_gym.reward_models.labels.questions import Question

KEYS = [b"%d" % n for n in range(10)] * 3 + [
    *(b"u", b"s", b"?", b"m", b"h", b"\x7f", b"\x08", b"\r", b"\n", b" ", b"x", b"\x00", b"\xff", b"\xc3"),
    *(b"\x1b", b"\x1b[A", b"\x1b[D", b"\x1bOC", b"\x1b[200~1 2 3\r\x1b[201~", b"\x1b[200~", b"\x1b[201~"),
    *(
        b"\x1b]0;t\x07",
        b"\x1a",
        b"\x1c",
        b"\x13",
        b"\x11",
        b"\xe2\x80\xae",
        "é".encode(),
        b"\x1b[999999999999m",
    ),
]
OURS = re.compile(rb"\x1b\[(?:(?:0|1|2|33|32|1;31|92)m|\?2004[hl])")  # what the console itself writes
LEAVING = [b"q", b"\x03", b"\x04"]


def read(fd: int, seconds: float) -> bytes:
    found = b""
    while select.select([fd], [], [], seconds)[0]:
        try:
            more = os.read(fd, 65_536)
        except OSError:
            break
        if not more:
            break
        found += more
    return found


def stream(path: Path, rng: random.Random) -> tuple[bytes, int]:
    """One sitting; what was on the screen, and the exit status."""
    with LabelStore(path) as store:
        kinds = [
            Question.rating("Sell a mug.\n", "A mug \x1b[35;45m[/x]\u202e" * rng.randrange(1, 900)),
            Question.comparison(f"p {rng.random()}", "left", "right"),
            Question.best_of_n(f"p {rng.random()}", "abc"),
        ]
        kinds += [Question.rating("Sell a hat.\n", f"text {rng.random()}") for _ in range(3)]
        store.put(kinds)
    pid, fd = pty.fork()
    if not pid:
        try:
            os._exit(run_label(*read_label([f"--store={path}", "--rater", "ada"])))
        except KeyboardInterrupt:
            os._exit(130)
        except BaseException:  # a traceback must be seen, whatever it is
            import traceback

            traceback.print_exc()
            os._exit(99)
    os.set_blocking(fd, False)  # keys that nobody reads any more must not hold us up
    screen = b""
    deadline = time.monotonic() + 20
    while b"> " not in screen and time.monotonic() < deadline:
        screen += read(fd, 0.01)
    for _ in range(rng.randrange(1, 25)):
        keys = b"".join(rng.choice(KEYS) for _ in range(rng.choice([1, 1, 1, 2, 4])))
        with contextlib.suppress(OSError):
            os.write(fd, keys * (400 if rng.random() < 0.02 else 1))
        screen += read(fd, rng.choice([0.0, 0.005]))
    status = None
    while status is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            os.write(fd, b"\x1b[201~" + rng.choice(LEAVING))
        screen += read(fd, 0.02)
        done, code = os.waitpid(pid, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(code)
    if status is None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    screen += read(fd, 0.0)
    os.close(fd)
    return screen, -1 if status is None else status


def main(folder: Path, streams: int, seed: int) -> dict[str, int]:
    rng = random.Random(seed)
    found = {"streams": streams, "tracebacks": 0, "status": 0, "told": 0, "rows": 0, "controls": 0}
    for n in range(streams):
        path = folder / f"{n // 50}.db"
        with LabelStore(path) as store:
            before = store.head[0]
        screen, status = stream(path, rng)
        with LabelStore(path) as store:
            rows = store.head[0] - before
            store.verify()
        screen = OURS.sub(b"", screen)
        told = screen.count(b"saved\r\n") + screen.count(b"taken back; here it is again")
        found["told"] += told
        found["rows"] += rows
        found["tracebacks"] += b"Traceback" in screen
        bad = status not in (0, 130)  # 130: another Ctrl-C came while it was leaving
        found["status"] += bad
        found["controls"] += bool(re.search(rb"[^\r\n -~\x80-\xff]", screen)) or "\u202e".encode() in screen
        if told != rows or bad:
            sys.stderr.write(f"stream {n}: status {status}, {told} told, {rows} rows\n{screen[-300:]!r}\n")
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
