"""Converts labels to Argilla records and Label Studio tasks and back, through files rather than servers.

What those programs have no field for (criteria, latency, keys) travels as metadata. Their own exports lack it
and cannot be imported: begin with an export from here.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from .questions import LabelCriterion, Question
from .rows import Label

Record = dict[str, Any]


def to_argilla(labels: Iterable[Label]) -> list[Record]:
    """Write each question as an Argilla 2 record: `fields`, and `responses` by criterion."""
    records = []
    for item, group in _by_question(labels).items():
        question = group[0].question
        users = {label.rater: _user(label.rater) for label in group}
        responses: dict[str, list[Record]] = {f.name: [] for f in question.fields}
        for label in group:
            for name, value in label.values.items():
                responses[name].append({"value": value, "user_id": users[label.rater], "status": "submitted"})
        records.append(
            {
                "id": item,
                "status": "completed",
                "fields": {"prompt": question.prompt, **_texts(question)},
                "metadata": {"text_gym": _about(group, users)},
                "suggestions": {},
                "responses": responses,
            }
        )
    return records


def from_argilla(row: Mapping[str, Any]) -> Iterator[Record]:
    """Read the answers from a record of `to_argilla`, with everything people added or changed in Argilla."""
    about = json.loads(row["metadata"]["text_gym"])
    question = _question(about, row["fields"])
    values: dict[str, Record] = {}
    for name, responses in row["responses"].items():
        for response in responses:
            if response.get("status", "submitted") == "submitted":
                values.setdefault(str(response["user_id"]), {})[name] = response["value"]
    yield from _answers(question, about, values)


def to_label_studio(labels: Iterable[Label]) -> list[Record]:
    """Write each question as a Label Studio task: `data` and `annotations`, as a project exports them."""
    labels = list(labels)
    users = {rater: str(i) for i, rater in enumerate(dict.fromkeys(label.rater for label in labels), 1)}
    tasks = []
    for number, (item, group) in enumerate(_by_question(labels).items(), 1):
        question = group[0].question
        annotations = [
            {
                "completed_by": int(users[label.rater]),
                "lead_time": None if math.isnan(label.latency) else label.latency,
                "was_cancelled": False,
                "result": [_result(question, name, value) for name, value in label.values.items()],
            }
            for label in group
        ]
        data = {"question": item, "prompt": question.prompt, **_texts(question)}
        meta = {"text_gym": _about(group, users)}
        tasks.append({"id": number, "data": data | {"meta": meta}, "annotations": annotations})
    return tasks


def from_label_studio(row: Mapping[str, Any]) -> Iterator[Record]:
    """Read the answers from a task of `to_label_studio`, with what people changed in Label Studio."""
    about = json.loads(row["data"]["meta"]["text_gym"])
    question = _question(about, row["data"])
    values: dict[str, Record] = {}
    for annotation in row["annotations"]:
        if annotation.get("was_cancelled"):
            continue
        answer = values.setdefault(str(annotation["completed_by"]), {})
        for result in annotation["result"]:
            if result["type"] == "rating":
                answer[result["from_name"]] = result["value"]["rating"]
            else:
                choice = result["value"]["choices"][0]
                answer[result["from_name"]] = int(choice) if question.kind == "best-of-n" else choice
    yield from _answers(question, about, values)


def _user(rater: str) -> str:
    """Derive a rater's UUID from the name, since Argilla identifies its users by UUID."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"rater:{rater!a}"))


def _result(question: Question, name: str, value: Any) -> Record:
    kind = "rating" if question.kind == "rating" else "choices"
    content = value if kind == "rating" else [str(value)]
    return {"from_name": name, "to_name": "text_1", "type": kind, "value": {kind: content}}


def _about(labels: list[Label], users: Mapping[str, str]) -> str:
    """Pack what the other programs have no field for into one string, because their metadata is flat."""
    question = labels[0].question
    own = {
        users[label.rater]: {
            "rater": label.rater,
            "latency": None if math.isnan(label.latency) else label.latency,
            "time": label.time,
            "key": label.key,
        }
        for label in labels
    }
    criteria = [asdict(c) for c in question.criteria]
    about = {"kind": question.kind, "criteria": criteria, "policy": labels[0].policy, "labels": own}
    return json.dumps(about | ({"turns": question.turns} if question.turns else {}))


def _answers(question: Question, about: Mapping[str, Any], values: Mapping[str, Record]) -> Iterator[Record]:
    """Return one entry per rater; a rater unknown to the metadata answered in the other program."""
    for user, answer in values.items():
        own = about["labels"].get(user, {})
        yield {
            "kind": question.kind,
            "question": question,
            "rater": own.get("rater", user),
            "values": answer,
            "latency": own.get("latency"),
            "policy": about["policy"],
            "time": own.get("time"),
            "key": own.get("key", f"import-{question.id}-{user}"),
        }


def _question(about: Mapping[str, Any], fields: Mapping[str, str]) -> Question:
    criteria = tuple(LabelCriterion(**c) for c in about["criteria"])
    numbers = sorted(int(n[5:]) for n in fields if n.startswith("text_") and n[5:].isdigit())
    texts = tuple(fields[f"text_{n}"] for n in numbers)
    talks = tuple(tuple((role, said) for role, said in talk) for talk in about.get("turns", ()))
    return Question(about["kind"], fields["prompt"], texts, criteria, talks)


def _texts(question: Question) -> dict[str, str]:
    return {f"text_{n}": text for n, text in enumerate(question.completions, 1)}


def _by_question(labels: Iterable[Label]) -> dict[str, list[Label]]:
    found: dict[str, list[Label]] = {}
    for label in labels:
        found.setdefault(label.item, []).append(label)
    return found
