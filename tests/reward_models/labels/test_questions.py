from __future__ import annotations

import hashlib
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_gym.errors import ConfigError, LabelError
from text_gym.reward_models.labels.questions import (
    CRITERIA,
    LabelCriterion,
    Question,
    sha256_of_values,
    text_bytes,
)

TEXTS = st.text(st.characters() | st.sampled_from("\0\ud800\udcff\U0001f642"), max_size=20)


def test_a_rating_asks_for_the_three_criteria_on_a_scale_of_five() -> None:
    fields = Question.rating("p", "c").fields
    assert [f.name for f in fields] == ["accuracy", "clarity", "persuasiveness"]
    assert [[o.value for o in f.options] for f in fields] == [[1, 2, 3, 4, 5]] * 3
    assert all(f.guideline for f in fields)


def test_keys_of_each_kind() -> None:
    (side,) = Question.comparison("p", "a", "b").fields
    assert {k: o.value for k in "l1r2t0" if (o := side.option(k))} == {
        **dict.fromkeys("l1", "left"),
        **dict.fromkeys("r2", "right"),
        **dict.fromkeys("t0", "tie"),
    }
    (best,) = Question.best_of_n("p", "abc").fields
    assert [o.value for o in best.options] == [1, 2, 3]
    assert best.option("4") is None


@pytest.mark.parametrize(
    "values",
    [
        {"accuracy": 6, "clarity": 1, "persuasiveness": 1},
        {"accuracy": 0, "clarity": 1, "persuasiveness": 1},
        {"accuracy": 1.0, "clarity": 1, "persuasiveness": 1},
        {"accuracy": True, "clarity": 1, "persuasiveness": 1},
        {"accuracy": "1", "clarity": 1, "persuasiveness": 1},
        {"accuracy": 1, "clarity": 1},
        {"accuracy": 1, "clarity": 1, "persuasiveness": 1, "charm": 1},
        [],
        None,
    ],
)
def test_answers_that_do_not_fit_are_refused(values: Any) -> None:
    with pytest.raises(LabelError):
        Question.rating("p", "c").check(values)


def test_an_answer_comes_back_in_the_order_of_the_criteria() -> None:
    given = {"persuasiveness": 2, "accuracy": 1, "clarity": 3}
    assert list(Question.rating("p", "c").check(given).items()) == [
        ("accuracy", 1),
        ("clarity", 3),
        ("persuasiveness", 2),
    ]


@pytest.mark.parametrize(
    ("kind", "count"), [("rating", 0), ("rating", 2), ("comparison", 1), ("best-of-n", 10), ("poll", 1)]
)
def test_another_number_of_texts_than_the_kind_takes_is_refused(kind: Any, count: int) -> None:
    with pytest.raises(ConfigError):
        Question(kind, "p", ("x",) * count, CRITERIA)


@pytest.mark.parametrize(("low", "high"), [(1, 1), (5, 1), (-1, 5), (1, 10)])
def test_scales_without_a_key_for_each_rating_are_refused(low: int, high: int) -> None:
    with pytest.raises(ConfigError):
        LabelCriterion("clarity", low=low, high=high)


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[31m"])
def test_criteria_are_named_in_plain_text(name: str) -> None:
    with pytest.raises(ConfigError):
        LabelCriterion(name)


def test_ends_and_middle_of_a_scale() -> None:
    seven = LabelCriterion("clarity", high=7)
    assert (seven.scaled(1), seven.scaled(4), seven.scaled(7)) == (0.0, 0.5, 1.0)


def test_the_id_changes_with_everything_that_is_asked() -> None:
    questions = [
        Question.rating("p", "c"),
        Question.rating("p", "d"),
        Question.rating("pc", ""),
        Question.rating("p", "c", (LabelCriterion("clarity"),)),
        Question.rating("p", "c", (LabelCriterion("clarity", "another guideline"),)),
        Question.comparison("p", "a", "b"),
        Question.comparison("p", "b", "a"),
        Question.best_of_n("p", "ab"),
    ]
    assert len({q.id for q in questions}) == len(questions)
    assert Question.rating("p", "c").id == questions[0].id


@given(TEXTS, st.lists(TEXTS, min_size=2, max_size=4))
def test_a_question_survives_its_columns(prompt: str, texts: list[str]) -> None:
    question = Question.best_of_n(prompt, texts)
    stored = [text_bytes(t).decode("utf-8", "surrogatepass") for t in (prompt, *texts)]
    again = Question.restore(question.kind, question.criteria_json(), stored)
    assert again == question
    assert again.id == question.id


@given(st.lists(st.text(max_size=4) | st.binary(max_size=4) | st.integers() | st.floats() | st.none()))
def test_fingerprints_follow_the_format_that_old_stores_were_written_with(parts: list[Any]) -> None:
    tags = {str: b"t", bytes: b"b", int: b"i", float: b"f", type(None): b"n"}
    content = [
        b""
        if p is None
        else p.encode("utf-8", "surrogatepass")
        if isinstance(p, str)
        else p
        if isinstance(p, bytes)
        else b"%d" % p
        if isinstance(p, int)
        else struct.pack(">d", p)
        for p in parts
    ]
    joined = b"".join(
        tags[type(p)] + len(c).to_bytes(8, "big") + c for p, c in zip(parts, content, strict=True)
    )
    assert sha256_of_values(*parts) == hashlib.sha256(joined).hexdigest()


def test_a_known_fingerprint() -> None:
    """By hand: the tag, eight bytes of length, the byte."""
    assert sha256_of_values("a") == hashlib.sha256(b"t\0\0\0\0\0\0\0\x01a").hexdigest()
    assert sha256_of_values("a", "b") != sha256_of_values("ab")


def test_a_question_shows_what_is_asked() -> None:
    question = Question.comparison("Say <hi>.\n", "Hi!", "No.")
    assert repr(question) == "Question(comparison of 2 texts, prompt 'Say <hi>.', by 'preference')"
    html = question._repr_html_()
    for part in ("Question: comparison", "Say &lt;hi&gt;.", "Hi!", "No.", "left, right, tie"):
        assert part in html


TALK = ((("user", "p"),), (("assistant", "a"), ("user", "\udcff"), ("assistant", "c")))


def test_the_turns_of_a_conversation_are_part_of_what_is_asked() -> None:
    plain, talk = Question.rating("p", "abc"), Question("rating", "p", ("abc",), CRITERIA, TALK)
    other = Question("rating", "p", ("abc",), CRITERIA, (TALK[0], TALK[1][:1]))
    assert len({plain.id, talk.id, other.id}) == 3
    again = Question.restore("rating", talk.criteria_json(), ["p", "abc"])
    assert (again, again.id) == (talk, talk.id)
    assert "user: p" in talk._repr_html_()


def test_single_texts_have_the_id_that_old_stores_hold() -> None:
    criteria = '[{"name": "clear", "guideline": "", "low": 1, "high": 5}]'
    parts = [t.encode() for t in ("rating", criteria, "p", "c")]
    joined = b"".join(b"t" + len(t).to_bytes(8, "big") + t for t in parts)
    assert Question.rating("p", "c", (LabelCriterion("clear"),)).id == hashlib.sha256(joined).hexdigest()


@pytest.mark.parametrize("turns", [TALK[:1], ((), TALK[1]), (TALK[0], (("robot", "a"),))])
def test_turns_that_are_none_are_refused(turns: Any) -> None:
    with pytest.raises(ConfigError, match="turns"):
        Question("rating", "p", ("abc",), CRITERIA, turns)
