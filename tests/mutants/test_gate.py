from __future__ import annotations

import json
import os
import re
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from . import __main__ as program
from . import all_mutants
from .gate import Status, Verdict, run_gate
from .mutant import Mutant, mutated
from .record import Record, count_by_part

ROOT = Path(__file__).parent.parent.parent
MUTANTS = all_mutants()


def test_names_are_given_once() -> None:
    assert [n for n, count in Counter(m.name for m in MUTANTS).items() if count > 1] == []
    assert [m.name for m in MUTANTS if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", m.name)] == []


def test_there_are_hundreds_in_every_part_of_the_package() -> None:
    assert len(MUTANTS) >= 200
    parts = {"envs", "models", "rewards", "tasks", "utils", "runs", "rlhf", "bench", "cli", "plot"}
    assert {f"text_gym/{part}" for part in parts} | {"agents", "reward_models"} <= {
        "/".join(m.file.split("/")[: 2 if m.file.startswith("text_gym") else 1]) for m in MUTANTS
    }
    assert {m.file.rpartition(".")[2] for m in MUTANTS} >= {"py", "c", "js"}


def test_each_old_text_stands_once_and_the_bug_changes_it() -> None:
    for m in MUTANTS:
        source = (ROOT / m.file).read_text(encoding="utf-8")
        assert mutated(source, m) != source, m.name  # raises unless it stands there exactly once


def test_all_tests_that_are_named_exist() -> None:
    for m in MUTANTS:
        assert m.tests, m.name  # pytest would run everything
        for test in m.tests:
            file, *parts = test.split("::")
            source = (ROOT / file).read_text(encoding="utf-8") if (ROOT / file).is_file() else ""
            assert source or (ROOT / file).is_dir(), f"{m.name}: there is no {file}"
            for part in parts:
                assert re.search(rf"(def|class) {part.split('[')[0]}\b", source), f"{m.name}: no {test}"


def test_an_old_text_that_stands_twice_or_never_is_refused() -> None:
    m = Mutant("a-b", "x.py", "1", "2", ("t.py",))
    assert mutated("x = 1", m) == "x = 2"
    for source in ("x = 0", "x = 1 + 1"):
        with pytest.raises(ValueError, match="a-b: '1' stands"):
            mutated(source, m)


SUMS = """def add(a, b):
    while a > 99:  # none is
        pass
    return a + b


def sign(x):
    return -1 if x <= 0 else 1
"""
TESTS = """import pytest

import time

from hypothesis import given, strategies as st
from sums import add, sign


def test_add():
    assert add(2, 3) == 5


def test_sign():
    assert sign(2) == 1


@pytest.mark.skip
def test_never():
    pass


def test_of_its_own():
    assert False


@pytest.fixture
def paid():
    return add(1, 1)


def test_by_fixture(paid):
    assert paid == 2


@pytest.fixture
def owed():
    assert add(1, 1) == 2


def test_what_is_owed(owed):
    pass


@given(st.just(0.3))
def test_slow(seconds):
    time.sleep(seconds)
    assert add(1, 1) == 2
"""


def small_tree(root: Path) -> None:
    root.mkdir()
    (root / "sums.py").write_text(SUMS)
    (root / "test_sums.py").write_text(TESTS)
    (root / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    (root / "link.py").symlink_to("sums.py")
    (root / ".gitignore").write_text("__pycache__/\n")
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)


def mutant(
    name: str, old: str, new: str, test: str, equivalent: str = "", by_fixture: bool = False
) -> Mutant:
    return Mutant(name, "sums.py", old, new, (f"test_sums.py::{test}",), equivalent, (), by_fixture)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the gate forks")
def test_the_gate_tells_caught_from_survived_and_broken(tmp_path: Path) -> None:
    small_tree(tmp_path / "tree")
    mutants = [
        mutant("adds-wrongly", "a + b", "a - b", "test_add"),
        mutant("raises", "a + b", "a + b[0]", "test_add"),
        mutant("seen-by-a-fixture", "a + b", "a + b + 1", "test_by_fixture"),
        mutant("fails-in-a-fixture", "a + b", "a - b", "test_what_is_owed"),
        mutant("is-known-to-fail-in-a-fixture", "a + b", "a - b", "test_what_is_owed", by_fixture=True),
        mutant("is-told-from-a-missed-deadline", "a + b", "b + a", "test_slow"),
        mutant("zero-is-positive", "<= 0", "< 0", "test_sign"),
        mutant("known-to-be-the-same", "<= 0", "< 1", "test_sign", "x is whole"),
        mutant("said-to-be-the-same", "a + b", "a - b", "test_add", "who knows"),
        mutant("never-ends", "while a > 99", "while a < 99", "test_add"),
        mutant("is-no-program", "a + b", "a +", "test_add"),
        mutant("knows-no-such-name", "a + b", "a + c", "test_add"),
        mutant("takes-a-name-away", "def add", "def adding", "test_add"),
        mutant("stands-nowhere", "a * b", "a", "test_add"),
        mutant("nothing-runs", "a + b", "a - b", "test_never"),
        mutant("fails-anyhow", "a + b", "a - b", "test_of_its_own"),
        mutant("kills-its-process", "return a + b", "__import__('os')._exit(3)", "test_add"),
        replace(mutant("lacks-a-library", "a + b", "a - b", "test_never"), needs=("json", "no_such_module")),
        mutant("last-is-as-before", "a + b", "b + a", "test_add"),
    ]
    told: list[Verdict] = []
    verdicts = run_gate(tmp_path / "tree", mutants, timeout=2, imports=["hypothesis"], tell=told.append)
    assert told == verdicts
    assert [(v.name, v.status) for v in verdicts] == [
        ("adds-wrongly", "caught"),
        ("raises", "caught"),
        ("seen-by-a-fixture", "caught"),
        ("fails-in-a-fixture", "suspect"),
        ("is-known-to-fail-in-a-fixture", "caught"),
        ("is-told-from-a-missed-deadline", "survived"),
        ("zero-is-positive", "survived"),
        ("known-to-be-the-same", "equivalent"),
        ("said-to-be-the-same", "broken"),
        ("never-ends", "caught"),
        ("is-no-program", "broken"),
        ("knows-no-such-name", "broken"),
        ("takes-a-name-away", "broken"),
        ("stands-nowhere", "broken"),
        ("nothing-runs", "broken"),
        ("fails-anyhow", "broken"),
        ("kills-its-process", "broken"),
        ("lacks-a-library", "skipped"),
        ("last-is-as-before", "survived"),
    ]
    reasons = {v.name: v.reason for v in verdicts}
    assert "test_sums.py::test_add: AssertionError: assert -1 == 5" in reasons["adds-wrongly"]
    assert reasons["never-ends"].startswith("(timeout) ")
    assert reasons["known-to-be-the-same"] == "x is whole"
    assert reasons["lacks-a-library"] == "needs no_such_module"
    assert "does not pass without the mutant" in reasons["fails-anyhow"]
    assert (tmp_path / "tree" / "sums.py").read_text() == SUMS


def test_a_run_goes_on_where_one_was_stopped(tmp_path: Path) -> None:
    """A verdict counts until its mutant, its file or its tests change; one that is not green never does."""
    small_tree(tmp_path / "tree")
    (tmp_path / "tree" / "other.py").write_text(SUMS)
    names = ["a-caught", "a-same", "a-survivor", "a-skipped", "not-yet"]
    mutants = [mutant(name, "a + b", "a - b", "test_add") for name in names]
    mutants += [Mutant("of-another", "other.py", "a + b", "a - b", ("test_sums.py",))]
    file = tmp_path / "mutants.json"

    def left(mutants: list[Mutant]) -> list[str]:
        return [m.name for m in Record(file, tmp_path / "tree", mutants).left(mutants)]

    assert left(mutants) == [*names, "of-another"]
    record = Record(file, tmp_path / "tree", mutants)
    (tmp_path / "tree" / "other.py").write_text(SUMS + "# changed while the run went on\n")
    statuses: list[Status] = ["caught", "equivalent", "survived", "skipped"]
    for m, status in zip(mutants, statuses, strict=False):
        record.add(Verdict(m.name, m.file, status, "a reason", 1.3))
    record.add(Verdict("of-another", "other.py", "caught", "a reason", 1.3))
    assert left(mutants) == ["not-yet", "a-survivor", "a-skipped", "of-another"]
    assert left([replace(mutants[0], new="a * b"), mutants[1]]) == ["a-caught"]
    for changed in ("sums.py", "test_sums.py"):
        path = tmp_path / "tree" / changed
        before = path.read_text()
        path.write_text(before + "# changed\n")
        assert left(mutants[:2]) == names[:2]
        path.write_text(before)
        assert left(mutants[:2]) == []

    record = Record(file, tmp_path / "tree", [m for m in mutants if m.name != "a-caught"])
    record.add(Verdict("not-yet", "sums.py", "caught", "a reason", 1.0))
    assert list(json.loads(file.read_text())) == [
        "of-another",
        "a-same",
        "a-skipped",
        "a-survivor",
        "not-yet",
    ]


def test_verdicts_are_counted_by_part() -> None:
    def row(file: str, status: Status, date: str) -> dict[str, Any]:
        return {"file": file, "status": status, "seconds": 1.5, "date": date}

    parts = count_by_part(
        {
            "a-b": row("text_gym/envs/x/y.py", "caught", "2026-01-02"),
            "a-c": row("agents/sampling/x.py", "survived", "2026-01-02"),
            "a-d": row("agents/y.py", "caught", "2026-01-01"),
        }
    )
    counts = {
        "planted": 2,
        "caught": 1,
        "survived": 1,
        "equivalent": 0,
        "suspect": 0,
        "broken": 0,
        "skipped": 0,
    }
    assert list(parts) == ["agents", "text_gym/envs"]
    assert parts["agents"] == {**counts, "seconds": 3.0, "date": "2026-01-01"}


def test_the_exit_status_is_1_unless_all_are_caught_or_equivalent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = MUTANTS[0].name
    monkeypatch.setattr("sys.argv", ["tests.mutants", name])
    for status in get_args(Status):
        verdict = Verdict(name, "x.py", status, "a reason", 1.0)
        monkeypatch.setattr(program, "run_gate", lambda *_, verdict=verdict, **__: [verdict])
        assert program.main() == (status not in ("caught", "equivalent", "skipped"))
        shown = capsys.readouterr().out
        assert f"1 {status}" in shown
        assert (f"{name}: a reason" in shown) == (status != "caught")
