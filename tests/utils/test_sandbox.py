from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from text_gym.errors import ConfigError, SandboxError
from text_gym.utils import limits as limits_module
from text_gym.utils.confinement import unavailable
from text_gym.utils.limits import UNLIMITED, SandboxLimits, installed_software
from text_gym.utils.sandbox import Sandbox, run_command

HOSTILE = str(Path(__file__).parent / "hostile_functions.py")
SMALL = SandboxLimits(seconds=1.5, memory=1 << 30, files=8 << 20, output=1 << 16, answer=1 << 20)
pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the full sandbox is Linux's"),
    pytest.mark.skipif(bool(unavailable()), reason=f"this machine cannot limit {sorted(unavailable())}"),
]


@pytest.fixture(autouse=True, scope="module")
def no_folder_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    place = tmp_path_factory.mktemp("sandboxes")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(tempfile, "tempdir", str(place))
        yield
    gc.collect()
    assert list(place.iterdir()) == []


@pytest.fixture(scope="module")
def act(no_folder_is_left: None) -> Iterator[Sandbox]:
    """One sandbox for all deeds: each finds it as the one before left it."""
    with Sandbox(f"{HOSTILE}:act", SMALL) as sandbox:
        yield sandbox


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_end(pid: int, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.01)
    return not is_running(pid)


# What an untrusted function may try


def test_no_child_at_all_before_any_bomb(act: Sandbox) -> None:
    assert act("fork_once") == "refused 11"


# Deed, the limit that is named, words of the error, and whether the worker lives on. PATH is a file outside
# the sandbox that must stay as it is, PORT a listener's.
DEEDS: list[tuple[list[Any], str | None, str, bool]] = [
    (["fork_bomb"], "processes", "BlockingIOError", True),
    (["raw_clone"], "processes", "starts? no process|start no process", True),
    (["run_program"], "processes", "BlockingIOError", True),
    (["write_file", "PATH"], "files", r"PermissionError.*hostile_functions\.py:\d+", True),
    (["remove_file", "PATH"], "files", "PermissionError", True),
    (["write_by_link", "PATH"], "files", "PermissionError", True),
    (["hard_link", "PATH"], None, "Invalid cross-device link|Permission", True),
    (["change_mode", "PATH"], "permission", "PermissionError", True),
    (["big_file"], "files", "File too large", True),
    (["many_files"], "files", "left more in its temporary folder than 8,388,608 bytes", False),
    (["deep_folders"], "files", "left more in its temporary folder", False),
    (["connect", "PORT"], "network", "gives no network", True),
    (["datagram", "PORT"], "network", "gives no network", True),
    (["much_memory"], "memory", "MemoryError", True),
    (["hidden_memory"], "memory", "no more memory", True),
    (["endless_loop"], "time", r"longer than 1\.5 s", False),
    (["stop_itself"], "time", r"longer than 1\.5 s", False),
    (["crash"], None, r"process died \(signal SIGSEGV\)", False),
    (["leave"], None, r"process died \(exit code 3\)", False),
    (["become_another"], None, "process died", False),
    (["poisoned_error", "PATH.new"], None, r"raised \S*PoisonError: poison", True),
    (["unreadable_error"], None, r"\(unreadable\)", True),
    (["endless_message"], "time", r"longer than 1\.5 s", False),
    (["much_output"], "output", "printed more than 65,536 bytes", False),
    (["huge_answer"], "answer", "at most 1,048,576 are taken", False),
    (["forged", "garbage"], "answer", "act: ", False),
    (["forged", "deep"], "answer", "act: ", False),
    (["forged", "list"], "answer", "another form", False),
    (["forged", "both"], "answer", "another form", False),
    (["forged", "unfinished"], "time", r"longer than 1\.5 s", False),
    (["no_json"], None, "TypeError.*set is not JSON", True),
    (["signal_parent"], "permission", "PermissionError", True),
    (["signal_group"], "permission", "PermissionError", True),
    (["signal_by_file"], "permission", "PermissionError", True),
    (["read_parents_memory"], "files", "PermissionError", True),
    (["read_terminal"], "files", "PermissionError", True),
    (["raise_limits"], None, "not allowed to raise maximum limit", True),
    (["limit_parent"], "permission", "PermissionError", True),
    (["new_namespace"], "permission", "Operation not permitted|unshare", True),
    (["many_threads"], None, "can't start new thread", True),
    (["quit_program"], None, "raised SystemExit: harm", True),
]


@pytest.mark.parametrize(("deed", "limit", "words", "lives"), DEEDS, ids=[" ".join(d[0]) for d in DEEDS])
def test_harm_is_contained_and_named(
    deed: list[Any], limit: str | None, words: str, lives: bool, act: Sandbox, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    mode = outside.stat().st_mode
    terms: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda *_: terms.append(1))
    open_files = resource_limit()
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(0.0)
            replaced = {"PATH": str(outside), "PATH.new": f"{outside}.new", "PORT": server.getsockname()[1]}
            worker = act("pid")
            with pytest.raises(SandboxError, match=f"(?s){words}") as caught:
                act(*[replaced.get(a, a) for a in deed])
            with pytest.raises(BlockingIOError):  # nobody called
                server.accept()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught.value.limit == limit
    assert [p.name for p in tmp_path.iterdir()] == ["outside"]
    assert outside.read_text() == "precious"
    assert outside.stat().st_mode == mode
    assert terms == []
    assert resource_limit() == open_files
    # The parent's work goes on: the next call is answered, by the same worker if that one was let live.
    assert (act("pid") == worker) is lives
    assert act("same", ["next"]) == ["next"]
    assert lives or wait_for_end(worker)


def resource_limit() -> str:
    return Path("/proc/self/limits").read_text()


def test_harm_in_bounds_stays_inside(act: Sandbox) -> None:
    """What is allowed ends with the worker: threads that go on, its temporary folder."""
    act.close()
    assert act("leave_a_thread") == "left"
    worker = act("pid")
    act.close()
    assert wait_for_end(worker)


def test_it_cannot_choose_to_outlive_its_parent(act: Sandbox) -> None:
    assert act("survive_parent") == -1


def test_secrets_of_the_environment_stay_outside(act: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "secret-value")
    assert "secret-value" not in act("environment")
    whole = SandboxLimits(environment=True)
    with Sandbox(f"{HOSTILE}:act", whole) as open_one:
        assert "secret-value" in open_one("environment")


def test_output_is_shown_with_its_control_characters_written_out(
    act: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    act("escape_codes")
    assert "\\x1b]0;harm\\x07\n" in capsys.readouterr().err


def test_unlimited_is_without_limits(tmp_path: Path) -> None:
    """The counter-check: the same deeds succeed where nothing is limited, so it is the limits that refuse."""
    with Sandbox(f"{HOSTILE}:act", UNLIMITED) as act, socket.create_server(("127.0.0.1", 0)) as server:
        assert act("fork_once") == "forked"
        act("write_file", str(tmp_path / "outside"))
        act("change_mode", str(tmp_path / "outside"))
        act("run_program")
        act("connect", server.getsockname()[1])
        assert act("hidden_memory") > 0
        assert act("many_threads") == 2000
        assert act("read_parents_memory")
    assert (tmp_path / "outside").read_text() == "harm"


# The parent


PARENT = """
import sys, threading, time
from text_gym.utils.sandbox import Sandbox
sandbox = Sandbox(sys.argv[1] + ":act")
print(sandbox("pid"), flush=True)
sandbox("endless_loop")
"""


@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_no_worker_outlives_its_parent(end: str, tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, HOSTILE],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert is_running(worker)
    parent.send_signal(signal.Signals[end])
    parent.wait(10)
    assert wait_for_end(worker)
    if end == "SIGINT":  # there was time to tidy up
        assert list(tmp_path.iterdir()) == []


def test_a_function_of_a_script_is_found(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from text_gym.utils.sandbox import Sandbox\n"
        "def double(x):\n    return 2 * x\n"
        "if __name__ == '__main__':\n    print(Sandbox(double)(21))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout == "42\n"


def test_a_worker_made_in_a_thread_outlives_the_thread() -> None:
    """On Linux a process dies with the thread that started it, where it asked to die with its parent."""
    sandbox = Sandbox(f"{HOSTILE}:act", SMALL)
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(sandbox("pid")))
    thread.start()
    thread.join()
    time.sleep(0.1)
    assert sandbox("pid") == found[0]
    sandbox.close()


def test_the_worker_is_reused_and_ends_when_its_sandbox_is_forgotten() -> None:
    sandbox = Sandbox(f"{HOSTILE}:act")
    alive = [sandbox.alive]
    pids = {sandbox("pid") for _ in range(20)}
    assert len(pids) == 1
    alive.append(sandbox.alive)
    assert alive == [False, True]
    del sandbox
    gc.collect()
    assert wait_for_end(pids.pop())


def test_it_can_be_used_again_after_close_and_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("text_gym.utils.processes._IDLE_TICKS", 1)
    with Sandbox(f"{HOSTILE}:act", SMALL) as act:
        first = act("pid")
        assert act._worker is not None
        begun = time.monotonic()
        while act._worker._called.is_set():  # until the watch is asleep, and costs nothing
            assert time.monotonic() < begun + 10
            time.sleep(0.01)
        with pytest.raises(SandboxError, match="longer than"):
            act("endless_loop")
        act.close()
        assert act("pid") != first


def test_another_time_limit_for_one_call(act: Sandbox) -> None:
    act("pid")
    start = time.monotonic()
    with pytest.raises(SandboxError, match=r"longer than 0\.1 s"):
        act("endless_loop", seconds=0.1)
    assert time.monotonic() - start < 1.0


# Values

floats = st.floats(allow_nan=True, allow_infinity=True)
texts = st.text(st.characters(exclude_categories=()))
integers = st.integers() | st.integers(-(10**4000), 10**4000)
values = st.recursive(
    st.none() | st.booleans() | integers | floats | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


def bits(value: Any) -> Any:
    """A value with its types, and every float as its eight bytes; NaN as any NaN."""
    if isinstance(value, float):
        return "nan" if value != value else struct.pack(">d", value)
    if isinstance(value, list):
        return [bits(item) for item in value]
    if isinstance(value, dict):
        return [(k, bits(v)) for k, v in value.items()]
    return (type(value), value)


@pytest.fixture(scope="module")
def same() -> Iterator[Sandbox]:
    with Sandbox(f"{HOSTILE}:same") as sandbox:
        yield sandbox


@settings(max_examples=150, deadline=None)
@given(value=values)
def test_values_come_back_bit_for_bit(same: Sandbox, value: Any) -> None:
    found = same(value)
    assert bits(found) == bits(value)


def test_values_that_are_known_to_be_hard(same: Sandbox) -> None:
    hard: list[Any] = ["\ud83d\ude00", "\U0001f600", "\udc80", "\x00", -0.0, 5e-324, 2**53 + 1, 10**4299]
    for value in [*hard, {"": []}]:
        assert bits(same(value)) == bits(value)


# Commands


def test_commands_answer() -> None:
    program = "import sys; print(sys.stdin.read().upper()); print('err', file=sys.stderr); sys.exit(5)"
    found = run_command([sys.executable, "-c", program], stdin=b"hello")
    assert (found.code, found.stdout, found.stderr) == (5, b"HELLO\n", b"err\n")
    assert run_command(["no-such-program-x"]).code == 127
    assert run_command(["sh", "-c", "kill -SEGV $$"]).code == -signal.SIGSEGV
    assert run_command(["true"], stdin=bytes(1 << 22)).code == 0  # it need not read
    solved = run_command(
        [sys.executable, "parts/main.py"], files={"parts/main.py": "print(open('a').read())", "a": "ä"}
    )
    assert solved.stdout.decode() == "ä\n"


def test_commands_are_limited(tmp_path: Path) -> None:
    small = SandboxLimits(seconds=1.0, output=1 << 16, files=1 << 20)
    with pytest.raises(SandboxError, match=r"longer than 1 s") as slow:
        run_command(["sleep", "60"], limits=small)
    assert slow.value.limit == "time"
    with pytest.raises(SandboxError, match="printed more than 65,536 bytes") as loud:
        run_command(["yes"], limits=small)
    assert loud.value.limit == "output"
    refused = run_command(["sh", "-c", f"echo harm > {tmp_path}/outside"], limits=small)
    assert refused.code != 0
    assert b"denied" in refused.stderr
    assert b"annot fork" in run_command(["sh", "-c", "true | true"], limits=small).stderr
    assert list(tmp_path.iterdir()) == []


def test_commands_that_may_start_others_leave_none() -> None:
    start = time.monotonic()
    found = run_command(
        ["sh", "-c", "sleep 60 & echo $!"], limits=SandboxLimits(seconds=30.0, processes=True)
    )
    assert time.monotonic() - start < 20
    assert wait_for_end(int(found.stdout))


def test_bad_commands_and_functions_are_named() -> None:
    with pytest.raises(ConfigError, match="empty"):
        run_command([])
    with pytest.raises(ConfigError, match=r"'\.\./x' does not lie"):
        run_command(["true"], files={"../x": ""})
    with pytest.raises(ConfigError, match="cannot be found by name"):
        Sandbox(lambda: 1)
    with pytest.raises(ConfigError, match=r"write file\.py:name"):
        Sandbox("nothing")
    with pytest.raises(ConfigError, match="there is no file"):
        Sandbox("none.py:f")
    with pytest.raises(ConfigError, match="limit seconds must be positive"):
        SandboxLimits(seconds=0)
    with Sandbox("no_such_module_x:f") as sandbox, pytest.raises(SandboxError, match="ModuleNotFoundError"):
        sandbox()
    with Sandbox("math:pi") as sandbox, pytest.raises(SandboxError, match="cannot be called"):
        sandbox()


def test_errors_name_their_classes_and_their_place(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def f(x):\n    return {}[x]\n")
    with Sandbox(f"{file}:f") as sandbox, pytest.raises(SandboxError) as caught:
        sandbox("key")
    assert str(caught.value) == f"f raised KeyError: 'key' ({file}:2)"
    assert caught.value.types[:3] == ("builtins.KeyError", "builtins.LookupError", "builtins.Exception")
    assert isinstance(caught.value.as_builtin(), KeyError)


# What a platform lacks


def test_without_a_library_the_other_limits_hold_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "landlock.py").write_text("raise ImportError('not installed')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "landlock", raising=False)
    limits_module._unavailable.cache_clear()
    limits_module._say_once.cache_clear()
    try:
        with caplog.at_level(logging.WARNING), Sandbox(f"{HOSTILE}:act", SMALL) as act:
            assert act.missing == {"files": "Landlock cannot be used: not installed"}
            assert act("fork_once") == "refused 11"
            act("write_file", str(tmp_path / "outside"))  # what is missing is missing
            act.close()
            act("pid")
        assert [r.getMessage() for r in caplog.records] == [
            "the sandbox cannot limit files (Landlock cannot be used: not installed)"
        ]
        assert Sandbox("math:hypot", SandboxLimits(files=None)).missing == {}  # it was not asked for
    finally:
        limits_module._unavailable.cache_clear()
        monkeypatch.undo()


def test_only_what_is_named_can_be_read(tmp_path: Path) -> None:
    for name in ("given", "hidden"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    (tmp_path / "given" / "link.txt").symlink_to(tmp_path / "hidden" / "a.txt")
    mine = tmp_path / "mine.py"
    mine.write_text(
        "import json, os, sys, tempfile\n"
        "import numpy, text_gym.utils.json_files, text_gym.tasks.enumerable\n"
        "def read(path):\n    return open(path).read()\n"
        "def parents(name):\n    return open(f'/proc/{os.getppid()}/{name}', 'rb').read(1).decode()\n"
        "def scratch():\n"
        "    with tempfile.TemporaryFile('w+') as file:\n"
        "        file.write('x')\n        file.seek(0)\n        return file.read()\n"
        "def act(name, *arguments):\n    return globals()[name](*arguments)\n"
    )
    reads = (*installed_software(), str(mine), str(tmp_path / "given"))
    for files in (1 << 20, None):
        with Sandbox(f"{mine}:act", SandboxLimits(files=files, reads=reads)) as act:
            assert act("read", str(tmp_path / "given" / "a.txt")) == "given"
            assert act("scratch") == "x"
            for deed in [
                ("read", str(tmp_path / "hidden" / "a.txt")),
                ("read", str(tmp_path / "given" / "link.txt")),
                ("read", f"/proc/self/root{tmp_path}/hidden/a.txt"),
                ("parents", "mem"),
                ("parents", "environ"),
            ]:
                with pytest.raises(SandboxError, match="may read only") as caught:
                    act(*deed)
                assert caught.value.limit == "files", deed
