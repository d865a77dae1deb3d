"""Interval: an estimate with its uncertainty, as tables, figures and JSON files show it.

How it is estimated is for others to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its 95 % interval.

    Args:
        value: The estimate; NaN where it is not defined (a constant has no rank correlation).
        low: Lower end; NaN where there are too few observations to say anything of their spread.
        high: Upper end.
        n: Number of observations.

    >>> Interval(0.5, 0.25, 0.75, n=30).summary()
    {'value': 0.5, 'ci95': [0.25, 0.75], 'n': 30}
    """

    value: float
    low: float
    high: float
    n: int

    def summary(self) -> dict[str, Any]:
        """As plain data."""
        return {"value": self.value, "ci95": [self.low, self.high], "n": self.n}
