from __future__ import annotations

import pytest

from tests.classic_laws import check_causal, check_laws, check_split, episode
from text_gym.tasks.sorting import sort


def solve(text: str) -> str:
    return "".join(symbol * text.count(symbol) for symbol in "cab")  # the order given to the task


def test_each_right_token_earns_its_share() -> None:
    task = sort(length=4)
    (prompt,) = [p for p in [*task.prompts, *task.held_out] if p.text == "cbab"]
    rewards = task.reward([episode(task, prompt, ids) for ids in ([0, 1, 1, 2, 3], [2, 1, 0, 1, 3])])
    assert rewards.totals == pytest.approx([1, 0.4])


@pytest.mark.parametrize("sparse", [False, True])
def test_laws(sparse: bool) -> None:
    check_laws(sort(length=3, symbols="cab", sparse=sparse), solve)


def test_causal_and_split() -> None:
    check_causal(sort(length=6, symbols="abcd"))
    check_split(sort())
