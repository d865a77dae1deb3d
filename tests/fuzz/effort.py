"""How long the fuzzers try: about a second each in the suite, far longer at night, hours if asked to.

`python -m pytest -n 0 tests/fuzz -m nightly` runs the long ones; TEXT_GYM_FUZZ=20 makes them twenty times as
long. What they find is kept by Hypothesis in `.hypothesis` and tried first from then on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

_TIMES = float(os.environ.get("TEXT_GYM_FUZZ", "1"))
_NO_CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def tries(suite: int, night: int) -> pytest.MarkDecorator:
    """Give a test the argument `tries`: so many examples in the suite, and so many at night."""
    long = pytest.param(max(1, round(night * _TIMES)), marks=[pytest.mark.nightly, pytest.mark.timeout(0)])
    return pytest.mark.parametrize("tries", [suite, long], ids=["suite", "night"])


def effort(tries: int, **others: Any) -> settings:
    """The settings for so many examples; they may take as long as they like."""
    return settings(max_examples=tries, deadline=None, suppress_health_check=_NO_CHECKS, **others)


def count(run: Callable[[], None]) -> int:
    """Run a property; return how many examples were tried, which may be fewer than allowed."""
    inner, number = run.hypothesis.inner_test, 0  # type: ignore[attr-defined]

    @wraps(inner)
    def counted(*values: Any, **named: Any) -> None:
        nonlocal number
        number += 1
        inner(*values, **named)

    run.hypothesis.inner_test = counted  # type: ignore[attr-defined]
    run()
    return number
