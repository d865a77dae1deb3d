from __future__ import annotations

import pytest

from tests.classic_laws import check_causal, check_laws, check_split, episode
from text_gym import load_task
from text_gym.errors import ConfigError
from text_gym.tasks.copying import copy


def test_each_right_token_earns_its_share() -> None:
    task = copy(length=4)
    (prompt,) = [p for p in [*task.prompts, *task.held_out] if p.text == "abca"]
    rewards = task.reward([episode(task, prompt, [0, 2, 2, 0, 3])])  # "acca" and EOS
    assert rewards.per_token is not None
    assert rewards.per_token[0].tolist() == [0.2, 0, 0.2, 0.2, 0.2]
    assert rewards.terms["exact"].tolist() == [0]


def test_an_early_end_forfeits_the_rest() -> None:
    task = copy(length=2)
    prompt = next(p for p in task.prompts if p.text == "aa")
    rewards = task.reward([episode(task, prompt, ids) for ids in ([3], [0, 3], [0, 0], [0, 0, 0], [0, 0, 3])])
    assert rewards.totals == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3, 1])
    assert rewards.terms["exact"].tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("sparse", [False, True])
def test_laws(sparse: bool) -> None:
    check_laws(copy(length=3, symbols="ab", sparse=sparse), lambda text: text)


def test_sparse_pays_only_for_the_whole_answer() -> None:
    task = copy(length=2, sparse=True)
    prompt = next(p for p in task.prompts if p.text == "aa")
    rewards = task.reward([episode(task, prompt, ids) for ids in ([0, 0, 3], [0, 0, 0], [0, 1, 3], [0, 0])])
    assert not task.reward.causal
    assert rewards.per_token is None
    assert rewards.values.tolist() == [1, 0, 0, 0]
    assert task.random_return == 1 / 64  # three draws from four ids


def test_causal_and_split() -> None:
    check_causal(copy())
    check_split(copy())


def test_many_strings_are_sampled_by_seed() -> None:
    task = copy(length=40, symbols="abcdefgh")
    check_split(task)
    assert len(task.prompts) + len(task.held_out) == 4096
    assert task.prompts[:50] == copy(length=40, symbols="abcdefgh").prompts[:50]
    assert task.prompts[:50] != copy(length=40, symbols="abcdefgh", seed=1).prompts[:50]


def test_too_few_inputs_to_hold_any_out() -> None:
    task = load_task("copy", length=2, symbols="ab")
    assert [p.text for p in task.prompts] == [p.text for p in task.held_out] == ["aa", "ab", "ba", "bb"]


@pytest.mark.parametrize(
    "wrong", [{"length": 0}, {"length": 2.0}, {"length": True}, {"symbols": ""}, {"symbols": "aa"}]
)
def test_bad_parameters_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"length|symbols|distinct"):
        load_task("copy", **wrong)
