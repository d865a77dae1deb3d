from __future__ import annotations

import pytest

from tests.classic_laws import check_causal, check_laws, check_split, episode
from text_gym.tasks.reversing import reverse


def solve(text: str) -> str:
    answer = ""
    for symbol in text:
        answer = symbol + answer
    return answer


def test_each_right_token_earns_its_share() -> None:
    task = reverse(length=3)
    (prompt,) = [p for p in [*task.prompts, *task.held_out] if p.text == "abc"]
    rewards = task.reward([episode(task, prompt, ids) for ids in ([2, 1, 0, 3], [0, 1, 2, 3], [2, 3])])
    assert rewards.totals == pytest.approx([1, 0.5, 0.25])


@pytest.mark.parametrize("sparse", [False, True])
def test_laws(sparse: bool) -> None:
    check_laws(reverse(length=2, symbols="abc", sparse=sparse), solve)


def test_causal_and_split() -> None:
    check_causal(reverse(length=6))
    check_split(reverse())
