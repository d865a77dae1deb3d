from __future__ import annotations

import pytest

from tests.classic_laws import check_causal, check_laws, check_split, episode
from text_gym import load_task
from text_gym.errors import ConfigError
from text_gym.tasks.brackets import brackets


def solve(text: str) -> str:
    while any(pair in text for pair in ("()", "[]")):
        text = text.replace("()", "").replace("[]", "")
    return text[::-1].translate(str.maketrans("([", ")]"))


def test_each_right_token_earns_its_share() -> None:
    task = brackets(length=3)  # ids: ( ) [ ] EOS
    (prompt,) = [p for p in [*task.prompts, *task.held_out] if p.text == "([("]
    rewards = task.reward(
        [episode(task, prompt, ids) for ids in ([1, 3, 1, 4], [3, 3, 1, 4], [1, 4], [0, 0, 0, 4])]
    )
    assert rewards.totals == pytest.approx([1, 0.75, 0.25, 0.25])


def test_prompts_are_the_prefixes_of_balanced_strings_with_something_open() -> None:
    # Of the 16 strings of two brackets: four of two openings; "()" and "[]" leave nothing open.
    task = brackets(length=2)
    assert {p.text for p in task.prompts} == {"((", "([", "[(", "[["}
    # Of three: 8 of openings only; with one closing in second place 2 * 2, in third place 4.
    assert len(brackets(length=3).prompts) + len(brackets(length=3).held_out) == 16


@pytest.mark.parametrize("sparse", [False, True])
def test_laws(sparse: bool) -> None:
    check_laws(brackets(length=3, sparse=sparse), solve)


def test_causal_and_split() -> None:
    check_causal(brackets(length=6))
    check_split(brackets())


def test_long_prompts_are_sampled_and_can_be_closed() -> None:
    task = brackets(length=31, kinds=2)
    check_split(task)
    assert len(task.prompts) + len(task.held_out) == 4096
    assert all(solve(p.text) == p.columns["answer"] for p in task.prompts[:200])


@pytest.mark.parametrize("wrong", [{"kinds": 0}, {"kinds": 5}, {"length": -1}])
def test_bad_parameters_are_named(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        load_task("brackets", **wrong)
