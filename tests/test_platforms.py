"""Code that asks what system it is on, tried on this one: what it does elsewhere is simulated.

More of it stands beside what it belongs to (`as_on_windows` in the names of tests); CONTRIBUTING.md lists
all, under "Systems". What Linux cannot show is how another system answers;
GitHub's workflow runs the suite there.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from text_gym.bench.matrix import folder as bench_folder
from text_gym.errors import ConfigError
from text_gym.models import runtime
from text_gym.models.cpu import kernels, library
from text_gym.models.runtime import memory_mib
from text_gym.reward_models.labels.database import Database
from text_gym.reward_models.page import server
from text_gym.utils import confinement, sandbox, signing
from text_gym.utils.limits import SandboxLimits

ROOT = Path(__file__).resolve().parent.parent


def python(program: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        cwd=cwd,
        env={**os.environ, **environment},
        check=False,
        timeout=300,
    )


# Windows


def test_all_modules_load_and_the_sandbox_works_without_posix() -> None:
    program = """
import importlib, pkgutil
from tests.without_posix import hide
hide()
import text_gym
from text_gym.errors import SandboxError
from tests.without_posix import MODULES
loaded = 0
for found in pkgutil.walk_packages(text_gym.__path__, "text_gym."):
    try:
        importlib.import_module(found.name)
        loaded += 1
    except ModuleNotFoundError as error:  # an optional package
        assert error.name.split(".")[0] not in ("text_gym", *MODULES), found.name
from text_gym.utils.sandbox import Sandbox, SandboxLimits
with Sandbox("math:hypot") as sandbox:
    print(sandbox(3.0, 4.0))
with Sandbox("time:sleep", SandboxLimits(seconds=0.5)) as sandbox:
    try:
        sandbox(60)
    except SandboxError as error:
        print(error.limit)
print(loaded > 100)
"""
    done = python(program)
    assert done.stdout.decode().split() == ["5.0", "time", "True"], done.stderr.decode()


def test_a_checkout_whose_links_are_text_files(tmp_path: Path) -> None:
    """So git makes them on Windows, unless it is told to make links and allowed to."""
    (tmp_path / "text_gym").mkdir()
    for file in (ROOT / "text_gym").iterdir():
        if not file.is_symlink():
            (tmp_path / "text_gym" / file.name).symlink_to(file)
    for name in ("agents", "reward_models"):
        (tmp_path / name).symlink_to(ROOT / name)
        (tmp_path / "text_gym" / name).write_text(f"../{name}")
    done = python(
        "import text_gym.agents as a, text_gym.reward_models as r; print(a.__file__, r.__file__)", tmp_path
    )
    places = [tmp_path / name / "__init__.py" for name in ("agents", "reward_models")]
    assert done.stdout.decode().split() == [str(place) for place in places], done.stderr.decode()


def test_a_pipe_with_the_encoding_of_a_region_gets_escapes_and_no_traceback() -> None:
    """On Windows what goes through a pipe is in the region's encoding, here that of Western Europe."""
    done = python("from text_gym.cli.main import main; main(['tasks'])", PYTHONIOENCODING="cp1252")
    assert done.returncode == 0, done.stderr
    assert b"\\u2192" in done.stdout  # an arrow, which that encoding lacks
    assert done.stdout.decode("cp1252").count("\n") > 10


def test_commands_have_no_sandbox_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "os", SimpleNamespace(**{**vars(os), "name": "nt"}))
    with pytest.raises(ConfigError, match="run_command needs Linux or macOS"):
        sandbox.run_command(["echo"])


@pytest.mark.parametrize(("system", "reused"), [("posix", True), ("nt", False)])
def test_a_port_is_never_shared(system: str, reused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """There SO_REUSEADDR would let a second server take the same port."""
    monkeypatch.setattr(server, "os", SimpleNamespace(**{**vars(os), "name": system}))
    with server.listen("127.0.0.1", 0) as listening:
        assert bool(listening.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)) == reused
        with pytest.raises(ConfigError, match="in use by another program"):
            server.listen("127.0.0.1", listening.getsockname()[1])


def test_nothing_is_said_of_memory_where_nobody_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    assert memory_mib(torch.device("cpu")) == {}


def test_files_belong_to_the_user_where_nobody_has_a_number(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        signing,
        "os",
        SimpleNamespace(**{name: value for name, value in vars(os).items() if name != "getuid"}),
    )
    assert signing.is_ours(tmp_path.stat())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert library.cache_folder() == tmp_path / "text-gym"


# macOS


class Resources(SimpleNamespace):
    """`resource` of a system that refuses a limit on the address space, as macOS may."""

    RLIM_INFINITY, RLIMIT_AS, RLIMIT_FSIZE, RLIMIT_CORE, RLIMIT_NOFILE = -1, 5, 1, 4, 8

    def getrlimit(self, kind: int) -> tuple[int, int]:
        """Return what is allowed now and at most."""
        return (256, self.RLIM_INFINITY)

    def setrlimit(self, kind: int, limits: tuple[int, int]) -> None:
        """Set a limit."""
        if kind == self.RLIMIT_AS:
            raise ValueError("current limit exceeds maximum limit")
        self.found[kind] = limits


def test_macos_is_asked_for_no_limit_that_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Resources(found={})
    monkeypatch.setattr(confinement, "resource", fake)
    monkeypatch.setattr(sys, "platform", "darwin")
    confinement.confine(asdict(SandboxLimits(memory=2**30, files=2**20)), "unused")
    assert fake.found == {1: (2**20, 2**20), 4: (0, 0), 8: (256, 256)}


def test_macos_counts_memory_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_maxrss=3 * 2**20))
    monkeypatch.setitem(sys.modules, "resource", usage)
    assert memory_mib(torch.device("cpu")) == {"memory_mib": 3 * 2**10}  # Linux counts in KiB
    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory_mib(torch.device("cpu")) == {"memory_mib": 3}


def test_labels_reach_the_disk_on_macos_too(tmp_path: Path) -> None:
    """There fsync leaves them in the drive's cache; SQLite asks for F_FULLFSYNC if it is told to."""
    database = Database(tmp_path / "labels.db")
    try:
        connection = database._connection
        assert connection.execute("PRAGMA fullfsync").fetchone() == (1,)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    finally:
        database.close()


# Both


def test_cores_are_counted_where_there_is_no_affinity(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(runtime, "_QUOTAS", tmp_path / "no such folder")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for counted, expected in ((6, 6), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda counted=counted: counted)
        runtime.cores.cache_clear()
        assert runtime.cores() == expected
    runtime.cores.cache_clear()


def test_the_processor_has_a_name_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.processor", lambda: "arm")
    for module in (library, bench_folder, kernels):
        monkeypatch.setattr(module, "Path", lambda name: Path("no such folder") / name.lstrip("/"))
    assert library._processor() == bench_folder._processor() == "arm"
    assert not kernels._two_runtimes()
