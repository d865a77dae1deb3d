from __future__ import annotations

import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from text_gym.errors import ConfigError, DataError, LabelError, StoreError
from text_gym.reward_models import LabelStore
from text_gym.reward_models.labels.merge import merge_labels
from text_gym.reward_models.labels.questions import LabelCriterion, Question

CLEAR = (LabelCriterion("clarity"),)
TEXTS = [Question.rating("p", text, CLEAR) for text in "abcd"]


def rated(path: Path, rater: str, marks: str, policy: str = "") -> Path:
    """A store in which somebody gave the texts these marks; `s` is a skip, `-` nothing."""
    with LabelStore(path) as store:
        for item, mark in zip(store.put(TEXTS, policy=policy), marks, strict=True):
            if mark == "s":
                store.skip(item, rater, at=5.0)
            elif mark != "-":
                store.record(item, rater, {"clarity": int(mark)}, latency=2.0, at=float(mark))
    return path


def standing(path: Path) -> Counter[tuple[str, str, int]]:
    """What stands: how often each rater gave each text each mark."""
    with LabelStore(path, create=False) as store:
        return Counter((x.rater, x.question.completions[0], int(x.values["clarity"])) for x in store.labels())


def test_questions_once_and_every_raters_labels(tmp_path: Path) -> None:
    a, b = rated(tmp_path / "a.db", "ada", "12s-"), rated(tmp_path / "b.db", "bob", "5432")
    out = tmp_path / "class.db"
    found = merge_labels([a, b], out)
    assert (found.added, found.known, found.questions, found.raters) == (7, 0, 4, ("ada", "bob"))
    assert standing(out) == standing(a) + standing(b)
    with LabelStore(out) as store, LabelStore(b) as other:
        assert store.verify().head == found.head
        assert [x.question.completions[0] for x in store.items()] == list("abcd")
        assert [x.answers for x in store.items()] == [2, 2, 1, 1]
        ours = {x.key: (x.time, x.latency, dict(x.values)) for x in store.labels()}
        for label in other.labels():
            assert ours[label.key] == (label.time, label.latency, dict(label.values))


def test_merging_again_adds_what_is_new(tmp_path: Path) -> None:
    a, b = rated(tmp_path / "a.db", "ada", "12--"), rated(tmp_path / "b.db", "bob", "5432")
    out = tmp_path / "class.db"
    head = merge_labels([a, b], out).head
    again = merge_labels([b, a, a], out)
    assert (again.added, again.known, again.head) == (0, 8, head)
    with LabelStore(a) as store:  # ada takes her second answer back, gives another, and goes on
        store.undo("ada")
        item = store.put(TEXTS)
        store.record(item[1], "ada", {"clarity": 4})
        store.record(item[2], "ada", {"clarity": 4})
    assert merge_labels([a, b], out).added == 3
    assert standing(out) == standing(a) + standing(b)
    with LabelStore(out) as store:
        store.verify(head)  # what was merged first is still the beginning of the chain


@settings(max_examples=10, deadline=None)
@given(
    marks=st.lists(st.text("12345s-", min_size=4, max_size=4), min_size=1, max_size=4),
    anonymous=st.booleans(),
)
def test_any_class_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, marks: list[str], anonymous: bool
) -> None:
    folder = tmp_path_factory.mktemp("class")
    stores = [rated(folder / f"{i}.db", f"rater {i}", row) for i, row in enumerate(marks)]
    out = folder / "class.db"
    merge_labels(stores[1:] or stores, out, anonymous=anonymous)
    merge_labels(stores, out, anonymous=anonymous)
    merge_labels(stores[::-1], out, anonymous=anonymous)
    wanted = sum((standing(store) for store in stores), Counter[Any]())
    found = standing(out)
    assert Counter(found.values()) == Counter(wanted.values())
    assert sorted((text, mark) for _, text, mark in found.elements()) == sorted(
        (text, mark) for _, text, mark in wanted.elements()
    )
    assert anonymous or found == wanted


def test_one_name_with_two_answers_is_a_conflict(tmp_path: Path) -> None:
    a, b = rated(tmp_path / "a.db", "student", "12--"), rated(tmp_path / "b.db", "student", "15--")
    out = tmp_path / "class.db"
    with pytest.raises(LabelError, match=r"student.*clarity 2 in .*a\.db and with clarity 5 in .*b\.db"):
        merge_labels([a, b], out)
    assert not out.exists()
    found = merge_labels([a, f"bob={b}"], out)
    assert found.raters == ("bob", "student")
    assert sum(standing(out).values()) == 4
    assert merge_labels([a, f"bob={b}"], out).added == 0
    with pytest.raises(LabelError, match="is of other rows in"):  # the same rows under another name
        merge_labels([f"eve={b}"], out)


def test_the_same_answer_twice_is_no_conflict(tmp_path: Path) -> None:
    a, b = rated(tmp_path / "a.db", "ada", "12--"), rated(tmp_path / "b.db", "ada", "-23-")
    out = tmp_path / "class.db"
    assert merge_labels([a, b], out).known == 1
    assert standing(out) == Counter({("ada", "a", 1): 1, ("ada", "b", 2): 1, ("ada", "c", 3): 1})


def test_an_answer_that_was_taken_back_gives_way(tmp_path: Path) -> None:
    a, b = rated(tmp_path / "a.db", "ada", "1---"), rated(tmp_path / "b.db", "ada", "5---")
    out = tmp_path / "class.db"
    with LabelStore(a) as store:
        store.undo("ada")
    merge_labels([a, b], out)
    assert standing(out) == standing(b)
    with LabelStore(b) as store:
        store.undo("ada")
        store.record(store.put(TEXTS)[0], "ada", {"clarity": 3})
    assert merge_labels([a, b], out).added == 2
    assert standing(out) == standing(b) == Counter({("ada", "a", 3): 1})


def test_several_raters_of_a_renamed_store_keep_their_names(tmp_path: Path) -> None:
    a = rated(rated(tmp_path / "a.db", "ada", "1---"), "bob", "2---")
    assert merge_labels([f"left={a}"], tmp_path / "o.db").raters == ("left/ada", "left/bob")


def test_pseudonyms_are_stable_and_hold_no_name(tmp_path: Path) -> None:
    a, b = rated(tmp_path / "a.db", "ingrid", "12--"), rated(tmp_path / "b.db", "bob", "5432")
    out = tmp_path / "class.db"
    first = merge_labels([a], out, anonymous=True)
    with LabelStore(a) as store:
        store.record(store.put(TEXTS)[3], "ingrid", {"clarity": 1}, key="import-x-ingrid")
    second = merge_labels([a, b], out, anonymous=True)
    assert (len(first.raters), len(second.raters)) == (1, 2)
    assert set(first.raters) < set(second.raters)
    assert merge_labels([a, b], out, anonymous=True).added == 0
    assert sorted(Counter(rater for rater, _, _ in standing(out).elements()).values()) == [3, 4]
    content = b"".join(file.read_bytes() for file in tmp_path.glob("class.db*"))
    assert b"ingrid" not in content
    other = merge_labels([a, b], tmp_path / "other.db", anonymous=True)
    assert not set(other.raters) & set(second.raters)  # made with another secret
    (tmp_path / "class.db.secret").write_text("no secret")
    with pytest.raises(DataError, match="secret of the pseudonyms"):
        merge_labels([a], out, anonymous=True)


def test_one_store_under_two_names_is_named(tmp_path: Path) -> None:
    a = rated(tmp_path / "a.db", "ada", "12--")
    with pytest.raises(ConfigError, match=r"a\.db is given as 'ada' and as 'bob'; a store is of one name"):
        merge_labels([f"ada={a}", f"bob={a}"], tmp_path / "class.db")
    assert merge_labels([f"ada={a}", f"ada={a}"], tmp_path / "class.db").raters == ("ada",)


def test_policies_that_differ_are_noted(tmp_path: Path) -> None:
    a, b = rated(tmp_path / "a.db", "ada", "1---", "v1"), rated(tmp_path / "b.db", "bob", "1---", "v2")
    notes = merge_labels([a, b], tmp_path / "o.db").notes
    assert len(notes) == 4
    assert "v1" in notes[0]
    assert "v2" in notes[0]


def test_stores_that_cannot_be_merged(tmp_path: Path) -> None:
    good = rated(tmp_path / "a.db", "ada", "12--")
    out = tmp_path / "class.db"
    (tmp_path / "empty.db").write_bytes(b"")
    (tmp_path / "text.db").write_bytes(b"not a database" * 99)
    for name, message in (("no.db", "no label store"), ("empty.db", "empty"), ("text.db", "cannot be used")):
        with pytest.raises(StoreError, match=message):
            merge_labels([good, tmp_path / name], out)
    altered = rated(tmp_path / "altered.db", "bob", "34--")
    connection = sqlite3.connect(altered)
    connection.execute("DROP TRIGGER no_update")
    connection.execute("UPDATE labels SET answer = replace(answer, 4, 5) WHERE row = 2")
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match=r"altered.db: row 2: its content does not match"):
        merge_labels([good, altered], out)
    with pytest.raises(ConfigError, match="no stores"):
        merge_labels([], out)
    with pytest.raises(ConfigError, match="another --out"):
        merge_labels([good], good)
    with pytest.raises(ConfigError, match="NAME=FILE"):
        merge_labels(["=a.db"], out)
    assert not out.exists()
