from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_gym.errors import DataError, UnknownNameError
from text_gym.reward_models.labels.turns import Spoken, parts_of, spoken_in

USER, ONE, TWO = ("user", "Hi"), ("assistant", "A"), ("assistant", "B")
ROW = [{"role": role, "content": text} for role, text in (USER, ONE, ("user", "So?"), TWO)]


@given(
    st.lists(st.tuples(st.sampled_from(["user", "assistant"]), st.text("abc", min_size=1)), min_size=1),
    st.integers(1, 7),
)
def test_a_conversation_read_in_parts_is_the_conversation(talk: list[tuple[str, str]], size: int) -> None:
    again: list[list[str]] = []
    start, left = 0, 1
    while left:
        parts, end, left = parts_of(tuple(talk), start, size)
        assert 0 < sum(len(p.text) for p in parts) == end - start <= size
        for part in parts:
            if part.goes_on:
                again[-1][1] += part.text
                assert again[-1][0] == part.role
            else:
                again.append([part.role, part.text])
        start = end
    assert [tuple(turn) for turn in again] == talk


def test_white_space_around_turns_is_not_shown() -> None:
    (part,), end, left = parts_of((("user", "\n a b \n"),), 0, 9)
    assert (part.text, end, left) == ("a b", 3, 0)


TURNS = [{"role": "assistant", "text": "", "said": "4"}, {"role": "user", "text": ">", "said": ">"}]
TURNS.append({"role": "assistant", "text": "", "said": "6"})


def test_a_transcript_has_exact_turns() -> None:
    """The stop string that ends a turn may be all that the agent said: `text` lacks it, and `said` has it."""
    (whole,) = spoken_in({"prompt": "?", "completion": "4>6", "turns": TURNS}, "prompt", "here")
    assert (whole.prompt, whole.completion, whole.asked) == ("?", "4>6", (("user", "?"),))
    assert whole.said == (("assistant", "4"), ("user", ">"), ("assistant", "6"))
    first, second = whole.each_turn()
    assert (first.prompt, first.completion) == ("?", "4")
    assert (second.prompt, second.completion) == ("?4>", "6")
    assert second.asked == (("user", "?"), ("assistant", "4"), ("user", ">"))
    assert second.said == (("assistant", "6"),)


def test_each_turn_of_messages_has_what_was_said_before_it() -> None:
    (whole,) = spoken_in({"messages": ROW}, "prompt", "here")
    assert whole.prompt == "user: Hi\nassistant: "
    assert whole.completion == "A\nuser: So?\nassistant: B"
    first, second = whole.each_turn()
    assert first == Spoken("user: Hi\nassistant: ", "A", (USER,), (ONE,))
    assert second.prompt + second.completion == whole.prompt + whole.completion
    assert (second.asked, second.said) == ((USER, ONE, ("user", "So?")), (TWO,))


@pytest.mark.parametrize(
    ("row", "asked", "said"),
    [
        ({"prompt": ROW[:1], "completion": ROW[1:2]}, (USER,), [(ONE,)]),
        ({"prompt": ROW[:1], "completion": "A"}, (USER,), [(ONE,)]),
        ({"prompt": "Hi", "completions": [ROW[1:2], ROW[3:]]}, (USER,), [(ONE,), (TWO,)]),
        ({"chosen": [*ROW[:1], *ROW[3:]], "rejected": ROW[:2]}, (USER,), [(TWO,), (ONE,)]),
        ({"chosen": ROW, "rejected": [*ROW[:3], *ROW[1:2]]}, (USER, ONE, ("user", "So?")), [(TWO,), (ONE,)]),
        ({"prompt": "p", "completion": "A", "messages": ROW[:2]}, (USER,), [(ONE,)]),
        ({"prompt": "p", "chosen": "A", "rejected": "B"}, (), [(), ()]),
    ],
)
def test_rows_of_every_form(row: dict[str, Any], asked: Any, said: Any) -> None:
    found = spoken_in(row, "prompt", "here")
    assert {s.asked for s in found} == {asked}
    assert [s.said for s in found] == said


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        ({"prompt": "p"}, UnknownNameError, "completion"),
        ({"completion": "c"}, UnknownNameError, "prompt"),
        ({"prompt": 5, "completion": "c"}, DataError, "no conversation"),
        ({"prompt": "p", "completion": 5}, DataError, "must be texts"),
        ({"prompt": ROW[:1], "completion": ROW[:1]}, DataError, "begins with a turn of the assistant"),
        ({"messages": ROW[:1]}, DataError, "no turn of the assistant"),
        ({"chosen": ROW[:2], "rejected": ROW[3:]}, DataError, "no turn of the assistant"),
        ({"chosen": ROW, "rejected": ROW[:1]}, DataError, "differ before"),
        ({"prompt": "p", "completion": "c", "turns": [{"role": "user"}]}, DataError, "no list of turns"),
        (
            {"prompt": "p", "completion": "46", "turns": TURNS},
            DataError,
            "not those of prompt and completion",
        ),
        ({"prompt": "p", "completion": "c", "turns": [{"role": "x", "text": "c"}]}, DataError, "the role"),
    ],
)
def test_rows_that_cannot_be_used_are_named(row: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=f"here.*{message}|{message}.*here"):
        spoken_in(row, "prompt", "here")
