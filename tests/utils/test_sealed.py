from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from text_gym.errors import CheckpointError, DamagedError
from text_gym.utils import sealed
from text_gym.utils.sealed import (
    MANIFEST,
    check_sealed,
    read_about,
    remove_unfinished,
    write_atomic,
    write_sealed,
)


def filler(content: bytes) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        (folder / "a.bin").write_bytes(content)
        (folder / "below").mkdir()
        (folder / "below" / "b.txt").write_bytes(content[::-1])

    return fill


def contents(folder: Path) -> tuple[bytes, bytes]:
    check_sealed(folder)
    return (folder / "a.bin").read_bytes(), (folder / "below" / "b.txt").read_bytes()


def test_what_was_sealed_is_found_whole(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "x"
    write_sealed(folder, filler(b"abc"), about={"score": 0.1})
    assert check_sealed(folder) == read_about(folder) == {"score": 0.1}
    assert contents(folder) == (b"abc", b"cba")
    sealed = json.loads((folder / MANIFEST).read_text())["manifest"]["files"]
    assert sealed["a.bin"] == {"bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
    assert set(sealed) == {"a.bin", "below/b.txt"}
    write_sealed(folder, filler(b"new"))
    assert contents(folder) == (b"new", b"wen")
    assert [f.name for f in folder.parent.iterdir()] == ["x"]


def test_a_manifest_cut_anywhere_is_detected(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    write_sealed(folder, filler(b"abc"), about=[1])
    whole = (folder / MANIFEST).read_bytes()
    for length in range(len(whole)):
        (folder / MANIFEST).write_bytes(whole[:length])
        with pytest.raises(DamagedError, match="x is damaged: its manifest"):
            check_sealed(folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(DamagedError):
        check_sealed(folder)


def test_any_bit_flipped_in_the_manifest_is_detected(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    write_sealed(folder, filler(b"abc"), about=[1])
    whole = (folder / MANIFEST).read_bytes()
    for bit in range(0, 8 * len(whole), 3):  # some bits of every byte
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        (folder / MANIFEST).write_bytes(changed)
        with pytest.raises(DamagedError):
            check_sealed(folder)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_change_of_a_file_is_detected(data: st.DataObject, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("sealed") / "x"
    content = bytes(range(256)) * 4
    write_sealed(folder, filler(content))
    file = folder / data.draw(st.sampled_from(["a.bin", "below/b.txt"]))
    found = bytearray(file.read_bytes())
    how = data.draw(st.sampled_from(["flip", "cut", "longer", "missing"]))
    if how == "flip":
        bit = data.draw(st.integers(0, 8 * len(found) - 1))
        found[bit // 8] ^= 1 << bit % 8
    elif how == "cut":
        del found[data.draw(st.integers(0, len(found) - 1)) :]
    elif how == "longer":
        found += data.draw(st.binary(min_size=1, max_size=4))
    file.write_bytes(found)
    if how == "missing":
        file.unlink()
    with pytest.raises(DamagedError, match=file.name.replace(".", "[.]")):
        check_sealed(folder)


def test_a_format_of_the_future_is_not_taken_for_damage(tmp_path: Path) -> None:
    manifest = {"format": 2, "other": "fields"}
    own = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    text = json.dumps({"manifest": manifest, "sha256": own}, indent=1, sort_keys=True) + "\n"
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(
        CheckpointError, match="has format 2, and this version of text-gym reads format 1"
    ) as e:
        check_sealed(tmp_path)
    assert not isinstance(e.value, DamagedError)


class Killed(BaseException):
    """Stands for a process that ends at once."""


CALLS = [(os, "fsync"), (Path, "rename"), (Path, "mkdir"), (Path, "open")]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left"),
        pytest.param(OSError(errno.EIO, "I/O"), marks=pytest.mark.nightly),
        Killed(),
    ],
)
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[1])
def test_at_whatever_call_it_fails_the_old_folder_stays_or_the_new_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, call: tuple[Any, str]
) -> None:
    owner, name = call
    original = getattr(owner, name)
    for k in range(12):
        folder = tmp_path / str(k) / "x"
        write_sealed(folder, filler(b"old"))
        left = k

        def failing(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == -1:
                raise error
            return original(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, failing)
            try:
                write_sealed(folder, filler(b"new"))
            except CheckpointError as found:
                assert found.__cause__ is error  # noqa: PT017
                assert not isinstance(error, Killed)
            except Killed:
                pass
            else:
                assert left >= 0, "the error was swallowed"
        found_now = contents(folder)
        assert found_now in ((b"old", b"dlo"), (b"new", b"wen"))
        if left >= 0:
            assert found_now == (b"new", b"wen")
        write_sealed(folder, filler(b"newer"))  # what lies about does no harm
        assert contents(folder) == (b"newer", b"rewen")
        assert [f.name for f in folder.parent.iterdir()] == ["x"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
def test_a_real_limit_on_file_sizes(tmp_path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
from text_gym.errors import CheckpointError
from text_gym.utils.sealed import check_sealed, write_sealed
folder = Path(sys.argv[1])
write_sealed(folder, lambda f: (f / "a").write_bytes(bytes(1000)), "old")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_sealed(folder, lambda f: (f / "a").write_bytes(bytes(1_000_000)), "new")
except CheckpointError as error:
    print(error)
print(check_sealed(folder))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "x")],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    first, second = done.stdout.splitlines()
    assert "cannot write" in first
    assert "File too large" in first
    assert second == "old"


def test_a_mistake_in_what_fills_it_is_no_disk_error(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_sealed(tmp_path / "x", fill)
    assert list(tmp_path.iterdir()) == []


def test_a_small_file_is_old_or_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.json"
    write_atomic(file, "old\n")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_atomic(file, "new\n")
    assert file.read_text() == "old\n"
    write_atomic(file, "new\n")
    assert file.read_bytes() == b"new\n"


def test_as_on_windows_folders_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_folders(path: Path, *rest: int) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sealed, "os", SimpleNamespace(**{**vars(os), "name": "nt", "open": no_folders}))
    write_sealed(tmp_path / "sealed", filler(b"x"))
    check_sealed(tmp_path / "sealed")
    monkeypatch.setattr(sealed, "os", SimpleNamespace(**{**vars(os), "open": no_folders}))
    with pytest.raises(PermissionError):  # what would happen if it did not look where it is
        sealed.sync_folder(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
def test_what_a_killed_safetensors_leaves_is_removed_and_nothing_else(tmp_path: Path) -> None:
    """The names that it gives are seen, not assumed: a file is cut short by a limit on sizes."""
    program = (
        "import resource, signal, sys, numpy as np\n"
        "from safetensors.numpy import save_file\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "save_file({'x': np.zeros(2**16)}, sys.argv[1] + '/model.safetensors')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, check=False)
    assert done.returncode != 0
    mine = [".tmp", ".tmpfiles", ".tmp-mine", "x.tmpABCDEF", ".tmpABCDE1"]
    for name in mine[:4]:
        (tmp_path / name).write_text("mine")
    (tmp_path / mine[4]).mkdir()
    if all(file.name in mine for file in tmp_path.iterdir()):
        pytest.skip("this version of safetensors leaves nothing")
    remove_unfinished(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(mine)
    remove_unfinished(tmp_path / "nowhere")
