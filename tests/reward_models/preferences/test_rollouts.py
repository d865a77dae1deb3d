from __future__ import annotations

import random

import pytest

from text_gym import Prompt
from text_gym.errors import ConfigError, DataError
from text_gym.reward_models.preferences.rollouts import label_by_rollouts

# A solution is right if it has no x; the writer ends it with an x at every fourth of its texts.
PROMPTS = [Prompt("one:"), Prompt("two:")]
SOLUTIONS = [(PROMPTS[0], ["a", "b", "c"]), (PROMPTS[1], ["a", "x", "c"])]


def write(prompts: list[Prompt], texts: list[str]) -> list[str]:
    assert all(text.endswith("\n") for text in texts)
    return ["x" if i % 4 == 0 else "c" for i in range(len(texts))]


def is_right(prompt: Prompt, text: str) -> bool:
    return "x" not in text


@pytest.mark.parametrize(("estimate", "share"), [("soft", 0.75), ("hard", 1.0)])
def test_a_label_is_how_often_rollouts_from_the_step_end_well(estimate: str, share: float) -> None:
    found = label_by_rollouts(SOLUTIONS, write, is_right, rollouts=4, estimate=estimate)  # type: ignore[arg-type]
    assert [s.labels for s in found] == [(share, share, 1.0), (share, 0.0, 0.0)]
    assert [s.steps for s in found] == [("a", "b", "c"), ("a", "x", "c")]
    assert [s.prompt for s in found] == PROMPTS


def test_many_rollouts_give_the_probability() -> None:
    rng = random.Random(0)
    found = label_by_rollouts(
        SOLUTIONS[:1], lambda p, t: ["x" if rng.random() < 0.3 else "c" for _ in t], is_right, rollouts=4000
    )
    assert found[0].labels[:2] == pytest.approx((0.7, 0.7), abs=0.03)


def test_bad_arguments_and_writers_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        label_by_rollouts(SOLUTIONS, write, is_right, rollouts=0)
    with pytest.raises(DataError, match="32 continuations were asked for, and 1 came"):
        label_by_rollouts(SOLUTIONS, lambda p, t: ["c"], is_right)
    with pytest.raises(DataError, match="0 steps"):
        label_by_rollouts([(PROMPTS[0], [])], write, is_right)
