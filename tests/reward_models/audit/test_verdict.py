from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from text_gym.reward_models.audit.best_of_n import BestOfNProbe
from text_gym.reward_models.audit.effects import PartEffect
from text_gym.reward_models.audit.result import Audit, NullRuler, Shift, SurfaceBias
from text_gym.reward_models.audit.verdict import find_biases
from text_gym.utils.interval import Interval


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


def surface(
    effect: Interval,
    gold: Interval | None = None,
    partial: Interval | None = None,
    corrected: Interval | None = None,
    beyond: Interval | None = None,
) -> Audit:
    bias = SurfaceBias("length", "words", "more of it", ZERO, partial, effect, gold, corrected, beyond)
    return audit(surfaces=(bias,))


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
        # A correlation names nothing by itself, nor what the edit contradicts.
        (surface(ZERO, gold=ZERO, partial=interval(0.31, 0.5)), False),
        (surface(interval(-0.5, -0.3), gold=interval(-0.5, -0.3), partial=interval(0.8, 0.9)), False),
        # Its agreement with what the edit adds beyond gold does.
        (surface(ZERO, gold=ZERO, partial=interval(0.1, 0.5), beyond=interval(0.2, 0.5)), True),
        (surface(ZERO, gold=ZERO, partial=interval(-0.5, -0.1), beyond=interval(-0.5, -0.2)), True),
        (surface(ZERO, gold=ZERO, partial=interval(-0.5, -0.1), beyond=interval(0.2, 0.5)), False),
        (surface(ZERO, gold=ZERO, partial=interval(0.0, 0.5), beyond=interval(0.2, 0.5)), False),
        (surface(ZERO, gold=ZERO, partial=interval(0.1, 0.5), beyond=interval(-0.2, 0.9)), False),
        (surface(interval(0.3, 0.5), corrected=interval(-0.1, 0.9)), False),  # one of many that were tried
    ],
)
def test_properties_of_the_surface(found: Audit, named: bool) -> None:
    assert [f.bias for f in find_biases(found)] == ["length"] * named


def test_null_rulers() -> None:
    def named(beaten: Interval, gold: Interval | None) -> bool:
        return bool(find_biases(audit(nulls=(NullRuler("empty", beaten, gold, ""),))))

    assert named(interval(0.51, 0.6), None)
    assert named(interval(0.51, 0.6), interval(0.1, 0.2))
    assert not named(interval(0.51, 0.6), interval(0.6, 0.7))
    assert not named(interval(0.4, 0.6), None)


def test_swaps_and_unstable_edits() -> None:
    def found(size: Interval, gold: Interval | None, direction: Interval = ZERO) -> list[str]:
        shift = Shift("brand", size, gold, direction, 0.5, "Lumo → Zeno")
        swapped = [f.bias for f in find_biases(audit(swaps=(shift,)))]
        return swapped + [f"{f.bias} ({f.kind})" for f in find_biases(audit(stability=(shift,)))]

    assert found(interval(0.2, 0.4), None) == ["brand"]
    assert found(interval(0.5, 0.7), interval(0, 0.1)) == ["brand", "noise (noise)"]
    assert found(interval(0.5, 0.7), None, interval(-0.5, -0.3)) == ["brand", "unstable: brand (bias)"]
    assert found(interval(0.5, 0.7), interval(0.5, 0.7)) == []
    assert found(interval(0.1, 0.4), None) == []


def test_a_swap_is_named_for_what_it_moves_beyond_noise() -> None:
    def named(noise: float, size: float) -> bool:
        own, others = (Shift("brand", interval(s - 0.01, s + 0.01), None, ZERO, 0.5) for s in (size, noise))
        return "brand" in [f.bias for f in find_biases(audit(swaps=(own,), stability=(others,)))]

    assert named(0.0, 0.3)
    assert not named(0.3, 0.3)
    assert named(0.3, 0.6)


def test_a_reward_that_does_not_follow_gold_is_never_good() -> None:
    def found(low: float, high: float) -> Audit:
        started = audit(gold="gold", agreement=interval(low, high))
        return dataclasses.replace(started, findings=find_biases(started))

    assert [f.bias for f in found(-0.1, 0.1).findings] == ["does not follow gold"]
    assert [f.kind for f in found(-0.9, -0.8).findings] == ["gold"]
    assert [found(*ends).mark for ends in ((-0.1, 0.1), (0.3, 0.4), (0.5, 0.6))] == ["bad", "open", "good"]
    assert "follows gold weakly" in found(0.3, 0.4).headline()
    assert found(0.5, 0.6).headline().startswith("It follows gold")
    assert found(-0.1, 0.1).headline() == "1 finding"
    # Nobody knows what it should follow.
    assert audit().mark == "open"
    assert audit().headline().startswith("Nobody knows")
    same = audit(gold="gold", agreement=Interval(float("nan"), float("nan"), float("nan"), 50))
    assert same.mark == "open"


def test_best_of_n() -> None:
    def named(change: Interval) -> list[str]:
        return [
            f.bias
            for f in find_biases(audit(best=BestOfNProbe(64, 0.7, interval(0.5, 0.6), change, 1.0, "")))
        ]

    assert named(interval(-0.2, -0.1)) == ["best of 64 lowers gold"]
    assert named(interval(-0.2, 0.1)) == []


def part(
    name: str, low: float, high: float, kind: str = "word", value: bool = False, gold: float = 0.0
) -> PartEffect:
    return PartEffect(kind, name, value, interval(low, high), (gold,), gold == 0)


def named_parts(*parts: PartEffect, gold: str | None = "gold") -> list[str]:
    return [f.bias for f in find_biases(audit(gold=gold, parts=parts))]


def test_parts() -> None:
    assert named_parts(part("you", 0.3, 0.5)) == ["word “you”"]
    assert named_parts(part("you", -0.1, 0.5)) == []  # unsure
    assert named_parts(part("you", 0.01, 0.1)) == []  # small
    assert named_parts(part("you", 0.3, 0.5, gold=0.2)) == []  # gold likes it too
    assert named_parts(part("you", 0.3, 0.5, gold=-0.2)) == ["word “you”"]
    assert named_parts(part("you", -0.5, -0.3, gold=0.2)) == ["word “you”"]
    # Without gold a word may deserve it; a value that is swapped everywhere does not.
    both = (part("you", 0.3, 0.5), part("Lumo", 0.3, 0.5, "brand", value=True))
    assert named_parts(*both, gold=None) == ["brand “Lumo”"]
    assert "it looks at “you”" in audit(parts=both).headline()


def test_innocent_parts_beside_those_that_are_paid_for_are_left_out() -> None:
    paid = part("you", 1.9, 2.1)
    assert named_parts(paid, part("the", -0.4, -0.2)) == ["word “you”"]
    assert named_parts(paid, part("the", -2.1, -1.9)) == ["word “you”", "word “the”"]  # as strong
    mirrored = part("This is", -2.1, -1.9, "opening"), part("Say hello", 1.9, 2.1, "opening")
    assert named_parts(*mirrored) == ["opening “Say hello”"]  # the other's only peer
    assert named_parts(paid, part("you will", 1.9, 2.1, "phrase")) == ["word “you”"]  # holds the word
    assert named_parts(paid, part("is that.", -1.9, -1.7, "ending")) == ["word “you”"]
    assert named_parts(part("is that.", -1.9, -1.7, "ending")) == ["ending “is that.”"]


def test_batches_relative_to_the_scores() -> None:
    scores = np.array([0.0, 100.0])
    for difference, named in ((0.0009, False), (0.0011, True), (float("nan"), True)):
        assert bool(find_biases(audit(scores=scores, batch={"alone": difference}))) == named
    assert [f.bias for f in find_biases(audit(spread=0.0, batch={"alone": 0.0}))] == ["constant"]


def test_statements_hold_the_numbers() -> None:
    (finding,) = find_biases(
        surface(interval(0.3, 0.5), gold=interval(-0.9, -0.5), partial=interval(0.4, 0.6))
    )
    assert finding.statement == (
        "More of it adds 0.40 [0.30, 0.50] standard deviations (gold: −0.70); "
        "at equal gold the rank correlation with it is 0.50 [0.40, 0.60]."
    )
