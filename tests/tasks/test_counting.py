from __future__ import annotations

import pytest

from tests.classic_laws import check_causal, check_laws, check_split, episode
from text_gym import load_task
from text_gym.errors import ConfigError
from text_gym.tasks.counting import count


def solve(text: str) -> str:
    first, second = text.split(" ")
    written = [first]
    while written[-1] != second:
        written.append(str(int(written[-1]) + 1))
    return " ".join(written)


def test_each_right_token_earns_its_share() -> None:
    task = count()  # ids are the numbers; 10 is EOS
    (prompt,) = [p for p in [*task.prompts, *task.held_out] if p.text == "3 5"]
    rewards = task.reward(
        [episode(task, prompt, ids) for ids in ([3, 4, 5, 10], [3, 4, 10], [3, 4, 5, 6], [0, 4])]
    )
    assert rewards.totals == pytest.approx([1, 0.5, 0.75, 0.25])


@pytest.mark.parametrize("sparse", [False, True])
def test_laws(sparse: bool) -> None:
    check_laws(count(largest=3, sparse=sparse), solve)


def test_causal_and_split() -> None:
    check_causal(count())
    check_split(count())


def test_numbers_of_two_digits_are_one_token() -> None:
    task = count(largest=120)
    check_split(task)
    assert len(task.prompts) + len(task.held_out) == 4096
    assert all(len(task.tokenizer.encode(p.text)) == 2 for p in task.prompts)


def test_bad_parameters_are_named() -> None:
    with pytest.raises(ConfigError, match="largest is 0"):
        load_task("count", largest=0)
