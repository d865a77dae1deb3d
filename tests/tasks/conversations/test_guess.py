from __future__ import annotations

import pytest

from text_gym.errors import ConfigError
from text_gym.tasks.conversations.guess import NUMBERS, guess

from .walking import best_return, check_conversation, play, random_return

SLOW = pytest.mark.nightly


def test_a_conversation_by_hand() -> None:
    task = guess()
    prompt = task.prompts[4]  # the number is 5
    episode = play(task, prompt, ["4", "<7", "5"])
    assert [turn.text for turn in episode.turns] == ["", ">", "<", "<", "", "="]
    assert episode.finish_reason == "reply"
    missed = play(task, prompt, ["1", "2", "3"])
    given_up = play(task, prompt, ["4", "?"], end=True)
    assert (missed.finish_reason, given_up.finish_reason) == ("reply", "eos")
    rewards = task.reward([episode, missed, given_up])
    assert rewards.totals.tolist() == [1, 0, 0]
    assert rewards.terms["turns"].tolist() == [3, 3, 1]


@pytest.mark.parametrize(
    ("largest", "turns"), [(2, 1), (3, 2), (5, 2), (4, 3), pytest.param(9, 3, marks=SLOW)]
)
def test_the_optimum_is_that_of_the_best_of_all_plans(largest: int, turns: int) -> None:
    task = guess(largest, turns)
    assert best_return(task, task.prompts, NUMBERS[:largest]) == pytest.approx(task.optimum)


@pytest.mark.parametrize(("largest", "turns"), [(3, 1), (2, 2), pytest.param(3, 2, marks=SLOW)])
def test_the_random_return_is_that_of_all_tokens(largest: int, turns: int) -> None:
    task = guess(largest, turns)
    assert random_return(task) == pytest.approx(task.random_return, rel=1e-12)


def test_random_conversations_and_bad_parameters() -> None:
    check_conversation(guess(15, 4))
    with pytest.raises(ConfigError, match="largest is 16"):
        guess(16)
    with pytest.raises(ConfigError, match="turns is 0"):
        guess(turns=0)
