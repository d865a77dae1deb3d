from __future__ import annotations

import dataclasses

import pytest

from text_gym.reward_models.labels.questions import Question
from text_gym.reward_models.labels.rows import Item, Label


def row(kind: str) -> Label:
    question = Question.rating("p", "c")
    return Label(1, kind, question, "ada", {}, 1.0, "", 0.0, "k", None, "0" * 64, "1" * 64)


@pytest.mark.parametrize(
    ("kind", "answered"),
    [("rating", True), ("comparison", True), ("best-of-n", True), ("skip", False), ("undo", False)],
)
def test_skips_and_undos_hold_no_opinion(kind: str, answered: bool) -> None:
    assert row(kind).answered == answered


def test_rows_are_known_by_their_question_and_cannot_be_changed() -> None:
    question = Question.rating("p", "c")
    item = Item(1, question, "", 0.0, 1, 0)
    assert item.id == row("rating").item == question.id
    with pytest.raises(dataclasses.FrozenInstanceError):
        item.priority = 1.0  # type: ignore[misc]
