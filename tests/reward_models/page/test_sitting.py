"""A sitting: what messages save, what they show, and what they must not do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.page_tools import GOOD, ratings
from text_gym.errors import NotSavedError
from text_gym.reward_models import LabelStore, Question
from text_gym.reward_models.labels.questions import CRITERIA
from text_gym.reward_models.page.sitting import Sitting


def answer(sitting: Sitting, values: Any = None, key: str = "k", **more: Any) -> dict[str, Any]:
    item = sitting.state["question"]["id"]
    message = {"do": "answer", "item": item, "key": key, "seconds": 1.5, "values": values or GOOD, **more}
    assert sitting.take(message) is None
    return sitting.state


def test_answers_skips_and_undos_reach_the_store(tmp_path: Path) -> None:
    with LabelStore(tmp_path / "labels.db") as store:
        ids = store.put(ratings(3))
        sitting = Sitting(store, "ada")
        assert sitting.state["progress"] == {"mine": 0, "left": 3}
        assert answer(sitting)["note"] == "Saved."
        sitting.take({"do": "skip", "item": ids[1], "key": "s", "seconds": 0.5})
        assert sitting.state["note"] == "Skipped, saved."
        sitting.take({"do": "undo", "key": "u"})
        assert sitting.state["question"]["id"] == ids[1]
        rows = list(store.labels(all_rows=True))
        assert [(x.kind, x.item, x.rater) for x in rows] == [
            ("rating", ids[0], "ada"), ("skip", ids[1], "ada"), ("undo", ids[1], "ada"),
        ]  # fmt: skip
        assert dict(rows[0].values) == GOOD
        assert rows[0].latency == 1.5
        answer(sitting, key="k2")
        answer(sitting, key="k3")
        assert sitting.state["question"] is None
        assert sitting.state["progress"] == {"mine": 3, "left": 0}
        json.dumps(sitting.state)


def test_a_message_sent_twice_saves_once(tmp_path: Path) -> None:
    with LabelStore(tmp_path / "labels.db") as store:
        (first, second) = store.put(ratings(2))
        sitting = Sitting(store, "ada")
        message = {"do": "answer", "item": first, "key": "k", "seconds": 1.0, "values": GOOD}
        sitting.take(message)
        sitting.take(message)
        assert sitting.state["note"] == "Saved."  # it is the answer that was saved, not another one
        assert [(x.item, x.key) for x in store.labels()] == [(first, "k")]
        assert sitting.state["question"]["id"] == second
        sitting.take({**message, "key": "another", "values": {**GOOD, "clarity": 1}})
        assert sitting.state["note"] == "Answered already; the first answer stands."
        assert [dict(x.values) for x in store.labels()] == [GOOD]


@pytest.mark.parametrize(
    "message",
    [
        None, "answer", [], {}, {"do": "answer"}, {"do": "drop"}, {"do": "answer", "item": 3, "key": "k"},
        {"do": "answer", "item": "nobody's", "key": "k", "values": GOOD},
        {"do": "answer", "key": "k", "values": {"accuracy": 9}, "item": None},
        {"do": "undo"}, {"do": "text", "item": "nobody's", "number": 0, "start": 0},
    ],
)  # fmt: skip
def test_what_is_no_message_saves_nothing_and_keeps_the_question(message: Any, tmp_path: Path) -> None:
    with LabelStore(tmp_path / "labels.db") as store:
        store.put(ratings(1))
        sitting = Sitting(store, "ada")
        question = sitting.state["question"]
        sitting.take(message)
        assert sitting.state["trouble"]
        assert sitting.state["question"] == question
        assert store.head[0] == 0


@pytest.mark.parametrize("values", [{}, {"accuracy": 4}, {**GOOD, "clarity": 6}, {**GOOD, "x": 1}, "good"])
def test_values_that_do_not_fit_are_told(values: Any, tmp_path: Path) -> None:
    with LabelStore(tmp_path / "labels.db") as store:
        store.put(ratings(1))
        sitting = Sitting(store, "ada")
        sitting.take({"do": "answer", "item": sitting.state["question"]["id"], "key": "k", "values": values})
        assert sitting.state["trouble"]
        assert sitting.state["note"].startswith("Not saved: ")
        assert store.head[0] == 0


@pytest.mark.parametrize("seconds", [None, -1.0, float("nan"), float("inf"), "1", True, 1e12])
def test_seconds_that_are_none_are_not_known(seconds: Any, tmp_path: Path) -> None:
    with LabelStore(tmp_path / "labels.db") as store:
        store.put(ratings(1))
        sitting = Sitting(store, "ada")
        assert answer(sitting, seconds=seconds)["note"] == "Saved."
        (label,) = store.labels()
        assert label.latency != label.latency


def test_an_answer_that_does_not_reach_the_disk_stays_on_the_screen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **more: Any) -> None:
        raise NotSavedError("the disk is full")

    with LabelStore(tmp_path / "labels.db") as store:
        store.put(ratings(2))
        sitting = Sitting(store, "ada")
        question = sitting.state["question"]
        with monkeypatch.context() as broken:
            broken.setattr(store, "record", full)
            assert "the disk is full" in answer(sitting)["note"]
        assert sitting.state["trouble"]
        assert sitting.state["question"] == question
        assert answer(sitting)["note"] == "Saved."


def test_only_the_given_questions_are_asked(tmp_path: Path) -> None:
    with LabelStore(tmp_path / "labels.db") as store:
        store.put(ratings(5))
        mine = store.put([Question.comparison("P", "left", "right")])
        sitting = Sitting(store, "ada", mine)
        assert sitting.state["progress"]["left"] == 1
        assert answer(sitting, {"preference": "tie"})["question"] is None
        sitting.take({"do": "undo", "key": "u"})
        assert sitting.state["question"]["kind"] == "comparison"
        sitting.take({"do": "undo", "key": "u2"})
        assert sitting.state["note"] == "There is nothing to take back."


def test_long_texts_come_in_parts_and_hidden_characters_are_written_out(tmp_path: Path) -> None:
    long = "ab\u202e" * 9000
    with LabelStore(tmp_path / "labels.db") as store:
        (item,) = store.put([Question.rating("P\n", long)])
        sitting = Sitting(store, "ada")
        part = sitting.state["question"]["texts"][1]
        shown = part["text"]
        while part["left"]:
            reply = sitting.take({"do": "text", "item": item, "number": 1, "start": part["end"]})
            assert reply is not None
            part = reply
            shown += part["text"]
        assert shown == "ab\\u202e" * 9000
        assert sitting.take({"do": "text", "item": item, "number": 2, "start": 0}) is None


def test_a_conversation_comes_turn_by_turn_in_parts(tmp_path: Path) -> None:
    asked, said = (("user", "P\n"),), (("assistant", "ab\u202e" * 9000), ("user", "<b>"), ("assistant", "c"))
    with LabelStore(tmp_path / "labels.db") as store:
        (item,) = store.put([Question("rating", "P", ("c",), CRITERIA, (asked, said))])
        sitting = Sitting(store, "ada")
        prompt, part = sitting.state["question"]["texts"]
        assert prompt["turns"] == [{"role": "user", "text": "P", "goes_on": False}]
        turns = [(t["role"], t["text"]) for t in part["turns"]]
        assert part["left"] == 27_000 + 4 - 20_000
        rest = sitting.take({"do": "text", "item": item, "number": 1, "start": part["end"]})
        assert rest is not None
        assert [t["goes_on"] for t in rest["turns"]] == [True, False, False]
        turns[-1] = (turns[-1][0], turns[-1][1] + rest["turns"][0]["text"])
        turns += [(t["role"], t["text"]) for t in rest["turns"][1:]]
        assert turns == [("assistant", "ab\\u202e" * 9000), ("user", "<b>"), ("assistant", "c")]
