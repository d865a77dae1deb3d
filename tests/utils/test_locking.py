from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from tests.without_posix import WindowsLocks
from text_gym.errors import ConfigError
from text_gym.utils import locking
from text_gym.utils.locking import LOCK, FolderLock

HOLD = """
import sys
from pathlib import Path
from text_gym.utils.locking import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_lock_is_refused_and_the_holder_named(tmp_path: Path) -> None:
    for _ in range(50):
        lock = FolderLock(tmp_path)
        with pytest.raises(ConfigError, match=f"{tmp_path.name} is in use by process {os.getpid()};"):
            FolderLock(tmp_path)
        lock.release()
        lock.release()  # nothing to do
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="kill -9")
def test_a_dead_process_holds_no_lock(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=f"process {process.pid};"):
        FolderLock(tmp_path)
    process.kill()
    process.communicate()
    assert (tmp_path / LOCK).read_text() == f"{process.pid}\n"
    lock = FolderLock(tmp_path)
    assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"
    lock.release()


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed")
@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_its_holder_has_just_removed_locks_nothing(
    replaced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between our opening of the file and our locking it another run ends, and a third one may begin."""
    try_lock, tried = locking._try_lock, []

    def slowly(stream: IO[str]) -> bool:
        tried.append(stream)
        if len(tried) == 1:
            (tmp_path / LOCK).unlink()
            if replaced:
                (tmp_path / LOCK).touch()
        return try_lock(stream)

    monkeypatch.setattr(locking, "_try_lock", slowly)
    lock = FolderLock(tmp_path)
    assert len(tried) == 2
    assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"
    with pytest.raises(ConfigError, match="is in use"):
        FolderLock(tmp_path)
    lock.release()


def test_of_many_processes_one_at_a_time_gets_in(tmp_path: Path) -> None:
    """Each adds 1 to a number, read and written apart; without the lock some of the additions get lost."""
    program = """
import sys, time
from pathlib import Path
from text_gym.errors import ConfigError
from text_gym.utils.locking import FolderLock
folder, number = Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(25):
    while True:
        try:
            lock = FolderLock(folder)
            break
        except ConfigError:
            time.sleep(0.001)
    value = int(number.read_text())
    time.sleep(0.001)
    number.write_text(str(value + 1))
    lock.release()
"""
    folder, number = tmp_path / "run", tmp_path / "number"
    folder.mkdir()
    number.write_text("0")
    command = [sys.executable, "-c", program, str(folder), str(number)]
    processes = [subprocess.Popen(command, cwd=Path(__file__).parents[2]) for _ in range(4)]
    assert [process.wait(timeout=60) for process in processes] == [0] * 4
    assert number.read_text() == "100"


def test_as_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is a byte past the text, so that others can read the holder's number."""
    windows = WindowsLocks()
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", windows)
    lock = FolderLock(tmp_path)
    ((_, _, place),) = windows.held
    assert place > len(f"{os.getpid()}\n")
    with pytest.raises(ConfigError, match=f"{tmp_path.name} is in use by process {os.getpid()};"):
        FolderLock(tmp_path)
    lock.release()
    FolderLock(tmp_path).release()
    monkeypatch.setattr(Path, "unlink", _refused)  # Windows removes no file that is open
    lock = FolderLock(tmp_path)
    lock.release()
    again = FolderLock(tmp_path)
    assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"
    again.release()


def _refused(self: Path, missing_ok: bool = False) -> None:
    raise PermissionError(13, "The process cannot access the file because it is being used")
