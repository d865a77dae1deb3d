from __future__ import annotations

import json
import random
import shutil
import sqlite3
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from text_gym.cli.main import main
from text_gym.errors import LabelError, StoreError
from text_gym.reward_models import LabelStore
from text_gym.reward_models.labels.database import LABEL_COLUMNS, row_digest
from text_gym.reward_models.labels.formats import export_labels, import_labels
from text_gym.reward_models.labels.questions import Question
from text_gym.reward_models.page.reward import WebReward
from text_gym.reward_models.people.human import HumanRater
from text_gym.runs.preferences import read_preferences
from text_gym.tasks.task import load_task

COLUMNS = {
    "labels": (
        "kind",
        "id",
        "rater",
        "answer",
        "latency",
        "policy",
        "time",
        "key",
        "previous",
        "hash",
        "item",
    ),
    "items": ("id", "kind", "criteria", "policy", "priority", "digest"),
    "texts": ("text",),
}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed store of all kinds of rows."""
    path = tmp_path_factory.mktemp("audit") / "labels.db"
    rng = random.Random(0)
    with LabelStore(path) as store:
        asked = [Question.rating(f"prompt {i}", f"text {i} " + "x" * 50) for i in range(30)]
        asked += [Question.comparison(f"prompt {i}", "left", f"right {i}") for i in range(10)]
        store.put(asked, policy="first", overlap=2)
        for rater in ("ada", "bob"):
            for n in range(30):
                item = store.claim(rater)
                assert item is not None
                if n % 7 == 3:
                    store.skip(item.id, rater)
                    continue
                values = {f.name: rng.choice(f.options).value for f in item.question.fields}
                store.record(item.id, rater, values, latency=rng.uniform(1, 9), at=1e9 + n)
                if n % 5 == 4:
                    store.undo(rater)
    return path


def content(path: Path) -> list[Any]:
    """Everything that anybody could read from a store, by plain SQL."""
    connection = sqlite3.connect(path)
    connection.text_factory = bytes
    try:
        return [
            connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
            for table in ("labels", "items", "texts", "active")
        ]
    finally:
        connection.close()


def tampered(path: Path, folder: Path, change: Callable[[sqlite3.Connection], object]) -> LabelStore:
    copy = folder / "changed.db"
    shutil.copy(path, copy)
    connection = sqlite3.connect(copy)
    connection.execute("DROP TRIGGER no_update")
    connection.execute("DROP TRIGGER no_delete")
    change(connection)
    connection.commit()
    connection.close()
    return LabelStore(copy, check=False)


def test_a_good_store_is_good(filled: Path) -> None:
    with LabelStore(filled) as store:
        row, head = store.head
        found = store.verify()
        assert (found.rows, found.items, found.head) == (row, 40, head)
        middle = list(store.labels(all_rows=True))[20].hash
        assert store.verify(middle).rows == row
        with pytest.raises(StoreError, match="no row has the hash"):
            store.verify("0" * 63 + "1")


def flipped(value: Any, rng: random.Random) -> Any:
    """The value with one of its bits turned, as SQLite would read it."""
    if isinstance(value, float):
        bits = bytearray(struct.pack(">d", value))
        bits[rng.randrange(8)] ^= 1 << rng.randrange(8)
        (other,) = struct.unpack(">d", bits)
        return other if other != value else value + 1.0  # SQLite has no -0.0
    if isinstance(value, int):
        return value ^ (1 << rng.randrange(5))
    bits = bytearray(value)
    bits[rng.randrange(len(bits))] ^= 1 << rng.randrange(8)
    return bytes(bits)


def check_one_flip_in_a_value(filled: Path, folder: Path, seed: int) -> None:
    rng = random.Random(seed)
    table = rng.choice(["labels", "labels", "items", "texts"])
    column = rng.choice(COLUMNS[table])
    place: list[int] = []

    def change(connection: sqlite3.Connection) -> None:
        connection.text_factory = bytes
        rows = connection.execute(
            f"SELECT rowid, {column} FROM {table} WHERE length({column}) > 0"
        ).fetchall()
        rowid, value = rng.choice(rows)
        new = flipped(value, rng)
        text = isinstance(value, bytes) and column not in ("rater", "policy", "key", "text")
        cast = "CAST(? AS TEXT)" if text else "?"
        connection.execute(f"UPDATE {table} SET {column} = {cast} WHERE rowid = ?", (new, rowid))
        if table == "labels":
            place.append(rowid)
            return
        query = "SELECT item FROM texts WHERE rowid = ?" if table == "texts" else "SELECT ?"
        (number,) = connection.execute(query, (rowid,)).fetchone()
        place.extend(r for (r,) in connection.execute("SELECT row FROM labels WHERE item = ?", (number,)))

    with tampered(filled, folder, change) as store:
        with pytest.raises(StoreError) as error:
            store.verify()
        expected = min(place, default=None)
        assert error.value.row == expected, (table, column, str(error.value))
        assert "row" in str(error.value) or expected is None


def test_a_flipped_bit_in_a_value_is_named_by_its_row(filled: Path, tmp_path: Path) -> None:
    for seed in range(60):
        check_one_flip_in_a_value(filled, tmp_path, seed)


@pytest.mark.nightly
def test_a_thousand_flipped_bits_in_values(filled: Path, tmp_path: Path, tried: Callable[..., None]) -> None:
    for seed in range(1_000):
        check_one_flip_in_a_value(filled, tmp_path, seed)
    tried(
        "`text-gym labels verify` names the row of a label in which one bit is turned", 1_000, "turned bits"
    )


def flips_in_the_file(filled: Path, folder: Path, count: int) -> dict[str, int]:
    """Turn one bit anywhere in the file: reported, or nothing that can be read has changed."""
    clean, raw = content(filled), filled.read_bytes()
    rng = random.Random(count)
    found = {"row named": 0, "error named": 0, "unused byte": 0}
    path = folder / "flipped.db"
    for _ in range(count):
        damaged = bytearray(raw)
        damaged[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            with LabelStore(path) as store:
                store.verify()
        except StoreError as error:
            found["error named" if error.row is None else "row named"] += 1
        else:
            assert content(path) == clean
            found["unused byte"] += 1
        for rest in folder.glob("flipped.db*"):
            rest.unlink()
    return found


@pytest.mark.parametrize("count", [60, pytest.param(1_000, marks=pytest.mark.nightly)])
def test_a_flipped_bit_in_the_file_never_changes_a_label_unseen(
    filled: Path, tmp_path: Path, count: int
) -> None:
    found = flips_in_the_file(filled, tmp_path, count)
    print(found)
    assert found["row named"] > count // 5


@pytest.mark.parametrize(
    ("statement", "row", "problem"),
    [
        ("DELETE FROM labels WHERE row = 7", 7, "missing"),
        ("DELETE FROM labels WHERE row > 50", 51, "missing"),
        ("DELETE FROM labels", 1, "missing"),
        ("UPDATE labels SET rater = CAST('eve' AS BLOB) WHERE row = 3", 3, "does not match its hash"),
        ("UPDATE texts SET text = CAST('better' AS BLOB) WHERE item = 2 AND position = 1", 2, "altered"),
        ("DELETE FROM texts WHERE item = 40", None, "altered"),
        ("DELETE FROM items WHERE number = 3", 3, "missing"),
        ("DELETE FROM items WHERE number = 40", None, "questions were written"),
        ("UPDATE items SET overlap = 9 WHERE number = 40", None, "digest"),
        ("DELETE FROM active WHERE row = 10", 10, "queue"),
        ("INSERT INTO active VALUES (40, CAST('eve' AS BLOB), 5)", 5, "queue"),
        ("UPDATE items SET answers = answers + 1 WHERE number = 2", None, "counts"),
    ],
)
def test_edits_are_named(filled: Path, tmp_path: Path, statement: str, row: int | None, problem: str) -> None:
    with tampered(filled, tmp_path, lambda connection: connection.execute(statement)) as store:
        with pytest.raises(StoreError, match=problem) as error:
            store.verify()
        assert error.value.row == row
    with pytest.raises(StoreError, match=problem) as error:
        LabelStore(tmp_path / "changed.db")
    assert error.value.row == row


@pytest.mark.parametrize(
    ("statement", "row", "problem"),
    [
        ("UPDATE labels SET answer = '{\"accuracy\": 5}' WHERE row = 2", 2, "does not match its hash"),
        ("UPDATE labels SET rater = CAST(x'ff' AS BLOB) WHERE row = 9", 9, "does not match its hash"),
        ("UPDATE items SET answers = 0 WHERE number = 2", None, "counts 0 answers"),
    ],
)
def test_every_reader_refuses_what_was_edited(
    filled: Path,
    tmp_path: Path,
    statement: str,
    row: int | None,
    problem: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tampered(filled, tmp_path, lambda connection: connection.execute(statement)).close()
    check_that_readers_refuse(filled, tmp_path / "changed.db", row, problem, capsys)


def check_that_readers_refuse(
    filled: Path, path: Path, row: int | None, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command and every part of the library that reads labels names the row and writes nothing."""
    (good := path.with_name("good.jsonl")).write_text("")
    out, store = path.with_name("out"), ["--store", str(path)]
    commands: list[list[str]] = [
        ["labels", "stats", *store],
        ["labels", "export", str(out), *store],
        ["labels", "export", str(out), "--form", "pairs", *store],
        ["labels", "import", str(good), *store],
        ["labels", "merge", str(path), "--out", str(out)],
        ["labels", "merge", "--out", str(path), str(filled)],
        ["label", *store],
        ["label", "--web", "--port", "0", *store],
    ]
    for words in commands:
        assert main(words) == 2, words
        said = capsys.readouterr()
        assert problem in said.err, words
        assert row is None or f"row {row}: " in said.err
        assert "Traceback" not in said.err
        assert not out.exists()
    readers: list[Callable[[], object]] = [
        lambda: LabelStore(path),
        lambda: HumanRater(path).store,
        lambda: WebReward(path),
        lambda: read_preferences(path, load_task("products")),
    ]
    for read in readers:
        with pytest.raises(StoreError, match=problem) as error:
            read()
        assert error.value.row == row


def rewritten(connection: sqlite3.Connection, row: int) -> None:
    """Change an answer, and the row's own hash with it."""
    columns = connection.execute(f"SELECT {LABEL_COLUMNS} FROM labels WHERE row = ?", (row,)).fetchone()
    values = json.loads(columns[5])
    other = {name: value % 5 + 1 for name, value in values.items()}
    columns = (*columns[:5], json.dumps(other), columns[6] + 1.0, *columns[7:])
    connection.execute(
        "UPDATE labels SET answer = ?, latency = ?, hash = ? WHERE row = ?",
        (*columns[5:7], row_digest(columns), row),
    )


def test_a_row_rewritten_with_its_own_hash_is_found_by_the_next(
    filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tampered(filled, tmp_path, lambda connection: rewritten(connection, 2)) as store:
        with pytest.raises(StoreError, match="does not follow") as error:
            list(store.labels())
        assert error.value.row == 3
    check_that_readers_refuse(filled, tmp_path / "changed.db", 3, "does not follow", capsys)


def test_the_last_row_rewritten_is_found_by_a_hash_noted_elsewhere(filled: Path, tmp_path: Path) -> None:
    """Rows are chained, not signed: without the hash, nothing in the file tells."""
    with LabelStore(filled) as store:
        row, head = store.head
    with tampered(filled, tmp_path, lambda connection: rewritten(connection, row)) as store:
        store.verify()
        with pytest.raises(StoreError, match="no row has the hash"):
            store.verify(head)


def test_what_is_altered_while_a_store_is_open_is_found_when_it_is_read(filled: Path, tmp_path: Path) -> None:
    path = tmp_path / "live.db"
    shutil.copy(filled, path)
    with LabelStore(path) as store:
        labels = list(store.labels())
        other = sqlite3.connect(path)
        other.executescript("DROP TRIGGER no_update; DROP TRIGGER no_delete")
        rewritten(other, labels[0].row)
        other.execute("UPDATE texts SET text = CAST('better' AS BLOB) WHERE item = 35 AND position = 1")
        other.commit()
        question = other.execute("SELECT id FROM items WHERE number = 35").fetchone()[0]
        other.close()
        readers: list[Callable[[], object]] = [
            lambda: list(store.labels()),
            lambda: list(store.items()),
            lambda: store.item(question),
            lambda: store.claim("eve", [question]),
            lambda: store.standing([labels[0].item]),
            lambda: store.undo("ada", [labels[0].item], key=labels[0].key),
            lambda: export_labels(store, tmp_path / "out"),
        ]
        for read in readers:
            with pytest.raises((StoreError, LabelError)):
                read()
        assert not (tmp_path / "out").exists()
        assert store.standing([labels[-1].item])


def test_the_rows_before_the_bad_one_can_be_saved(
    filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tampered(filled, tmp_path, lambda connection: rewritten(connection, 30)).close()
    out = tmp_path / "out.jsonl"
    words = ["labels", "export", str(out), "--store", str(tmp_path / "changed.db")]
    assert main(words) == 2
    assert "--before 31" in capsys.readouterr().err
    assert main([*words, "--before", "30"]) == 0
    with LabelStore(filled) as store, LabelStore(tmp_path / "saved.db") as saved:
        import_labels(saved, out)
        before = list(store.labels(all_rows=True))[:29]
        assert [label.key for label in saved.labels(all_rows=True)] == [label.key for label in before]


def test_a_check_while_others_write_is_of_one_moment(tmp_path: Path) -> None:
    """A row that comes between reading the rows and reading the counters is no sign of damage."""
    with LabelStore(tmp_path / "labels.db") as store, LabelStore(tmp_path / "labels.db") as other:
        ids = store.put([Question.comparison("p", "a", f"b{i}") for i in range(120)])
        for item in ids[:60]:
            other.record(item, "ada", {"preference": "left"})
        stop = threading.Event()

        def write() -> None:
            for item in ids[60:]:
                if not stop.is_set():
                    other.record(item, "ada", {"preference": "right"})

        writer = threading.Thread(target=write)
        writer.start()
        try:
            rows = [store.verify().rows for _ in range(8)]
        finally:
            stop.set()
            writer.join()
        assert rows == sorted(rows)
        assert rows[-1] > rows[0], "nothing was written meanwhile"


def test_rows_cannot_be_changed_by_accident(filled: Path, tmp_path: Path) -> None:
    shutil.copy(filled, tmp_path / "copy.db")
    connection = sqlite3.connect(tmp_path / "copy.db")
    for statement in ("UPDATE labels SET latency = 1", "DELETE FROM labels"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            connection.execute(statement)
    connection.close()


def test_a_row_that_was_rewritten_with_its_own_hash_is_betrayed_by_the_next(
    filled: Path, tmp_path: Path
) -> None:
    names = LABEL_COLUMNS.split(", ")

    def rewrite(connection: sqlite3.Connection) -> None:
        (row,) = connection.execute(f"SELECT {LABEL_COLUMNS} FROM labels WHERE row = 5").fetchall()
        forged = [b"eve" if name == "rater" else value for name, value in zip(names, row, strict=True)]
        connection.execute(
            "UPDATE labels SET rater = ?, hash = ? WHERE row = 5", (b"eve", row_digest(tuple(forged)))
        )

    with tampered(filled, tmp_path, rewrite) as store:
        with pytest.raises(StoreError, match="does not follow the row before") as error:
            store.verify()
        assert error.value.row == 6
