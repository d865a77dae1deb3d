from __future__ import annotations

from collections.abc import Sequence

import pytest

from text_gym.errors import ConfigError
from text_gym.tasks.conversations.mastermind import count_pegs, mastermind

from .walking import best_return, check_conversation, play, random_return


@pytest.mark.parametrize(
    ("code", "guessed", "answer"),
    [("aabb", "aabb", "40"), ("aabb", "bbaa", "04"), ("abcd", "aaaa", "10"), ("aabc", "abad", "12"),
     ("abcc", "ccca", "12"), ("ab", "cd", "00"), ("aab", "bba", "02")],
)  # fmt: skip
def test_answers_worked_by_hand(code: str, guessed: str, answer: str) -> None:
    assert count_pegs(code, guessed) == answer


def test_a_conversation_by_hand() -> None:
    task = mastermind()
    (prompt,) = [p for p in task.prompts if p.columns["code"] == "ca"]
    episode = play(task, prompt, ["ab", "1bc", "ca"])
    assert [turn.text for turn in episode.turns[1::2]] == ["01", "01", "20"]
    missed = play(task, prompt, ["aa", "bb", "cc", "ab"])
    assert [e.finish_reason for e in (episode, missed)] == ["reply", "reply"]
    assert task.reward([episode, missed]).totals.tolist() == [1, 0]


LARGER = [pytest.param(sizes, marks=pytest.mark.nightly) for sizes in [(2, 3, 3), (2, 3, 4), (3, 2, 3)]]


@pytest.mark.parametrize("sizes", [(1, 3, 2), (2, 2, 2), (2, 3, 1), (2, 3, 2), *LARGER])
def test_the_optimum_is_that_of_the_best_of_all_plans(sizes: Sequence[int]) -> None:
    task = mastermind(*sizes)
    codes = [p.columns["code"] for p in task.prompts]
    assert best_return(task, task.prompts, codes) == pytest.approx(task.optimum)


def test_a_first_guess_of_one_colour_misses_a_code_and_the_others_need_not() -> None:
    """With three guesses: they tell apart as many codes as two answers do."""
    codes = [p.columns["code"] for p in mastermind().prompts]

    def found(first: str) -> int:
        parts: dict[str, list[str]] = {}
        for code in codes:
            if code != first:
                parts.setdefault(count_pegs(code, first), []).append(code)
        second = [
            max((asked in part) + len({count_pegs(c, asked) for c in part if c != asked}) for asked in codes)
            for part in parts.values()
        ]
        return 1 + sum(second)

    assert {first: found(first) for first in codes} == {c: 8 if c[0] == c[1] else 9 for c in codes}


@pytest.mark.parametrize("sizes", [(1, 3, 1), (2, 2, 1)])
def test_the_random_return_is_that_of_all_tokens(sizes: Sequence[int]) -> None:
    task = mastermind(*sizes)
    assert random_return(task) == pytest.approx(task.random_return, rel=1e-12)


def test_random_conversations_and_bad_parameters() -> None:
    check_conversation(mastermind(3, 4, 4))
    with pytest.raises(ConfigError, match="more than 100 codes"):
        mastermind(4, 4)
    with pytest.raises(ConfigError, match="colours is 7"):
        mastermind(colours=7)
