"""Replies as they are checked, and the generators of turns."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from text_gym import Episode, Reply, WordTokenizer
from text_gym.errors import RespondentError
from text_gym.respondents import TurnGenerators, checked_reply, turn_generator


def episode_of(seed: int, index: int) -> Episode:
    ids = np.zeros(1, dtype=np.int64)
    tokenizer = WordTokenizer("a", separator="")
    return Episode(cast("Any", None), ids, ids, tokenizer, seed=seed, index=index)


def test_generators_of_turns_are_a_list_that_is_made_when_it_is_read() -> None:
    about = [(7, 3, 1), (7, 4, 1), (8, 3, 2)]
    wanted = [turn_generator(*each).random(4).tolist() for each in about]
    made = TurnGenerators([episode_of(seed, index) for seed, index, _ in about], [t for _, _, t in about])
    assert len(made) == 3
    assert [made[i].random() for i in (2, 0, -2)] == [wanted[2][0], wanted[0][0], wanted[1][0]]
    assert [g.random(3).tolist() for g in made] == [each[1:] for each in wanted]  # the same ones go on
    assert made[1:] == [made[1], made[2]]
    with pytest.raises(IndexError):
        made[3]


@pytest.mark.parametrize(
    "text", ["ab", "", [], [0, 1], (0, 1), np.array([0, 1]), [np.int64(1)], [1.0], range(2)]
)
def test_texts_and_ids_are_replies(text: Any) -> None:
    reply = Reply(text, reward=-1.5)
    assert checked_reply(reply, "Somebody") is reply


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(
            ("text", text)
            for text in (None, 3, ["a"], [True], [0, None], [1.5], [float("nan")], iter([1]), b"a")
        ),
        *(("reward", reward) for reward in (None, "1", True, float("inf"), float("nan"), 1e39, -(10**400))),
        ("ends", 1),
        ("role", "assistant"),
    ],
)
def test_what_is_no_reply_is_refused_by_the_name_of_its_field(field: str, value: Any) -> None:
    fields: dict[str, Any] = {"text": "a", field: value}
    with pytest.raises(RespondentError, match=rf"Somebody: Reply\.{field}"):
        checked_reply(Reply(**fields), "Somebody")
