"""The grader: right numbers give points, and nothing that a submission does to itself gives any."""

from __future__ import annotations

import csv
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from course.grade import Grade, GradeSettings, grade, main, refuse_what_is_unsafe, write_table
from course.labs import COURSE
from course.submissions import LARGEST, take
from text_gym.utils.confinement import unavailable

LAB = "lab0_toy"  # a lab of one function, which needs neither PyTorch nor NumPy
TOY_FILES = {
    "lab.py": "def double(x):\n    # BEGIN SOLUTION\n    return 2 * x\n    # END SOLUTION\n",
    "test_hidden.py": """
import random


def test_double(lab, seed):
    x = random.Random(seed).random()
    found = lab.double(x)
    assert isinstance(found, float), f"double gave {found!r}"
    assert found == x + x, "that is not twice the number"


def test_double_of_zero(lab, seed):
    assert lab.double(0.0) == 0.0, "twice nothing is nothing"
""",
}
safe_here = pytest.mark.skipif(
    bool(unavailable()) or not sys.platform.startswith("linux"), reason="the sandbox is not whole here"
)

ATTACKS: Mapping[str, tuple[str, str]] = {  # name -> lab.py, words of the reason
    "infinite loop": ("def double(x):\n    while True: pass\n", "longer than 6 s"),
    "infinite loop at import": ("while True: pass\n", "longer than 6 s"),
    "os._exit": ("import os\ndef double(x):\n    os._exit(0)\n", "its process died"),
    "10 GB": ("def double(x):\n    return float(len(bytearray(10 << 30)))\n", "MemoryError"),
    "network": (
        "import socket\ndef double(x):\n    return socket.create_connection(('127.0.0.1', 9), 1) and 2 * x\n",
        "network",
    ),
    "reading the hidden tests": (
        "open('HIDDEN').read()\ndef double(x):\n    return 2 * x\n",
        "may read only",
    ),
    "reading a classmate": ("open('CLASSMATE').read()\ndef double(x):\n    return 2 * x\n", "may read only"),
    "writing into a classmate's folder": (
        "open('CLASSMATE', 'w').write('')\ndef double(x):\n    return 2 * x\n",
        "write only to its temporary folder",
    ),
    "importing the answers": (
        "from text_gym.agents import PPO\ndef double(x):\n    return 2 * x\n",
        "imports text_gym.agents: it holds the answers",
    ),
    "monkey-patching pytest": (
        "import builtins, sys\n"
        "try:\n"
        "    import pytest, _pytest.runner\n"
        "    _pytest.runner.pytest_runtest_call = lambda item: None\n"
        "    pytest.fail = lambda *a, **k: None\n"
        "except ImportError:\n    pass\n"
        "builtins.AssertionError = type('Quiet', (Exception,), {})\n"
        "def double(x):\n    return 3 * x + 1\n",
        "not twice",
    ),
    "an answer that is equal to everything": (
        "class Equal(float):\n"
        "    def __eq__(self, other): return True\n"
        "    def __hash__(self): return 0\n"
        "def double(x):\n    return Equal(7)\n",
        "neither a number",
    ),
    "writing the junit file": (
        "open('OUT/mallory.xml', 'w').write('<testsuites/>')\ndef double(x):\n    return 1.0\n",
        "PermissionError",
    ),
    "fork bomb": (
        "import os\ndef double(x):\n    while True: os.fork()\n",
        "start no process",
    ),
    "killing the parent": (
        "import os, signal\ndef double(x):\n    os.kill(os.getppid(), signal.SIGKILL)\n    return 1.0\n",
        "signals",
    ),
    "escapes and floods": (
        "def double(x):\n    while True: print('\\x1b[2J\\x1b]0;owned\\x07' * 1000)\n",
        "printed more",
    ),
    "sys.modules": (
        "import sys, types\n"
        "for name in list(sys.modules):\n"
        "    if name.startswith(('course', 'json')): sys.modules[name] = types.ModuleType(name)\n"
        "sys.modules['course.wire'] = None\n"
        "def double(x):\n    return 1.0\n",
        "not twice",
    ),
    "threads and atexit that hang": (
        "import atexit, threading, time\n"
        "atexit.register(time.sleep, 3600)\n"
        "threading.Thread(target=time.sleep, args=(3600,)).start()\n"
        "def double(x):\n    return 1.0\n",
        "not twice",
    ),
    "answers of its own making": (
        "import os, struct\n"
        "body = b'{\"value\": 0.0}'\n"
        "for stream in range(3, 20):\n"
        "    try: os.write(stream, struct.pack('>II', len(body), 0) + body)\n"
        "    except OSError: pass\n"
        "def double(x):\n    return 1.0\n",
        "",
    ),
}
QUICK = (
    "os._exit",
    "importing the answers",
    "reading the hidden tests",
    "monkey-patching pytest",
    "writing the junit file",
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A course of one small lab, with the pytest set-up of the real one."""
    course = tmp_path_factory.mktemp("toy")
    (course / LAB).mkdir()
    for name, text in TOY_FILES.items():
        (course / LAB / name).write_text(text, encoding="utf-8")
    for name in ("conftest.py", "pytest.ini"):
        shutil.copyfile(COURSE / name, course / name)
    return course


def hand_in(folder: Path, student: str, source: str) -> Path:
    file = folder / student / LAB / "lab.py"
    file.parent.mkdir(parents=True)
    file.write_text(source, encoding="utf-8")
    return folder / student


@safe_here
@pytest.mark.parametrize(
    "attack", [a if a in QUICK else pytest.param(a, marks=pytest.mark.nightly) for a in ATTACKS]
)
def test_hostile_submissions_get_nothing_and_a_reason(attack: str, toy: Path, tmp_path: Path) -> None:
    source, reason = ATTACKS[attack]
    limits = GradeSettings((LAB,), toy, seconds=6.0, budget=40.0)
    out = tmp_path / "out"
    out.mkdir()
    alice = hand_in(tmp_path / "class", "alice", "def double(x):\n    return 2 * x\n")
    places = {"HIDDEN": toy / LAB / "test_hidden.py", "CLASSMATE": alice / LAB / "lab.py", "OUT": out}
    for name, place in places.items():
        source = source.replace(name, str(place))
    mallory = hand_in(tmp_path / "class", "mallory", source)
    (bad,) = grade(mallory, out, limits)
    # Twice nothing is nothing also for those who answer 0 to everything.
    assert bad.points <= (attack in ("answers of its own making",)), bad
    assert bad.out_of == 2
    assert reason in " ".join(bad.messages.values()), bad.messages
    if attack not in QUICK:  # those are in the class that is graded below
        (good,) = grade(alice, out, limits)
        assert (good.points, good.out_of, good.messages) == (2, 2, {})
    assert "\x1b" not in (out / "mallory.md").read_text(encoding="utf-8")


@safe_here
def test_a_class_is_graded_into_one_table(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    group = tmp_path / "class"
    hand_in(group, "ada", "def double(x):\n    return x + x\n")
    hand_in(group, "bea", "def double(x):\n    return x * x\n")
    (group / "cleo").mkdir()
    hand_in(group, "mallory", ATTACKS["os._exit"][0])
    hand_in(group, "zoe", "def double(x):\n    return 2 * x\n")
    arguments = [*map(str, sorted(group.iterdir())), "--course", str(toy), "--out", str(tmp_path / "out")]
    main(arguments)
    with open(tmp_path / "out" / "grades.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["student"], row["points"], row["out_of"]) for row in rows] == [
        ("ada", "2", "2"),
        ("bea", "1", "2"),
        ("cleo", "0", "2"),
        ("mallory", "0", "2"),
        ("zoe", "2", "2"),
    ]
    assert [row["reason"] for row in rows][:3] == [
        "",
        "that is not twice the number",
        f"not handed in: there is no {LAB}/lab.py",
    ]
    assert "that is not twice" in (tmp_path / "out" / "bea.md").read_text(encoding="utf-8")
    assert (tmp_path / "out" / "ada.xml").is_file()
    assert "wrote" in capsys.readouterr().out


def test_a_cell_is_no_formula(tmp_path: Path) -> None:
    write_table(
        [Grade("=cmd()", LAB, 0, 1, 0.0, {"test_x": "=HYPERLINK(1)\x1b[2J\nmore"})], tmp_path / "a.csv"
    )
    with open(tmp_path / "a.csv", encoding="utf-8") as file:
        row = list(csv.reader(file))[1]
    assert row[0] == "'=cmd()"
    assert row[5].startswith("'=HYPERLINK(1)")
    assert "\x1b" not in row[5]


def test_the_same_name_twice_is_refused(toy: Path, tmp_path: Path) -> None:
    first, second = hand_in(tmp_path / "a", "kim", ""), hand_in(tmp_path / "b", "kim", "")
    with pytest.raises(SystemExit):
        main([str(first), str(second), "--course", str(toy), "--out", str(tmp_path / "out")])


def test_hidden_tests_that_could_be_read_are_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("course.grade.missing_limits", lambda limits: {})
    monkeypatch.setattr("course.grade.installed_software", lambda: (str(tmp_path),))
    assert "the hidden tests are in it" in refuse_what_is_unsafe(tmp_path / "course")
    assert refuse_what_is_unsafe(tmp_path.parent / "elsewhere") == ""
    monkeypatch.setattr("course.grade.missing_limits", lambda limits: {"files": "why"})
    assert "cannot limit files (why)" in refuse_what_is_unsafe(tmp_path.parent)


# What is taken of a submission


def test_links_and_pipes_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "solution.py").write_text("x = 1")
    sent = tmp_path / "sent"
    for name in ("link", "pipe", "large", "folder", "right"):
        (sent / name).mkdir(parents=True)
    (sent / "link" / "lab.py").symlink_to(tmp_path / "solution.py")
    (sent / "outside").symlink_to(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(sent / "pipe" / "lab.py")
    (sent / "large" / "lab.py").write_bytes(b"#" * (LARGEST + 1))
    (sent / "folder" / "lab.py").mkdir()
    (sent / "right" / "lab.py").write_text("y = 2")
    said = {
        name: take(sent, name, tmp_path / "in")
        for name in ("link", "outside", "pipe", "large", "folder", "none")
    }
    assert [file for file, _ in said.values()] == [None] * 6
    assert "links are not followed" in said["link"][1]
    assert "links are not followed" in said["outside"][1]
    assert "no file" in said["pipe"][1]
    assert "bytes" in said["large"][1]
    assert "not handed in" in said["none"][1]
    copy, why = take(sent, "right", tmp_path / "in")
    assert copy is not None
    assert (copy.read_text(), why) == ("y = 2", "")


@safe_here
def test_a_class_of_nobody_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path / "mistyped"), "--out", str(tmp_path / "out")])
    assert "none of the submissions is a folder" in capsys.readouterr().err
