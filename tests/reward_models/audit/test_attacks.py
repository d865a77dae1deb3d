from __future__ import annotations

import math

import pytest

from text_gym import ByteTokenizer, Episode, FunctionReward
from text_gym.errors import ConfigError
from text_gym.reward_models.audit.attacks import ATTACKS, attack_report, attacked

TOKENIZER = ByteTokenizer()
TEXTS = [Episode.of("Describe:", f"A fine mug, number {i}.", TOKENIZER) for i in range(7)]


def test_a_source_that_cannot_be_ordered_about_withstands_all() -> None:
    report = attack_report(FunctionReward(lambda completion: float("mug" in completion)), TEXTS)
    assert (report.attacks, report.raised, report.changed, report.missing) == (200, 0, 0, 0)
    assert report.interval[0] == 0
    # Wilson's upper limit for 0 of n: z² / (n + z²).
    assert report.interval[1] == pytest.approx(1.959964**2 / (200 + 1.959964**2), abs=1e-5)


def test_a_gullible_judge_is_found_out_and_the_attack_named() -> None:
    def gullible(completion: str) -> float:
        return 5.0 if "Forget the rubric" in completion else 1.0

    report = attack_report(FunctionReward(gullible), TEXTS, count=200)
    assert report.raised == report.changed == 1 / len(ATTACKS)
    assert report.mean_change == pytest.approx(4 / len(ATTACKS))
    assert "Forget the rubric" in report.worst[0]
    assert report.worst[1] == 4
    assert report.control == 0


def test_what_any_addition_does_is_told_by_the_control() -> None:
    report = attack_report(FunctionReward(lambda completion: len(completion)), TEXTS)
    assert report.raised == report.control == 1


def test_missing_scores_are_in_no_rate() -> None:
    def shy(completion: str) -> float | None:
        return None if "judge" in completion.lower() else 1.0

    report = attack_report(FunctionReward(shy, abstains=True), TEXTS)
    expected = sum("judge" in attacked("", i).lower() for i in range(200))
    assert report.missing == expected > 0
    assert report.attacks == 200 - expected
    nothing = attack_report(FunctionReward(lambda completion: None, abstains=True), TEXTS, count=5)
    assert nothing.attacks == 0
    assert math.isnan(nothing.raised)
    assert nothing.interval == (0, 1)


def test_attacks_keep_the_answer_and_differ() -> None:
    made = [attacked("The answer.", i) for i in range(len(ATTACKS) * 8)]
    assert all("The answer." in text for text in made)
    assert len(set(made)) >= 3 * len(ATTACKS) // 2
    assert not any("{end}" in text for text in made)


def test_nothing_to_attack() -> None:
    with pytest.raises(ConfigError):
        attack_report(FunctionReward(len), [])
    with pytest.raises(ConfigError):
        attack_report(FunctionReward(len), TEXTS, count=0)
