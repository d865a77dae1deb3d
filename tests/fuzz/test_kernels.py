"""The compiled kernels with sizes and layouts of any kind: right, and within their memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.effort import count, effort, tries
from tests.fuzz.kernel_calls import Guards, call
from text_gym.models.cpu import kernels as module
from text_gym.models.cpu.kernels import Kernels, kernels_for
from text_gym.models.cpu.library import SOURCE

ROUNDS = round(3_000 * float(os.environ.get("TEXT_GYM_FUZZ", "1")))


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Kernels:
    monkeypatch.setattr(module, "cores", lambda: 2)
    found = kernels_for(torch.zeros(1))
    if found is None and shutil.which(os.environ.get("CC") or "cc") is None:
        pytest.skip("no compiler here")
    assert found is not None
    return found


@tries(60, 20_000)
def test_kernels_are_their_definitions_and_stay_in_their_memory(
    tries: int, kernels: Kernels, tried: Callable[..., None]
) -> None:
    @effort(tries)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        call(kernels, lambda low, high: data.draw(st.integers(low, high)), Guards())

    try:
        number = count(run)
    finally:
        kernels.share(1, 1)
    tried("compiled kernels give what float64 gives and write nowhere else", number, "calls of any sizes")


def test_the_guards_see_what_is_written_beside_them() -> None:
    guards = Guards()
    memory = guards.new(4, 5)
    guards.check()
    memory.as_strided((1,), (1,), memory.storage_offset() + 20)[0] = 0.0
    with pytest.raises(AssertionError, match="out of bounds"):
        guards.check()


@pytest.mark.nightly
@pytest.mark.timeout(0)
def test_sanitizers_find_no_memory_error(tmp_path: Path, tried: Callable[..., None]) -> None:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs gcc, whose sanitizers can be loaded into Python")
    runtimes = [
        subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    if not all(os.path.isabs(r) for r in runtimes):
        pytest.skip("this gcc has no sanitizers")
    library = tmp_path / "kernels.so"
    flags = ["-O1", "-g", "-march=native", "-fopenmp", "-shared", "-fPIC", "-fno-omit-frame-pointer"]
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    subprocess.run([compiler, *flags, *checks, str(SOURCE), "-o", str(library), "-lm"], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.kernel_calls", str(library), str(ROUNDS), "1"],
        env={**os.environ, "LD_PRELOAD": " ".join(runtimes), "ASAN_OPTIONS": "detect_leaks=0"},
        capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    tried("AddressSanitizer and UBSan find no fault of the compiled kernels", ROUNDS, "calls of any sizes")
