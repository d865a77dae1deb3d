"""Answers questions by yes, no, or "these runs cannot tell", with the rules stated beside them.

They rest on Student's interval over seeds (see `statistics.contrast`), which is wide where seeds are few; a
percentile bootstrap over two or three seeds is but their range.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from text_gym.utils.interval import Interval

GOLD_MARGIN = 0.05  # of gold, which lies in [0, 1]: a fall by less does not matter
EFFECT_MARGIN = 0.025  # between two designs
ALGORITHM_MARGIN = 0.01  # between two optimisers of one reward
WORDS_MARGIN = 2.0
RHO_MARGIN = 0.3
UNKNOWN = "cannot be told"
ANSWERS = {"yes": "Yes.", "no": "No.", UNKNOWN: "These runs cannot tell."}
Number = tuple[str, Interval]
Kind = TypeVar("Kind", bound=Interval)


@dataclass(frozen=True)
class Finding:
    """A question about the runs, and its answer.

    Args:
        name: For programs, e.g. `"over_optimisation"`.
        question: In words.
        verdict: `"yes"`, `"no"` or `"cannot be told"`.
        statement: The answer in words, with its numbers.
        rule: How the verdict follows from the numbers.
        numbers: Label and interval of what it rests on.
        design: The design it is about; empty where it compares several.
        answer: What is said in place of yes, no or that it cannot be told.
        alarm: Whether something went wrong that a reader must see.
        p: Two-sided p-value of the effect that the answer needs, the largest where it needs several; NaN
            where the answer does not rest on Student's interval.
    """

    name: str
    question: str
    verdict: str
    statement: str
    rule: str
    numbers: Sequence[Number] = field(default=())
    design: str = ""
    answer: str = ""
    alarm: bool = False
    p: float = math.nan

    def summary(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        numbers = [{"label": label, **interval.summary()} for label, interval in self.numbers]
        return asdict(self) | {"numbers": numbers, "answer": self.answer or ANSWERS[self.verdict]}


def judge_increase(effect: Interval, margin: float) -> str:
    """Judge whether an effect is above zero and large enough to matter.

    Yes: the whole interval is above 0 and the estimate at least the margin. No: the whole interval is below
    the margin. Otherwise it cannot be told.

    >>> [judge_increase(Interval(x, x - 1, x + 1, 3), 0.5) for x in (2, -2, 0)]
    ['yes', 'no', 'cannot be told']
    """
    if effect.low > 0 and effect.value >= margin:
        return "yes"
    return "no" if effect.high < margin else UNKNOWN


def minus(interval: Kind) -> Kind:
    """Return the interval of the effect with its sign reversed."""
    return replace(interval, value=-interval.value, low=-interval.high, high=-interval.low)


def judge_change(effect: Interval, margin: float) -> str:
    """Judge whether an effect differs from zero in either direction, and is large enough to matter.

    >>> [judge_change(Interval(x, x - 1, x + 1, 3), 2) for x in (3, -3, 0.5, 1.5)]
    ['yes', 'yes', 'no', 'cannot be told']
    """
    if (effect.low > 0 or effect.high < 0) and abs(effect.value) >= margin:
        return "yes"
    return "no" if -margin < effect.low and effect.high < margin else UNKNOWN


def holm(chances: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values (Holm 1979), leaving NaN as it is.

    Whoever takes as found what is at most 0.05 errs anywhere in the whole family with probability 0.05 at
    most, however its questions depend on each other.

    >>> holm([0.01, 0.04, float("nan"), 0.03])
    [0.03, 0.06, nan, 0.06]
    """
    known = sorted((p, i) for i, p in enumerate(chances) if not math.isnan(p))
    adjusted, largest = list(chances), 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[i] = largest
    return adjusted


def multiplicity(findings: Sequence[Finding]) -> dict[str, Any]:
    """Count the questions asked, and the intervals that would exclude zero by chance alone."""
    tested = [f.p for f in findings if not math.isnan(f.p)]
    return {
        "questions": len(findings),
        "tested": len(tested),
        "expected_by_chance": 0.05 * len(tested),
        "below_0.05": sum(p < 0.05 for p in tested),
        "below_0.05_by_holm": sum(p < 0.05 for p in holm(tested)),
    }


def chance_note(found: Mapping[str, Any]) -> str:
    """Describe the result of `multiplicity`; "" where nothing was tested."""
    if not found["tested"]:
        return ""
    return (
        f"{found['tested']} of {found['questions']} answers rest on 95 % intervals. If there were no effect "
        f"anywhere, about {found['expected_by_chance']:.1f} of these would exclude zero by chance; "
        f"{found['below_0.05']} do, {found['below_0.05_by_holm']} after Holm's correction for all of them."
    )


def summarise_findings(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return the findings as plain data, each with its Holm-adjusted p-value."""
    adjusted = holm([f.p for f in findings])
    return [f.summary() | {"p_holm": p} for f, p in zip(findings, adjusted, strict=True)]
