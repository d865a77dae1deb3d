"""Engines: what fails does not stop the rest, no process is left behind, and bytes arrive as they were."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bench_world import FEW_PAIRS, Note, Unpicklable, prepared, tiny_cell
from text_gym.bench.matrix.designs import Design
from text_gym.bench.matrix.engines import Engine, LocalEngine, RayEngine, pack, unpack
from text_gym.errors import ConfigError
from text_gym.utils.sealed import check_sealed

JOBS = [Note("a"), Note("b", "raise"), Note("c"), Note("d", needs=("a.txt",))]


def run(engine: Engine, jobs: list[Note], folder: Path) -> dict[str, str]:
    try:
        return {outcome.job.name: outcome.error for outcome in engine.run(jobs, folder)}
    finally:
        engine.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_job_that_fails_is_named_and_the_others_are_done(workers: int, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("before")
    found = run(LocalEngine(workers), JOBS, tmp_path)
    assert found == {"a": "", "b": "ValueError: on purpose", "c": "", "d": ""}
    assert (tmp_path / "c.txt").read_text() == "c"
    assert not (tmp_path / "b.txt").exists()


def test_a_process_that_dies_takes_its_own_job_only(tmp_path: Path) -> None:
    found = run(LocalEngine(1), [Note("a"), Note("b", "die"), Note("c")], tmp_path)
    assert found["a"] == found["c"] == ""
    assert "process died" in found["b"]


def test_closing_ends_workers_at_once(tmp_path: Path) -> None:
    engine = LocalEngine(2)
    outcomes = engine.run([Note("a"), Note("b", "sleep")], tmp_path)
    assert next(outcomes).job.name == "a"
    running = {pid for pool in engine._pools for pid in pool._processes}
    assert running
    end = time.monotonic() + 10
    engine.close()
    # A pool's own thread may have waited for them already; the system alone knows for certain.
    while running and time.monotonic() < end:
        running = {pid for pid in running if Path(f"/proc/{pid}").exists()}
        time.sleep(0.01)
    assert not running


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    program = (
        "import sys, os, signal; sys.path.insert(0, 'tests')\n"
        "from bench_world import Note\n"
        "from text_gym.bench.matrix.engines import LocalEngine\n"
        "from pathlib import Path\n"
        "if __name__ == '__main__':\n"
        f"    folder = Path({str(tmp_path)!r}); engine = LocalEngine(1)\n"
        "    jobs = engine.run([Note('a'), Note('b', 'sleep')], folder); next(jobs)\n"
        "    pids = [p for pool in engine._pools for p in pool._processes]\n"
        "    (folder / 'pids').write_text(' '.join(map(str, pids)))\n"
        "    import threading\n"
        "    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGKILL)).start(); next(jobs)\n"
    )
    file = tmp_path / "parent.py"
    file.write_text(program)
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}
    done = subprocess.run([sys.executable, str(file)], cwd=root, env=environment, timeout=120, check=False)
    assert done.returncode == -9
    pid = int((tmp_path / "pids").read_text())
    deadline = time.monotonic() + 20
    while _running(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _running(pid)


def _running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_what_cannot_be_sent_to_a_process_is_named(tmp_path: Path) -> None:
    cell = tiny_cell(Design("mine", "yours", "here", Unpicklable()), "rloo")
    with pytest.raises(ConfigError, match=r"mine.*workers=0"):
        list(LocalEngine(1).run([cell], tmp_path))


def test_bytes_arrive_as_they_were_sent(tmp_path: Path) -> None:
    Note("a", "folder").run(tmp_path)
    unpack(pack(tmp_path, ["a.txt", "a-folder"]), tmp_path / "there")
    assert (tmp_path / "there" / "a.txt").read_text() == "a"
    assert (tmp_path / "there" / "a-folder" / "weights").read_bytes() == b"\0\1\2"
    assert check_sealed(tmp_path / "there" / "a-folder") == {"about": "a"}
    there = tmp_path / "there"
    assert pack(there, ["a.txt", "a-folder"]) == pack(tmp_path, ["a.txt", "a-folder"])


def test_a_negative_number_of_workers_is_refused() -> None:
    with pytest.raises(ConfigError, match="workers is -1"):
        LocalEngine(-1)


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_the_extra_is_named() -> None:
    with pytest.raises(ConfigError, match=r"pip install .text-gym\[ray\]"):
        RayEngine()


def test_ray_gives_the_same_bytes_as_local_processes(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    engine, local = RayEngine(1), LocalEngine(0)
    try:
        jobs = [Note("a", "folder"), Note("b", "raise"), Note("d", needs=("c.txt", "e-folder"))]
        for folder in (tmp_path / "near", tmp_path / "far"):
            folder.mkdir()
            (folder / "c.txt").write_text("before")
            Note("e", "folder").run(folder)
        far = {o.job.name: o.error for o in engine.run(jobs, tmp_path / "far")}
        near = {o.job.name: o.error for o in local.run(jobs, tmp_path / "near")}
        assert far == near
        assert pack(tmp_path / "far", ["."]) == pack(tmp_path / "near", ["."])
        for design, optimiser in ((FEW_PAIRS, "rloo"), ("keywords", "best_of_n")):
            cell = prepared(tiny_cell(design, optimiser), tmp_path / "near")
            unpack(pack(tmp_path / "near", cell.needs), tmp_path / "far")
            assert [o.error for o in engine.run([cell], tmp_path / "far")] == [""]
            assert [o.error for o in local.run([cell], tmp_path / "near")] == [""]
            assert pack(tmp_path / "far", cell.makes) == pack(tmp_path / "near", cell.makes)
    finally:
        engine.close()
