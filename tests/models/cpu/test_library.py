from __future__ import annotations

import ctypes
import logging
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.small_models import small_policy
from text_gym.agents.sampling.decoder import Decoder
from text_gym.models.cpu import kernels, library

GCC = shutil.which("gcc")
needs_gcc = pytest.mark.skipif(GCC is None, reason="no gcc here")
SMALL = "int can_share(void) { return 0; }\n"  # compiles sooner than the kernels do


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache folder of its own, a small source, and nothing loaded so far."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv(library.SWITCH, raising=False)
    source = tmp_path / "kernels.c"
    source.write_text(SMALL)
    monkeypatch.setattr(library, "SOURCE", source)
    library.load.cache_clear()
    kernels._kernels.cache_clear()
    yield
    library.load.cache_clear()
    kernels._kernels.cache_clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "text-gym"


def load_again() -> ctypes.CDLL | None:
    """Load as a new process would."""
    library.load.cache_clear()
    return library.load()


def counting_compiler(tmp_path: Path, *, before: str = "") -> tuple[Path, Path]:
    """A compiler that is gcc and writes a line for each call; and the file that it writes to."""
    script, calls = tmp_path / "counting-cc", tmp_path / "calls"
    script.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n{before}\nexec {GCC} "$@"\n')
    script.chmod(0o755)
    return script, calls


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


@needs_gcc
def test_a_second_start_compiles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    script, calls = counting_compiler(tmp_path)
    monkeypatch.setenv("CC", str(script))
    assert load_again() is not None
    assert len(lines(calls)) == 1
    assert load_again() is not None
    assert len(lines(calls)) == 1
    (kept,) = folder.iterdir()  # nothing else is left behind
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


@needs_gcc
def test_a_new_process_finds_the_real_kernels_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    script, calls = counting_compiler(tmp_path)
    monkeypatch.setenv("CC", str(script))
    program = (
        "import torch; from text_gym.models.cpu.kernels import kernels_for; "
        "k = kernels_for(torch.zeros(1)); print(float(k.gelu(torch.ones(1))))"
    )
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert float(done.stdout) == pytest.approx(0.841192, abs=1e-5)
    assert len(lines(calls)) == 1


@needs_gcc
def test_racing_processes_all_get_a_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """All of them compile at once: each waits in the compiler until all are there."""
    crowd = 4
    script, calls = counting_compiler(
        tmp_path,
        before=f"n=0; while [ $(wc -l < {tmp_path / 'calls'}) -lt {crowd} ] && [ $n -lt 600 ]; "
        "do sleep 0.05; n=$((n+1)); done",
    )
    monkeypatch.setenv("CC", str(script))
    program = (
        f"from pathlib import Path; from text_gym.models.cpu import library; "
        f"library.SOURCE = Path({str(library.SOURCE)!r}); print(library.load().can_share())"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        for _ in range(crowd)
    ]
    assert [process.communicate()[0] for process in processes] == ["0\n"] * crowd
    assert len(lines(calls)) == crowd
    assert len(list(folder.iterdir())) == 1
    assert load_again() is not None
    assert len(lines(calls)) == crowd


@needs_gcc
def test_the_compiler_may_have_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `CC="ccache gcc"` and `CC="gcc -m64"`."""
    script, calls = counting_compiler(tmp_path)
    wrapper = tmp_path / "a wrapper"
    wrapper.write_text('#!/bin/sh\nexec "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CC", f"'{wrapper}' {script} -DNOTHING")
    assert load_again() is not None
    assert "-DNOTHING" in lines(calls)[0].split()


def test_the_key_tells_apart_what_would_be_compiled_differently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, _ = counting_compiler(tmp_path)
    command = [str(script)]
    keys = {library.key(command)}
    assert keys == {library.key(command)}
    keys.add(library.key([*command, "-m64"]))
    script.write_text("#!/bin/sh\n# another version\n")
    keys.add(library.key(command))
    monkeypatch.setattr(library, "FLAGS", (*library.FLAGS, "-g"))
    keys.add(library.key(command))
    library.SOURCE.write_text(SMALL + "int more;\n")
    keys.add(library.key(command))
    monkeypatch.setattr(library, "_processor", lambda: "another processor")
    keys.add(library.key(command))
    assert len(keys) == 6


@needs_gcc
@pytest.mark.parametrize("fault", ["damaged", "writable by others", "a link"])
def test_a_kept_library_that_cannot_be_trusted_is_compiled_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path, fault: str
) -> None:
    script, calls = counting_compiler(tmp_path)
    monkeypatch.setenv("CC", str(script))
    assert load_again() is not None
    (kept,) = folder.iterdir()
    if fault == "damaged":
        kept.unlink()  # the process has the old file mapped
        kept.write_bytes(b"no library")
        kept.chmod(0o600)
    elif fault == "writable by others":
        kept.chmod(0o622)
    else:
        kept.rename(tmp_path / "elsewhere.so")
        kept.symlink_to(tmp_path / "elsewhere.so")
    assert load_again() is not None
    assert len(lines(calls)) == 2
    assert stat.S_IMODE(kept.lstat().st_mode) == 0o600
    assert load_again() is not None
    assert len(lines(calls)) == 2


@needs_gcc
@pytest.mark.parametrize("fault", ["foreign", "a link", "read-only home"])
def test_a_folder_that_cannot_be_ours_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path, fault: str
) -> None:
    """The kernels are then compiled in a private temporary folder, which is removed again."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    if fault == "foreign":
        folder.mkdir(parents=True)
        somebody_else = os.getuid() + 1
        monkeypatch.setattr(os, "getuid", lambda: somebody_else)
    elif fault == "a link":
        folder.parent.mkdir()
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    else:  # as root may write anywhere, a file stands where the folder would be
        folder.parent.write_text("")
    modes = []
    run = subprocess.run

    def watch(command: list[str], **options: object) -> object:
        work = Path(command[command.index("-o") + 1]).parent
        modes.append((work.parent, stat.S_IMODE(work.stat().st_mode)))
        return run(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", watch)
    assert load_again() is not None
    assert modes == [(temporary, 0o700)]
    assert not list(temporary.iterdir())
    assert not folder.exists() or not list(folder.iterdir())


@needs_gcc
@pytest.mark.parametrize("fault", ["compile", "load"])
def test_what_fails_with_openmp_is_tried_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """A library of `-fopenmp` may compile and not load, where the library of OpenMP is missing."""
    refuse = 'case " $* " in *" -fopenmp "*) exit 1;; esac'
    script, calls = counting_compiler(tmp_path, before=refuse if fault == "compile" else "")
    if fault == "load":
        library.SOURCE.write_text(
            "#ifdef _OPENMP\nint is_nowhere(void);\nint (*used)(void) = is_nowhere;\n#endif\n" + SMALL
        )
    monkeypatch.setenv("CC", str(script))
    assert load_again() is not None
    assert ["-fopenmp" in call.split() for call in lines(calls)] == [True, False]
    assert load_again() is not None
    assert len(lines(calls)) == 2


@pytest.mark.parametrize(
    ("lack", "said"),
    [
        ("compiler", "there is no C compiler"),
        ("quote", "closing quotation"),
        ("success", "error: expected"),
        ("wish", "TEXT_GYM_KERNELS=0"),
    ],
)
def test_without_kernels_all_goes_on_and_one_line_says_why(
    lack: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="text_gym")
    if lack == "compiler":
        monkeypatch.setenv("CC", str(tmp_path / "none"))
    elif lack == "quote":
        monkeypatch.setenv("CC", "'gcc")
    elif lack == "wish":
        monkeypatch.setenv(library.SWITCH, "0")
    else:
        library.SOURCE.write_text("int broken(\n")
        if shutil.which("cc") is None:
            pytest.skip("no compiler here")
    for _ in range(3):
        assert kernels.kernels_for(torch.zeros(1)) is None
    with torch.no_grad():
        decoder = Decoder(small_policy(), np.array([[1, 2]]), np.array([2]), room=2)
        assert decoder.logits(decoder.states).shape == (1, 11)
        assert decoder.step(torch.tensor([3])).shape == (1, decoder.states.shape[1])
    (line,) = (record.getMessage() for record in caplog.records)
    assert said in line
    assert "\n" not in line


def test_a_compiler_that_never_ends_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sleeper = tmp_path / "cc"
    sleeper.write_text("#!/bin/sh\nexec sleep 60\n")
    sleeper.chmod(0o755)
    monkeypatch.setenv("CC", str(sleeper))
    monkeypatch.setattr(library, "SECONDS", 0.2)
    assert load_again() is None
    assert f"{sleeper} took longer than 0.2 s" in caplog.text


def test_of_a_compiler_that_names_no_error_the_last_line_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    liar = tmp_path / "cc"
    liar.write_text("#!/bin/sh\necho In function main: >&2\necho disk is full >&2\nexit 1\n")
    liar.chmod(0o755)
    monkeypatch.setenv("CC", str(liar))
    assert load_again() is None
    assert f"{liar} failed (disk is full)" in caplog.text


def test_there_may_be_no_home_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setenv("XDG_CACHE_HOME", "relative/paths/do/not/count")
    monkeypatch.setattr(Path, "home", nowhere)
    assert library.cache_folder() is None
