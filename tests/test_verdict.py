from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from text_gym.interval import Interval
from text_gym.reward_models.verdict import Audit, NullRuler, Shift, SurfaceBias, plain, verdict


def interval(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, low, high, 50)


ZERO = interval(-0.1, 0.1)


def audit(**found: Any) -> Audit:
    """An audit in which nothing was found but what is given."""
    nothing: dict[str, Any] = {
        "source": "tested",
        "tree": "tested: FunctionReward",
        "gold": None,
        "texts": ("a", "b"),
        "scores": np.array([0.0, 1.0]),
        "golds": None,
        "spread": 0.5,
        "agreement": None,
        "missing": 0,
        "nulls": (),
        "surfaces": (),
        "swaps": (),
        "stability": (),
        "batch": {},
        "terms": {},
        "explanations": (),
        "gradients": (),
        "findings": (),
    }
    return Audit(**(nothing | found))


def surface(effect: Interval, gold: Interval | None = None, partial: Interval | None = None) -> Audit:
    return audit(surfaces=(SurfaceBias("length", "words", "more of it", ZERO, partial, effect, gold),))


@pytest.mark.parametrize(
    ("found", "named"),
    [
        (surface(interval(0.3, 0.5)), True),
        (surface(interval(0.3, 0.5), gold=ZERO), True),
        (surface(interval(0.3, 0.5), gold=interval(-0.9, -0.5)), True),
        (surface(interval(0.3, 0.5), gold=interval(0.3, 0.5)), False),  # gold wants it too
        (surface(interval(0.1, 0.2)), False),  # small
        (surface(interval(-0.1, 0.9)), False),  # unsure
        (surface(interval(-0.5, -0.3)), False),  # perhaps deserved
        (surface(interval(-0.5, -0.3), gold=ZERO), True),  # not deserved
        (surface(interval(-0.5, -0.3), gold=interval(-0.5, -0.3)), False),
        (surface(ZERO, gold=ZERO, partial=interval(0.31, 0.5)), True),
        (surface(ZERO, gold=ZERO, partial=interval(-0.5, -0.31)), True),
        (surface(ZERO, gold=ZERO, partial=interval(0.2, 0.9)), False),
    ],
)
def test_properties_of_the_surface(found: Audit, named: bool) -> None:
    assert [f.bias for f in verdict(found)] == ["length"] * named


def test_null_rulers() -> None:
    def named(beaten: Interval, gold: Interval | None) -> bool:
        return bool(verdict(audit(nulls=(NullRuler("empty", beaten, gold, ""),))))

    assert named(interval(0.51, 0.6), None)
    assert named(interval(0.51, 0.6), interval(0.1, 0.2))
    assert not named(interval(0.51, 0.6), interval(0.6, 0.7))
    assert not named(interval(0.4, 0.6), None)


def test_swaps_and_unstable_edits() -> None:
    def found(size: Interval, gold: Interval | None) -> list[str]:
        shift = Shift("brand", size, gold, ZERO, 0.5, "Lumo → Zeno")
        return [f.bias for f in verdict(audit(swaps=(shift,), stability=(shift,)))]

    assert found(interval(0.2, 0.4), None) == ["brand"]
    assert found(interval(0.5, 0.7), interval(0, 0.1)) == ["brand", "unstable: brand"]
    assert found(interval(0.5, 0.7), interval(0.5, 0.7)) == []
    assert found(interval(0.1, 0.4), None) == []


def test_batches_relative_to_the_scores() -> None:
    scores = np.array([0.0, 100.0])
    for difference, named in ((0.0009, False), (0.0011, True), (float("nan"), True)):
        assert bool(verdict(audit(scores=scores, batch={"alone": difference}))) == named
    assert [f.bias for f in verdict(audit(spread=0.0, batch={"alone": 0.0}))] == ["constant"]


def test_statements_hold_the_numbers() -> None:
    (finding,) = verdict(surface(interval(0.3, 0.5), gold=interval(-0.9, -0.5), partial=interval(0.4, 0.6)))
    assert finding.statement == (
        "More of it adds 0.40 [0.30, 0.50] standard deviations (gold: −0.70); "
        "at equal gold the rank correlation with it is 0.50 [0.40, 0.60]."
    )


def test_the_summary_is_plain_data() -> None:
    content = surface(interval(0.3, 0.5)).summary()
    assert json.loads(json.dumps(content)) == content
    assert content["surfaces"][0]["effect"] == {"value": 0.4, "ci95": [0.3, 0.5], "n": 50}
    assert content["thresholds"]["effect"] == 0.2
    assert plain(float("nan")) is None
