from __future__ import annotations

import json
import math

import pytest

from text_gym.bench.verdicts import UNKNOWN, Finding, judge, minus, shown
from text_gym.interval import Interval


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
    assert judge(Interval(value, low, high, 3), 0.05) == verdict


def test_minus_turns_the_interval() -> None:
    assert minus(Interval(1, -1, 4, 3)) == Interval(-1, -4, 1, 3)


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
