"""Answers to questions: yes, no, or that these runs cannot tell, by rules that are stated beside them.

They rest on Student's interval over runs (see `statistics.contrast`), which is wide where runs are few; a
percentile bootstrap over two or three runs is but their range.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..interval import Interval

GOLD_MARGIN = 0.05  # of gold, which lies in [0, 1]: a fall by less does not matter
EFFECT_MARGIN = 0.025  # between two designs
ALGORITHM_MARGIN = 0.01  # between two optimisers of one reward
WORDS_MARGIN = 2.0
RHO_MARGIN = 0.3
UNKNOWN = "cannot be told"
Number = tuple[str, Interval]


@dataclass(frozen=True)
class Finding:
    """A question and its answer.

    Args:
        name: For programs, e.g. `"over_optimisation"`.
        question: In words.
        verdict: `"yes"`, `"no"` or `"cannot be told"`.
        statement: The answer in words, with its numbers.
        rule: How the verdict follows from the numbers.
        numbers: Label and interval of what it rests on.
    """

    name: str
    question: str
    verdict: str
    statement: str
    rule: str
    numbers: Sequence[Number] = field(default=())

    def summary(self) -> dict[str, Any]:
        """As plain data."""
        numbers = [{"label": label, **interval.summary()} for label, interval in self.numbers]
        return asdict(self) | {"numbers": numbers}


def judge(effect: Interval, margin: float) -> str:
    """Whether an effect is above zero and matters.

    Yes: the whole interval is above 0 and the estimate at least the margin. No: the whole interval is below
    the margin. Otherwise it cannot be told.

    >>> [judge(Interval(x, x - 1, x + 1, 3), 0.5) for x in (2, -2, 0)]
    ['yes', 'no', 'cannot be told']
    """
    if effect.low > 0 and effect.value >= margin:
        return "yes"
    return "no" if effect.high < margin else UNKNOWN


def shown(interval: Interval, digits: int = 2, sign: bool = False) -> str:
    """An interval in a sentence.

    >>> shown(Interval(-0.314, -0.4, -0.2, 3)), shown(Interval(0.5, float("nan"), float("nan"), 1), 1, True)
    ('−0.31 [−0.40, −0.20]', '+0.5 (no interval)')
    """
    if math.isnan(interval.value):
        return "not known"
    form = f"{{:{'+' if sign else ''}.{digits}f}}"
    centre, low, high = (form.format(x) for x in (interval.value, interval.low, interval.high))
    text = centre + (" (no interval)" if math.isnan(interval.low) else f" [{low}, {high}]")
    return re.sub(r"[-+](0\.?0*)(?![.\d])", r"\1", text).replace("-", "−")


def minus(interval: Interval) -> Interval:
    """The interval of the effect with its sign turned."""
    return Interval(-interval.value, -interval.high, -interval.low, interval.n)
