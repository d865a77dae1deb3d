from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from text_gym import ByteTokenizer, Episode, Prompt
from text_gym.data import read_rows
from text_gym.errors import ConfigError, DataError, UnknownNameError
from text_gym.reward_models import LabelStore
from text_gym.reward_models.labels.formats import FORMS, export_labels, import_labels, pairs, ratings
from text_gym.reward_models.labels.questions import PREFERENCE, LabelCriterion, Question
from text_gym.reward_models.learned.ngrams import NgramModel
from text_gym.reward_models.preferences.files import read_pairs, read_ratings

STRANGE = 'a\0\ud83d\ude00\udcff"\n\u2028é'


def fill(path: Path, strange: str = STRANGE) -> LabelStore:
    store = LabelStore(path)
    rating, skipped, undone = store.put(
        [Question.rating("Sell a mug.", text) for text in ("A mug!", strange, "b")]
    )
    side, tie = store.put([Question.comparison("p", "a", "b"), Question.comparison("p", "c", "d")])
    (best,) = store.put([Question.best_of_n("q", "xyz")], policy="round 2")
    marks = {"accuracy": 5, "clarity": 4, "persuasiveness": 3}
    store.record(rating, "ada", marks, latency=2.5, at=1e9)
    store.record(rating, "bob", {**marks, "clarity": 1}, latency=1.5, at=2e9)
    store.skip(skipped, "ada")
    store.record(undone, "ada", marks)
    store.undo("ada")
    store.record(side, "ada", {"preference": "right"})
    store.record(tie, "ada", {"preference": "tie"})
    store.record(best, strange, {"preference": 2})
    return store


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    return fill(tmp_path / "labels.db")


def known(store: LabelStore) -> list[Any]:
    """All that a copy must have in common with the original."""
    return [
        (x.kind, x.question, x.rater, dict(x.values), str(x.latency), x.policy, x.time, x.key, x.undoes)
        for x in store.labels(all_rows=True)
    ]


def test_json_lines_give_back_every_row_exactly(store: LabelStore, tmp_path: Path) -> None:
    assert export_labels(store, tmp_path / "labels.jsonl") == 8
    with LabelStore(tmp_path / "copy.db") as copy:
        assert import_labels(copy, tmp_path / "labels.jsonl") == (8, 0)
        assert known(copy) == known(store)
        assert copy.head == store.head  # nothing differs, so the hashes are the same
        assert import_labels(copy, tmp_path / "labels.jsonl") == (0, 8)
        copy.verify()


def test_importing_into_a_store_that_has_others(store: LabelStore, tmp_path: Path) -> None:
    export_labels(store, tmp_path / "labels.jsonl")
    with fill(tmp_path / "other.db", "another") as other:
        with pytest.raises(DataError, match=r"row 1: not a label.*undo that first"):
            import_labels(other, tmp_path / "labels.jsonl")  # the same raters answered the same questions
        other.verify()


@pytest.mark.parametrize("form", ["argilla", "label-studio"])
def test_other_programs_files_come_back(store: LabelStore, tmp_path: Path, form: str) -> None:
    file = tmp_path / "labels.json"
    assert export_labels(store, file, form) == 4  # questions with an answer that stands
    with LabelStore(tmp_path / "copy.db") as copy:
        assert import_labels(copy, file) == (5, 0)
        plain = [x for x in known(store) if x[0] not in ("skip", "undo") and x[2] != STRANGE]
        found = [x for x in known(copy) if x[2] in ("ada", "bob")]
        assert [x[:7] for x in found] == [x[:7] for x in plain if x[1].completions != ("b",)]
        assert import_labels(copy, file) == (0, 5)


def test_ratings_have_trls_columns_and_our_own_reader_takes_them(tmp_path: Path) -> None:
    with fill(tmp_path / "labels.db", "plain") as store:
        assert export_labels(store, tmp_path / "ratings.jsonl", "ratings") == 2
        assert read_ratings(tmp_path / "ratings.jsonl", ["clarity"]) != []
        first = read_rows(tmp_path / "ratings.jsonl")[0]
        assert (first["prompt"], first["completion"], first["accuracy"], first["rater"]) == (
            *("Sell a mug.", "A mug!", 5.0),
            "ada",
        )
        assert [r.values["clarity"] for r in ratings(store.labels())] == [4.0, 1.0]


def test_pairs_have_trls_columns_and_our_own_reader_takes_them(tmp_path: Path) -> None:
    with fill(tmp_path / "labels.db", "plain") as store:
        assert export_labels(store, tmp_path / "pairs.jsonl", "pairs") == 4
        found = [(p.prompt.text, p.chosen, p.rejected, p.tie) for p in read_pairs(tmp_path / "pairs.jsonl")]
        assert found == [
            ("p", "b", "a", False),
            ("p", "c", "d", True),
            ("q", "y", "x", False),
            ("q", "y", "z", False),
        ]
        assert len(pairs(store.labels(), "another criterion")) == 0


def test_parquet(store: LabelStore, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert export_labels(store, tmp_path / "labels.parquet", "parquet") == 5
    rows = parquet.read_table(tmp_path / "labels.parquet").to_pylist()
    assert [r["rater"] for r in rows[:2]] == ["ada", "bob"]
    assert json.loads(rows[0]["values"]) == {"accuracy": 5, "clarity": 4, "persuasiveness": 3}
    assert rows[-1]["completions"] == ["x", "y", "z"]
    assert rows[-1]["rater"].startswith("a\0\\ud83d\\ude00\\udcff")  # escaped: Parquet holds valid Unicode


@pytest.mark.parametrize("form", sorted(FORMS))
def test_an_empty_store_and_a_folder_that_is_not_there(tmp_path: Path, form: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    with LabelStore(tmp_path / "empty.db") as store:
        assert export_labels(store, tmp_path / "file", form) == 0
        before = sorted(f.name for f in tmp_path.iterdir())
        with pytest.raises(DataError, match="not written"):
            export_labels(store, tmp_path / "missing" / "file", form)
        assert sorted(f.name for f in tmp_path.iterdir()) == before


def test_a_store_is_never_written_over(store: LabelStore, tmp_path: Path) -> None:
    count, head = len(list(store.labels())), store.head
    for file in (store.path, tmp_path / "other.db"):
        LabelStore(file).close()
        with pytest.raises(ConfigError, match="is a database, such as a label store; write to another file"):
            export_labels(store, file)
    assert (len(list(store.labels())), store.head) == (count, head)
    with pytest.raises(ConfigError, match="not as a table"):
        export_labels(store, tmp_path / "labels.csv", "ratings")


def test_an_unknown_form_is_named(store: LabelStore, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="parquet"):
        export_labels(store, tmp_path / "file", "parket")


@pytest.mark.parametrize(
    "change",
    [
        {"values": {"accuracy": 9, "clarity": 4, "persuasiveness": 3}},
        {"rater": ""},
        {"rater": 5},
        {"prompt": {"utf8_base64": "!"}},
        {"criteria": []},
        {"question": "poll"},
        {"time": "noon"},
        {"latency_seconds": -5},
        {"kind": "poll"},
        {"kind": "undo", "key": "x"},
    ],
)
def test_rows_that_are_no_labels_are_named(store: LabelStore, tmp_path: Path, change: dict[str, Any]) -> None:
    export_labels(store, tmp_path / "labels.jsonl")
    lines = (tmp_path / "labels.jsonl").read_text().splitlines()
    lines[0] = json.dumps(json.loads(lines[0]) | change)
    (tmp_path / "labels.jsonl").write_text("\n".join(lines))
    with LabelStore(tmp_path / "copy.db") as copy:
        with pytest.raises(DataError, match=r"labels\.jsonl, row 1: not a label"):
            import_labels(copy, tmp_path / "labels.jsonl")
        assert copy.head[0] == 0


def test_nothing_of_a_file_is_in_if_any_row_makes_no_sense(store: LabelStore, tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    export_labels(store, file)
    lines = file.read_text().splitlines()
    values = {"accuracy": 9, "clarity": 4, "persuasiveness": 3}
    file.write_text("\n".join([*lines, json.dumps(json.loads(lines[0]) | {"key": "k", "values": values})]))
    with LabelStore(tmp_path / "copy.db") as copy:
        with pytest.raises(DataError, match=rf"row {len(lines) + 1}: not a label \('accuracy' is '9'"):
            import_labels(copy, file)
        assert copy.head[0] == 0
        assert list(copy.items()) == []


ASKED = (("user", "?"),)
SAID = [(("assistant", said), ("user", ">"), ("assistant", "7\udcff")) for said in ("4", "5")]


@pytest.fixture
def talks(tmp_path: Path) -> LabelStore:
    """A rating and a comparison of conversations, and a comparison of turns."""
    texts = ["".join(text for _, text in said) for said in SAID]
    store = LabelStore(tmp_path / "talks.db")
    ids = store.put(
        [
            Question("rating", "?", (texts[0],), (LabelCriterion("clear"),), (ASKED, SAID[0])),
            Question("comparison", "?", (texts[0], texts[1]), (PREFERENCE,), (ASKED, *SAID)),
            Question("comparison", "?", ("4", "5"), (PREFERENCE,), (ASKED, SAID[0][:1], SAID[1][:1])),
        ]
    )
    answers: list[dict[str, Any]] = [{"clear": 4}, *[{"preference": "right"}] * 2]
    for item, values in zip(ids, answers, strict=True):
        store.record(item, "ada", values)
    return store


@pytest.mark.parametrize("form", ["jsonl", "argilla", "label-studio"])
def test_conversations_come_back_with_their_turns(talks: LabelStore, tmp_path: Path, form: str) -> None:
    file = tmp_path / ("labels.jsonl" if form == "jsonl" else "labels.json")
    export_labels(talks, file, form)
    with LabelStore(tmp_path / "copy.db") as copy:
        assert import_labels(copy, file) == (3, 0)
        found = [(x.question.kind, x.question.turns[1][0]) for x in copy.labels()]
        assert found == [("rating", ("assistant", "4")), *[("comparison", ("assistant", "4"))] * 2]
        assert form != "jsonl" or copy.head == talks.head
        copy.verify()


def test_pairs_of_conversations_are_trls_and_come_back_exactly(talks: LabelStore, tmp_path: Path) -> None:
    export_labels(talks, tmp_path / "pairs.jsonl", "pairs")
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert rows[0]["prompt"] == [{"role": "user", "content": "?"}]
    assert rows[0]["chosen"][0] == {"role": "assistant", "content": "5"}
    assert [m["role"] for m in rows[0]["rejected"]] == ["assistant", "user", "assistant"]
    assert rows[0]["texts"]["chosen"] == "5>7\\udcff"  # a lone surrogate is written out
    assert rows[1]["chosen"] == [{"role": "assistant", "content": "5"}]
    whole, turn = read_pairs(tmp_path / "pairs.jsonl")
    assert (whole.prompt.text, whole.chosen, whole.rejected) == ("?", "5>7\\udcff", "4>7\\udcff")
    assert whole.turns[0] == ASKED
    assert (turn.chosen, turn.turns) == ("5", (ASKED, SAID[1][:1], SAID[0][:1]))


def test_ratings_of_conversations_train_a_reward_model_on_the_exact_texts(
    talks: LabelStore, tmp_path: Path
) -> None:
    export_labels(talks, tmp_path / "ratings.jsonl", "ratings")
    (rating,) = read_ratings(tmp_path / "ratings.jsonl", ["clear"])
    assert (rating.prompt.text, rating.completion) == ("?", "4>7\\udcff")
    assert [role for role, _ in rating.turns[1]] == ["assistant", "user", "assistant"]
    asked = [replace(rating, prompt=Prompt(f"{p}?"), completion=f"{n}>7", values={"clear": float(n)})
             for p in range(8) for n in range(1, 6)]  # fmt: skip
    model = NgramModel.fit(asked, ("clear",))
    low, high = model([Episode.of("?", f"{n}>7", ByteTokenizer()) for n in (1, 5)]).values
    assert low < high
