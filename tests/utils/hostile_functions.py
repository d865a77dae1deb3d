"""What an untrusted file may try: every function harms, or tries to, and bounds its own harm if it can.

Run by tests/utils/test_sandbox.py in a sandbox, one by one; nothing here is imported by a test.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def act(deed: str, *arguments: Any) -> Any:
    deeds: dict[str, Callable[..., Any]] = globals()
    return deeds[deed](*arguments)


def same(value: Any) -> Any:
    return value


def pid() -> int:
    return os.getpid()


def fork_once() -> str:
    """A harmless count before any bomb: one child, which ends at once."""
    try:
        child = os.fork()
    except OSError as error:
        return f"refused {error.errno}"
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return "forked"


def fork_bomb() -> None:
    for _ in range(30):  # a bomb that went off would be 30 processes that sleep for a second
        if os.fork() == 0:
            time.sleep(1)
            os._exit(0)


def raw_clone() -> int:
    """clone(SIGCHLD) without libc's fork."""
    child = int(ctypes.CDLL(None, use_errno=True).syscall(56, int(signal.SIGCHLD), 0, 0, 0, 0))
    if child == 0:
        os._exit(0)
    if child < 0:
        raise OSError(ctypes.get_errno(), "clone")
    return child


def run_program() -> None:
    subprocess.run(["true"], check=True)


def write_file(path: str) -> None:
    Path(path).write_text("harm")


def remove_file(path: str) -> None:
    Path(path).unlink()


def write_by_link(path: str) -> None:
    link = Path(tempfile.mkdtemp()) / "link"
    link.symlink_to(path)
    link.write_text("harm")


def hard_link(path: str) -> None:
    os.link(path, Path(tempfile.gettempdir()) / "link")


def change_mode(path: str) -> None:
    os.chmod(path, 0o777)


def big_file() -> None:
    with tempfile.TemporaryFile() as file:
        for _ in range(64):
            file.write(bytes(1 << 20))


def many_files() -> None:
    folder = Path(tempfile.gettempdir())
    for i in range(4000):
        (folder / str(i)).write_bytes(bytes(1 << 16))
        time.sleep(0.0005)


def deep_folders() -> None:
    os.chdir(tempfile.gettempdir())
    for _ in range(400):
        os.mkdir("d")
        os.chdir("d")
    time.sleep(60)


def connect(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), timeout=2).close()


def datagram(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"harm", ("127.0.0.1", port))


def much_memory() -> int:
    return len(bytearray(8 << 30))


def hidden_memory() -> int:
    return os.memfd_create("harm")


def endless_loop() -> None:
    while True:
        pass


def stop_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def crash() -> None:
    ctypes.string_at(0)


def leave() -> None:
    os._exit(3)


def become_another() -> None:
    os.execv("/bin/sh", ["sh", "-c", "echo '{\"value\": 1}'"])


class PoisonError(Exception):
    """Writes a file wherever it is unpickled, or read."""

    def __init__(self, path: str) -> None:
        super().__init__("poison")
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def poisoned_error(path: str) -> None:
    raise PoisonError(path)


class UnreadableError(Exception):
    def __str__(self) -> str:
        raise ValueError("nobody reads me")


def unreadable_error() -> None:
    raise UnreadableError


class EndlessError(Exception):
    def __str__(self) -> str:
        while True:
            pass


def endless_message() -> None:
    raise EndlessError


def much_output() -> None:
    block = "harm " * 200_000
    for _ in range(10_000):  # 10 GB
        print(block)


def escape_codes() -> None:
    print("\x1b]0;harm\x07")
    sys.stdout.flush()
    time.sleep(0.3)  # until it was shown


def huge_answer() -> str:
    return "x" * (4 << 20)


def forged(what: str) -> None:
    """Writes to whatever descriptor the answers go to."""
    body = {"garbage": b"harm", "deep": b"[" * 100_000, "list": b"[1]", "both": b'{"value": 1, "error": {}}'}
    data = body.get(what, b"")
    head = struct.pack(">II", len(data), 0) if what != "unfinished" else struct.pack(">II", 100, 0) + b"x"
    for descriptor in range(3, 20):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{descriptor}").startswith("pipe") and (
                fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_WRONLY
            ):
                os.write(descriptor, head + data)
    time.sleep(60)


def no_json() -> object:
    return {1, 2}


def signal_parent() -> None:
    os.kill(os.getppid(), signal.SIGTERM)


def signal_group() -> None:
    os.kill(0 - os.getpgid(os.getppid()), signal.SIGTERM)


def signal_by_file() -> None:
    """SIGIO to the parent by way of a pipe's owner."""
    ours, _ = os.pipe()
    fcntl.fcntl(ours, fcntl.F_SETOWN, os.getppid())


def read_parents_memory() -> str:
    with open(f"/proc/{os.getppid()}/environ", "rb") as file:
        return repr(file.read())


def read_terminal() -> str:
    """What people type: any terminal, or anything else among the devices."""
    with open("/dev/ptmx", "rb") as file:
        return repr(file)


def environment() -> str:
    return json.dumps(dict(os.environ))


def survive_parent() -> int:
    return int(ctypes.CDLL(None).prctl(1, 0))  # PR_SET_PDEATHSIG, none


def raise_limits() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def limit_parent() -> None:
    resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (0, 0))


def new_namespace() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(0x10000000):
        raise OSError(ctypes.get_errno(), "unshare")


def many_threads() -> int:
    threads = [threading.Thread(target=time.sleep, args=(0.5,), daemon=True) for _ in range(2000)]
    for thread in threads:
        thread.start()
    return len(threads)


def leave_a_thread() -> str:
    threading.Thread(target=endless_loop, daemon=True).start()
    return "left"


def quit_program() -> None:
    sys.exit("harm")
