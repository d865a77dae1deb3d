from __future__ import annotations

import io
import json
import sqlite3
from pathlib import Path

import pytest

from text_gym.cli.main import main
from text_gym.reward_models import LabelStore
from text_gym.reward_models.labels.questions import Question
from text_gym.reward_models.labels.rows import Item


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": "p", "completion": text} for text in ("a", "bb", "ccc")]
    rows.append({"prompt": "q", "completion": "d"})
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path


class Input(io.TextIOWrapper):
    """Lines on a pipe."""

    def __init__(self, text: str) -> None:
        super().__init__(io.BytesIO(text.encode()))


def run(monkeypatch: pytest.MonkeyPatch, typed: str, *arguments: str) -> int:
    monkeypatch.setattr("sys.stdin", Input(typed))
    return main(list(arguments))


def test_labelling_over_a_pipe_and_going_on(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = ("label", "--data", "texts.jsonl", "--rater", "ada", "--policy", "v1")
    assert run(monkeypatch, "1 1 1\nskip\n", *begin) == 0
    assert "answers saved: 2, questions left: 2" in capsys.readouterr().out
    assert run(monkeypatch, "3 3 3\n4\n4\n4\n", "label", "--rater", "ada") == 0
    assert "questions left: 0" in capsys.readouterr().out
    assert run(monkeypatch, "", "label", "--rater", "ada") == 0
    assert "no question in labels.db waits for ada" in capsys.readouterr().out
    with LabelStore("labels.db", create=False) as store:
        assert [x.values["clarity"] for x in store.labels()] == [1, 3, 4]
        assert {x.policy for x in store.labels()} == {"v1"}


def test_what_is_asked(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ("label", "--data", "texts.jsonl", "--rater", "ada")
    run(monkeypatch, "", *data, "--store", "a.db", "--criteria", "clarity", "charm", "--scale", "7")
    with LabelStore("a.db") as store:
        (first, *_) = (i.question for i in store.items())
        assert [(c.name, c.high, bool(c.guideline)) for c in first.criteria] == [
            ("clarity", 7, True),
            ("charm", 7, False),
        ]
    run(monkeypatch, "", *data, "--store", "b.db", "--kind", "comparison", "--overlap", "2")
    with LabelStore("b.db") as store:
        (item,) = store.items()  # three texts of one prompt make one pair, and q has a single text
        assert item.overlap == 2
        assert set(item.question.completions) < {"a", "bb", "ccc"}
    run(monkeypatch, "", *data, "--store", "c.db", "--kind", "best-of-n")
    with LabelStore("c.db") as store:
        assert [sorted(i.question.completions) for i in store.items()] == [["a", "bb", "ccc"]]


def test_sides_are_shuffled_by_the_seed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"prompt": f"p{i}", "chosen": "good", "rejected": "bad"} for i in range(60)]
    (here / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    sides = []
    for store_name, seed in (("a.db", "0"), ("b.db", "0"), ("c.db", "1")):
        arguments = ("--kind", "comparison", "--data", "pairs.jsonl", "--store", store_name, "--seed", seed)
        run(monkeypatch, "", "label", *arguments)
        with LabelStore(store_name) as store:
            sides.append([i.question.completions[0] for i in store.items()])
    assert sides[0] == sides[1] != sides[2]
    assert 18 < sides[0].count("good") < 42  # within 3 standard deviations of 30


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('{"prompt": "p", "text": "a"}', "completion"),
        ('{"prmpt": "p", "completion": "a"}', "prompt"),
        ('{"prompt": "p", "completion": 5}', "must be texts"),
        ("nonsense", "not JSON"),
    ],
)
def test_files_that_cannot_be_asked_about(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rows: str,
    message: str,
) -> None:
    (here / "bad.jsonl").write_text(rows)
    assert run(monkeypatch, "", "label", "--data", "bad.jsonl") == 2
    assert message in capsys.readouterr().err
    assert not (here / "labels.db").exists()


def test_stats_verify_export_import(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("krippendorff")
    for rater, marks in (("ada", "1 2 3\n" * 4), ("bob", "1 2 4\n2 2 3\n" * 2)):
        run(monkeypatch, marks, "label", "--data", "texts.jsonl", "--overlap", "2", "--rater", rater)
    capsys.readouterr()
    assert main(["labels", "stats", "--out", "stats.json", "--figure", "stats.png"]) == 0
    shown = capsys.readouterr().out
    assert "8 labels stand (8 rating), in 8 rows; 0 questions wait" in shown
    assert "Krippendorff's alpha, rating/clarity: unknown" in shown  # all the same
    stats = json.loads((here / "stats.json").read_text())
    assert [r["rater"] for r in stats["raters"]] == ["ada", "bob"]
    assert (here / "stats.png").exists()
    assert main(["labels", "verify", "--head", "0" * 63 + "1"]) == 2
    assert "no row has the hash" in capsys.readouterr().err
    assert main(["labels", "verify", "--head", stats["head"]]) == 0
    assert "8 rows and 4 questions are good" in capsys.readouterr().out
    assert main(["labels", "export", "out.jsonl"]) == 0
    assert main(["labels", "import", "out.jsonl", "--store", "copy.db"]) == 0
    assert "8 rows added to copy.db, 0 there already" in capsys.readouterr().out
    (here / "one.jsonl").write_text((here / "out.jsonl").read_text().splitlines()[0])
    assert main(["labels", "import", "one.jsonl", "--store", "one.db"]) == 0
    assert main(["labels", "stats", "--store", "one.db"]) == 0
    shown = capsys.readouterr().out
    assert "1 row added to one.db, 0 there already" in shown
    assert "1 label stands (1 rating), in 1 row; 0 questions wait" in shown
    with LabelStore("copy.db") as copy:
        assert copy.head[1] == stats["head"]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "completion": "a", "clarity": 4},
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"fields": {"prompt": "p", "text_1": "a"}, "metadata": {}, "responses": {}},
        {"data": {"prompt": "p"}, "annotations": []},
    ],
)
def test_importing_rows_of_others_says_where_they_belong(
    here: Path, capsys: pytest.CaptureFixture[str], row: dict[str, object]
) -> None:
    (here / "foreign.jsonl").write_text(json.dumps(row))
    assert main(["labels", "import", "foreign.jsonl", "--store", "new.db"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "foreign.jsonl, row 1: not a label: it has no '" in said
    assert "reads files of `labels export`" in said
    assert "`reward train --ratings` or `--pairs`" in said
    assert not list(here.glob("new.db*"))


def test_verify_fails_by_its_exit_status(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "1 1 1\n2 2 2\n", "label", "--data", "texts.jsonl", "--rater", "ada")
    connection = sqlite3.connect("labels.db")
    connection.execute("DROP TRIGGER no_update")
    connection.execute("UPDATE labels SET answer = replace(answer, 2, 5) WHERE row = 2")
    connection.commit()
    connection.close()
    assert main(["labels", "verify"]) == 2
    assert "row 2: its content does not match its hash" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["stats"], ["verify"], ["export", "x.jsonl"]])
def test_a_store_that_is_not_there_is_not_made(
    here: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert main(["labels", *command]) == 2
    assert "there is no label store at labels.db" in capsys.readouterr().err
    assert not (here / "labels.db").exists()


def test_merge(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for rater, mark in (("ada", "1"), ("bob", "2")):
        arguments = ("--data", "texts.jsonl", "--store", f"{rater}.db", "--rater", rater)
        run(monkeypatch, f"{mark} {mark} {mark}\n" * 4, "label", *arguments)
    capsys.readouterr()
    assert main(["labels", "merge", "ada.db", "bob.db", "--out", "class.db"]) == 0
    shown = capsys.readouterr().out
    assert "8 rows added to class.db, 0 there already\n4 questions; raters: ada, bob\nhead " in shown
    assert main(["labels", "merge", "ada.db", "bob.db", "--out", "class.db"]) == 0
    assert "0 rows added to class.db, 8 there already" in capsys.readouterr().out
    assert main(["labels", "merge", "ada.db", "--out", "hidden.db", "--anonymous"]) == 0
    shown = capsys.readouterr().out
    assert "ada" not in shown
    assert "keep hidden.db.secret to yourself" in shown
    assert main(["labels", "merge", "no.db", "--out", "class.db"]) == 2
    assert "there is no label store at no.db" in capsys.readouterr().err


def test_conversations_are_asked_about_whole_or_turn_by_turn(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talks = [[("user", "Hi"), ("assistant", a), ("user", "So?"), ("assistant", b)] for a, b in ("xy", "xz")]
    rows = [{"messages": [{"role": r, "content": t} for r, t in talk]} for talk in talks]
    (here / "talks.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    data = ("label", "--data", "talks.jsonl", "--rater", "ada", "--kind")
    found = {}
    for name, more in {
        "whole": ("rating",), "turns": ("rating", "--per-turn"),
        "pair": ("comparison",), "turn-pair": ("comparison", "--per-turn"),
    }.items():  # fmt: skip
        run(monkeypatch, "", *data, *more, "--store", f"{name}.db")
        with LabelStore(f"{name}.db") as store:
            found[name] = [
                (len(q.turns[0]), [t[-1][1] for t in q.turns[1:]]) for q in map(_question, store.items())
            ]
    assert found["whole"] == [(1, ["y"]), (1, ["z"])]
    assert found["turns"] == [(1, ["x"]), (3, ["y"]), (3, ["z"])]  # the same turn is asked about once
    assert [(n, sorted(texts)) for n, texts in found["pair"]] == [(1, ["y", "z"])]
    assert [(n, sorted(texts)) for n, texts in found["turn-pair"]] == [(3, ["y", "z"])]
    assert run(monkeypatch, "", "label", "--data", "texts.jsonl", "--per-turn") == 2
    assert "single texts, which have no turns; leave --per-turn out" in capsys.readouterr().err


def _question(item: Item) -> Question:
    return item.question


def test_a_mistyped_store_is_told_and_not_made(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "1 2 3\n" * 4, "label", "--data", "texts.jsonl", "--store", "ada.db")
    for more in ((), ("--web",)):
        assert run(monkeypatch, "", "label", "--store", "add.db", *more) == 2
        assert "there is no label store at add.db; did you mean 'ada.db'?" in capsys.readouterr().err
    assert not (here / "add.db").exists()


@pytest.mark.parametrize(
    "words",
    [
        "labels export labels.db",
        "labels stats --out labels.db",
        "play --as user --task guess --policy p --out labels.db",
    ],
)
def test_no_command_writes_over_a_label_store(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    run(monkeypatch, "1 2 3\n" * 4, "label", "--data", "texts.jsonl")
    (here / "p").mkdir()
    (here / "p" / "config.json").write_text("{}")
    assert main(words.split()) == 2
    assert "labels.db is a database, such as a label store" in capsys.readouterr().err
    with LabelStore("labels.db", create=False) as store:
        assert len(list(store.labels())) == 4
