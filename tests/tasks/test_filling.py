from __future__ import annotations

import pytest

from tests.classic_laws import check_causal, check_laws, check_split, episode
from text_gym import load_task
from text_gym.errors import ConfigError
from text_gym.tasks.filling import slots

ORDER = "small big new old round square red blue glass steel lamp box".split()  # noqa: SIM905


def solve(text: str) -> str:
    return " ".join(["the", *(word for word in ORDER if word in text.split())])


def test_each_right_token_earns_its_share() -> None:
    task = slots(slots=2)
    prompt = next(p for p in [*task.prompts, *task.held_out] if p.text == "lamp glass")
    right = [*task.tokenizer.encode("the glass lamp"), *task.tokenizer.eos_ids]
    swapped = [*task.tokenizer.encode("the lamp glass"), *task.tokenizer.eos_ids]
    rewards = task.reward([episode(task, prompt, ids) for ids in (right, swapped)])
    assert rewards.totals == pytest.approx([1, 0.5])


@pytest.mark.parametrize("sparse", [False, True])
def test_laws(sparse: bool) -> None:
    check_laws(slots(slots=2, sparse=sparse), solve)


def test_causal_and_split() -> None:
    check_causal(slots())
    check_split(slots())


@pytest.mark.parametrize("wrong", [{"slots": 0}, {"slots": 7}, {"values": 0}, {"values": 5}])
def test_bad_parameters_are_named(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"slots|values"):
        load_task("slots", **wrong)
