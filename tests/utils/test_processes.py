"""What a process leaves, as its watch measures it; the limits themselves are tried in `test_sandbox`."""

from __future__ import annotations

import math
import signal
from pathlib import Path

import pytest

from text_gym.errors import ConfigError
from text_gym.utils.processes import _ending, _remove, _size, _write_files


def test_a_folder_is_as_large_as_its_files_and_their_number(tmp_path: Path) -> None:
    """Empty files cost their inode: a million of them are no trifle."""
    assert _size(str(tmp_path), 10**9) == 0
    (tmp_path / "large").write_bytes(b"x" * 100_000)
    assert _size(str(tmp_path), 10**9) == 100_000
    (tmp_path / "inside").mkdir()
    for i in range(10):
        (tmp_path / "inside" / str(i)).touch()
    assert _size(str(tmp_path), 10**9) == 100_000 + 11 * 4096


def test_links_count_themselves_and_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "up").symlink_to("/")
    (tmp_path / "self").symlink_to(tmp_path)
    assert _size(str(tmp_path), 10**9) == 2 * 4096


def test_folders_within_folders_without_end_are_too_large(tmp_path: Path) -> None:
    place = tmp_path
    for _ in range(102):
        place /= "d"
        place.mkdir()
    assert _size(str(tmp_path), 10**9) == math.inf
    _remove(str(tmp_path / "d"))
    _remove(str(tmp_path / "d"))  # gone already
    assert list(tmp_path.iterdir()) == []


def test_it_stops_counting_where_there_is_too_much(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "large").write_bytes(b"x" * 50_000)
    assert 30_000 < _size(str(tmp_path), 30_000) < 150_000


@pytest.mark.parametrize("name", ["../outside", "a/../../outside", "/etc/passwd", ".", "a/.."])
def test_files_of_a_command_stay_in_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "own").mkdir()
    with pytest.raises(ConfigError, match="does not lie in the command's folder"):
        _write_files(tmp_path / "own", {name: "x"})
    assert [file.name for file in tmp_path.rglob("*")] == ["own"]


def test_files_of_a_command_may_lie_in_folders(tmp_path: Path) -> None:
    _write_files(tmp_path, {"a/b.txt": "é", "c": ""})
    assert (tmp_path / "a" / "b.txt").read_bytes() == "é".encode()
    assert (tmp_path / "c").read_bytes() == b""


def test_an_ending_is_named() -> None:
    assert _ending(-signal.SIGKILL) == "signal SIGKILL"
    assert _ending(3) == "exit code 3"
    assert _ending(-200) == "exit code -200"  # no signal has this number
