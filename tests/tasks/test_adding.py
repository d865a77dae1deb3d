from __future__ import annotations

import pytest

from tests.classic_laws import check_causal, check_laws, check_split, episode
from text_gym import Task, load_task
from text_gym.errors import ConfigError
from text_gym.tasks.adding import add


def answers(task: Task) -> dict[str, str]:
    return {p.text: p.columns["answer"] for p in [*task.prompts, *task.held_out]}


def test_each_right_token_earns_its_share() -> None:
    task = add()  # ids are the digits; 10 is "+", 11 EOS
    (prompt,) = [p for p in [*task.prompts, *task.held_out] if p.text == "7+5"]
    rewards = task.reward(
        [episode(task, prompt, ids) for ids in ([1, 2, 11], [0, 2, 11], [1, 11], [1, 2, 2])]
    )
    assert rewards.totals == pytest.approx([1, 2 / 3, 1 / 3, 2 / 3])


def test_sums_worked_by_hand() -> None:
    assert answers(add())["9+9"] == "18"
    assert answers(add())["1+2"] == "03"
    assert answers(add(digits=2, base=2)) | {"11+11": "110", "01+10": "011"} == answers(add(digits=2, base=2))
    assert answers(add(least_first=True))["7+5"] == "21"
    for text, answer in answers(add(digits=3, seed=2)).items():
        assert int(answer) == int(text[:3]) + int(text[4:])


@pytest.mark.parametrize("sparse", [False, True])
def test_laws(sparse: bool) -> None:
    table = {"0+0": "00", "0+1": "01", "1+0": "01", "1+1": "10"}
    check_laws(add(base=2, sparse=sparse), table.__getitem__)


def test_causal_and_split() -> None:
    check_causal(add(digits=2))
    check_split(add())
    check_split(add(digits=3))


@pytest.mark.parametrize("wrong", [{"base": 1}, {"base": 11}, {"digits": 0}])
def test_bad_parameters_are_named(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        load_task("add", **wrong)
