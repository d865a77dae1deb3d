from __future__ import annotations

import json
from pathlib import Path

import pytest

from text_gym.reward_models import LabelStore
from text_gym.reward_models.labels.exchange import (
    from_argilla,
    from_label_studio,
    to_argilla,
    to_label_studio,
)
from text_gym.reward_models.labels.questions import Question

MARKS = {"accuracy": 5, "clarity": 4, "persuasiveness": 3}


@pytest.fixture
def store(tmp_path: Path) -> LabelStore:
    store = LabelStore(tmp_path / "labels.db")
    rating, best = store.put([Question.rating("Sell a mug.", "A mug!"), Question.best_of_n("q", "xyz")])
    store.record(rating, "ada", MARKS, latency=2.5)
    store.record(rating, "bob", {**MARKS, "clarity": 1})
    store.record(best, "ada", {"preference": 2})
    return store


def test_an_argilla_record_has_fields_and_responses_by_question(store: LabelStore) -> None:
    record, best = to_argilla(store.labels())
    assert record["fields"] == {"prompt": "Sell a mug.", "text_1": "A mug!"}
    clarity = record["responses"]["clarity"]
    assert [r["value"] for r in clarity] == [4, 1]
    users = [r["user_id"] for r in clarity]
    assert all(len(u) == 36 for u in users)  # a UUID each
    assert users[0] == best["responses"]["preference"][0]["user_id"]  # of the person, not of the record
    assert all(isinstance(v, str) for v in record["metadata"].values())  # flat
    json.dumps(record)


def test_a_label_studio_task_has_data_and_annotations(store: LabelStore) -> None:
    task, best = to_label_studio(store.labels())
    assert (task["id"], task["data"]["text_1"]) == (1, "A mug!")
    assert [a["completed_by"] for a in task["annotations"]] == [1, 2]
    assert task["annotations"][0]["lead_time"] == 2.5
    assert task["annotations"][0]["result"][0] == {
        "from_name": "accuracy",
        "to_name": "text_1",
        "type": "rating",
        "value": {"rating": 5},
    }
    assert best["annotations"][0]["result"][0]["value"] == {"choices": ["2"]}


def test_answers_added_in_argilla_are_read(store: LabelStore) -> None:
    record = to_argilla(store.labels())[0]
    for name in MARKS:
        record["responses"][name].append({"value": 2, "user_id": "new"})
        record["responses"][name].append({"value": 1, "user_id": "x", "status": "discarded"})
    entries = list(from_argilla(record))
    assert [e["rater"] for e in entries] == ["ada", "bob", "new"]
    assert entries[2]["values"] == dict.fromkeys(MARKS, 2)
    assert entries[2]["key"] == f"import-{record['id']}-new"


def test_answers_added_in_label_studio_are_read(store: LabelStore) -> None:
    task = to_label_studio(store.labels())[0]
    task["annotations"].append({**task["annotations"][0], "completed_by": 77})
    task["annotations"].append({"completed_by": 78, "was_cancelled": True, "result": []})
    entries = list(from_label_studio(task))
    assert [e["rater"] for e in entries] == ["ada", "bob", "77"]
    assert entries[2]["values"] == MARKS
    assert entries[2]["latency"] is None
