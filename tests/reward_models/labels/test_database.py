from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from text_gym.errors import NotSavedError, StoreError
from text_gym.reward_models import LabelStore
from text_gym.reward_models.labels.database import VERSION, Database, row_digest
from text_gym.reward_models.labels.questions import Question

GOOD = {"accuracy": 4, "clarity": 5, "persuasiveness": 2}


def test_the_settings_are_those_that_survive_a_kill(tmp_path: Path) -> None:
    database = Database(tmp_path / "labels.db")
    found = {name: database.read(f"PRAGMA {name}")[0][0] for name in ("journal_mode", "synchronous")}
    assert found == {"journal_mode": "wal", "synchronous": 2}
    database.close()
    assert [f.name for f in tmp_path.iterdir()] == ["labels.db"]  # the log was folded in


def test_a_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    database = Database(tmp_path / "labels.db")

    def fail() -> None:
        with database.write() as run:
            run("INSERT INTO leases VALUES (1, CAST('ada' AS BLOB), 0.0)")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert database.read("SELECT COUNT(*) FROM leases") == [(0,)]


def test_the_digest_takes_text_as_utf8() -> None:
    assert row_digest((1, "é", None)) == row_digest((1, "é".encode(), None))
    assert row_digest((1, "é", None)) != row_digest((1, "é", 0))


@pytest.mark.parametrize("content", [b"not a database, but long enough to look at" * 10, b"\0" * 4096])
def test_other_files_are_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="not a database"):
        LabelStore(path)
    assert path.read_bytes() == content


def test_databases_of_other_programs_are_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE labels (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        LabelStore(path)
    assert path.read_bytes() == before


def test_an_empty_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    path.touch()
    for create in (True, False):
        with pytest.raises(StoreError, match=r"0 bytes"):
            LabelStore(path, create=create)
    assert path.read_bytes() == b""
    assert [f.name for f in tmp_path.iterdir()] == ["labels.db"]


def test_a_new_store_is_never_seen_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process that opens it at any moment finds all of it or nothing."""
    path = tmp_path / "labels.db"
    seen = []
    real = os.link

    def link(*names: Any) -> None:
        seen.append(path.exists())
        real(*names)
        seen.append(path.stat().st_size > 0)

    monkeypatch.setattr(os, "link", link)
    LabelStore(path).close()
    assert seen == [False, True]
    assert [f.name for f in tmp_path.iterdir()] == ["labels.db"]


def test_without_links_the_tables_are_made_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*names: Any) -> None:
        raise OSError("this file system has no links")

    monkeypatch.setattr(os, "link", link)
    with LabelStore(tmp_path / "labels.db") as store:
        store.put([Question.rating("p", "c")])
    assert [f.name for f in tmp_path.iterdir()] == ["labels.db"]


def test_a_copy_of_the_file_alone_has_what_people_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is open, or its process was killed: its log lies beside it and is forgotten."""
    monkeypatch.setattr("text_gym.reward_models.labels.database._PACE", 0.0)
    with LabelStore(tmp_path / "labels.db") as store:
        ids = store.put([Question.rating("p", f"c{i}") for i in range(5)])
        for number, item in enumerate(ids, 1):
            store.record(item, "ada", GOOD)
            shutil.copy(store.path, tmp_path / "copy.db")
            with LabelStore(tmp_path / "copy.db") as copy:
                assert copy.head == store.head
                assert copy.verify().rows == number


def test_a_newer_version_is_named(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    LabelStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    with pytest.raises(StoreError, match=f"version {VERSION + 1}.*newer text-gym"):
        LabelStore(path)


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="unable to open"):
        LabelStore(tmp_path)


def test_waiting_for_another_process_ends(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    store = LabelStore(path, wait=0.1)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(NotSavedError, match="locked"):
        store.put([Question.rating("p", "c")])
    other.execute("ROLLBACK")
    store.put([Question.rating("p", "c")])
    other.close()


FILL = """
import resource, sys
from text_gym.errors import NotSavedError
from text_gym.reward_models import LabelStore
from text_gym.reward_models.labels.questions import Question
store = LabelStore(sys.argv[1])
ids = store.put([Question.rating(f"p{i}", "x" * 200) for i in range(400)])
size = store.path.with_name(store.path.name + "-wal").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 500_000, resource.RLIM_INFINITY))
saved = 0
try:
    for i in ids:
        store.record(i, "ada", {"accuracy": 1, "clarity": 1, "persuasiveness": 1}, key=i)
        print(i, flush=True)
except NotSavedError as error:
    print("not saved" in str(error), flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    store.record(i, "ada", {"accuracy": 1, "clarity": 1, "persuasiveness": 1}, key=i)  # there is room again
    print(i, flush=True)
"""


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    done = subprocess.run(
        [sys.executable, "-c", FILL, str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    told = done.stdout.split()
    assert "True" in told
    told.remove("True")
    assert 5 < len(told) < 400
    with LabelStore(path) as store:
        assert [label.key for label in store.labels()] == told
        store.verify()


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="nothing is read-only for root")
def test_a_read_only_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    LabelStore(path).close()
    path.chmod(0o400)
    with pytest.raises((NotSavedError, StoreError)):
        LabelStore(path).put([Question.rating("p", "c")])


def test_a_failing_commit_is_told_and_can_be_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that answers with an error once: the connection's COMMIT is replaced."""
    store = LabelStore(tmp_path / "labels.db")
    (item,) = store.put([Question.rating("p", "c")])
    real = store._database._connection

    class Failing:
        """The connection, whose next COMMIT fails."""

        in_transaction = True
        left = 1

        def execute(self, statement: str, *parameters: object) -> object:
            if statement == "COMMIT" and self.left:
                self.left -= 1
                raise sqlite3.OperationalError("disk I/O error")
            return real.execute(statement, *parameters)  # type: ignore[arg-type]

    monkeypatch.setattr(store._database, "_connection", Failing())
    with pytest.raises(NotSavedError, match="disk I/O error"):
        store.record(item, "ada", GOOD, key="k")
    assert store.head[0] == 0
    store.record(item, "ada", GOOD, key="k")
    assert store.head[0] == 1
