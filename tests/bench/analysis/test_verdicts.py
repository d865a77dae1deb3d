from __future__ import annotations

import json
import math

import numpy as np
import pytest

from text_gym.bench.analysis.statistics import Estimate
from text_gym.bench.analysis.verdicts import (
    UNKNOWN,
    Finding,
    chance_note,
    holm,
    judge_change,
    judge_increase,
    minus,
    multiplicity,
    summarise_findings,
)
from text_gym.utils.interval import Interval, shown


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (0.10, 0.01, 0.19, "yes"),
        (0.10, -0.01, 0.21, UNKNOWN),
        (0.04, 0.01, 0.07, UNKNOWN),  # there, but too small to matter, or not
        (0.02, 0.01, 0.03, "no"),  # there, but too small to matter
        (0.00, -0.04, 0.04, "no"),
        (0.00, -0.06, 0.06, UNKNOWN),
        (-0.10, -0.20, 0.00, "no"),
        (0.10, math.nan, math.nan, UNKNOWN),  # a single run
    ],
)
def test_verdicts(value: float, low: float, high: float, verdict: str) -> None:
    assert judge_increase(Interval(value, low, high, 3), 0.05) == verdict


def test_minus_turns_the_interval() -> None:
    assert minus(Interval(1, -1, 4, 3)) == Interval(-1, -4, 1, 3)
    assert minus(Estimate(1, -1, 4, 3, 2.0, 0.3)) == Estimate(-1, -4, 1, 3, 2.0, 0.3)


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (0.10, 0.01, 0.19, "yes"),
        (-0.10, -0.19, -0.01, "yes"),
        (0.04, 0.01, 0.07, UNKNOWN),
        (0.01, -0.04, 0.04, "no"),
        (-0.01, -0.06, 0.04, UNKNOWN),
        (0.10, math.nan, math.nan, UNKNOWN),
    ],
)
def test_changes_in_either_direction(value: float, low: float, high: float, verdict: str) -> None:
    assert judge_change(Interval(value, low, high, 3), 0.05) == verdict


def test_holms_adjustment_rejects_what_his_procedure_rejects() -> None:
    """By the definition: go up from the smallest p; stop at the first above level / (number left)."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        chances = rng.beta(0.3, 2, size=rng.integers(1, 8)).tolist()
        for level in (0.01, 0.05, 0.3):
            rejected: set[int] = set()
            for p, i in sorted((p, i) for i, p in enumerate(chances)):
                if p > level / (len(chances) - len(rejected)):
                    break
                rejected.add(i)
            assert {i for i, p in enumerate(holm(chances)) if p <= level} == rejected
    assert holm([]) == []


def test_holm_keeps_the_error_of_the_family() -> None:
    """With ten true hypotheses any is rejected in 1 - (1 - 0.05 / 10)^10 = 4.9 % of families."""
    drawn = np.random.default_rng(1).uniform(size=(4000, 10))
    wrong = np.mean([min(holm(row)) <= 0.05 for row in drawn.tolist()])
    assert wrong == pytest.approx(1 - (1 - 0.005) ** 10, abs=0.012)


def test_how_many_questions_are_asked() -> None:
    found = [Finding("a", "q", "yes", "s", "r", p=p) for p in (0.001, 0.04, 0.6, math.nan)]
    many = multiplicity(found)
    assert many == {
        "questions": 4,
        "tested": 3,
        "expected_by_chance": pytest.approx(0.15),
        "below_0.05": 2,
        "below_0.05_by_holm": 1,
    }
    assert "3 of 4 answers" in chance_note(many)
    assert chance_note(multiplicity(found[3:])) == ""
    assert [f["p_holm"] for f in summarise_findings(found)][:3] == pytest.approx([0.003, 0.08, 0.6])


def test_answers_in_words() -> None:
    assert Finding("a", "q", UNKNOWN, "s", "r").summary()["answer"] == "These runs cannot tell."
    assert Finding("a", "q", "no", "s", "r", answer="Hacked.").summary()["answer"] == "Hacked."


def test_numbers_in_sentences() -> None:
    assert shown(Interval(0.123, -0.001, 0.25, 3)) == "0.12 [0.00, 0.25]"
    assert shown(Interval(-1.26, -2.5, -0.04, 3), 1, True) == "−1.3 [−2.5, 0.0]"
    assert shown(Interval(10.2, 9.6, 11.4, 3), 0, True) == "+10 [+10, +11]"
    assert shown(Interval(math.nan, math.nan, math.nan, 0)) == "not known"


def test_a_finding_is_plain_data() -> None:
    finding = Finding("a", "b?", "yes", "c.", "d.", [("e", Interval(1, 0, 2, 3))])
    assert json.loads(json.dumps(finding.summary()))["numbers"] == [
        {"label": "e", "value": 1, "ci95": [0, 2], "n": 3}
    ]
