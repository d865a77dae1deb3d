from __future__ import annotations

import json
from typing import Any

import numpy as np

from text_gym.reward_models.audit.result import Audit, AuditFinding, SurfaceBias, as_json
from text_gym.utils.interval import Interval

EFFECT = Interval(0.4, 0.3, 0.5, 50)


def found(**more: Any) -> Audit:
    surface = SurfaceBias("length", "words", "more of it", Interval(0.1, 0.0, 0.2, 50), None, EFFECT, None)
    values: dict[str, Any] = {
        **dict.fromkeys(("source", "tree"), "tested"),
        **dict.fromkeys(("gold", "golds", "agreement")),
        **dict.fromkeys(("nulls", "swaps", "stability", "explanations", "gradients", "findings"), ()),
        "texts": ("a", "b"),
        "scores": np.array([0.0, 1.0]),
        "spread": 0.5,
        "missing": 0,
        "surfaces": (surface,),
        "batch": {},
        "terms": {},
    }
    return Audit(**(values | more))


def test_the_summary_is_plain_data() -> None:
    content = found().summary()
    assert json.loads(json.dumps(content)) == content
    assert content["surfaces"][0]["effect"] == {"value": 0.4, "ci95": [0.3, 0.5], "n": 50}
    assert content["thresholds"]["effect"] == 0.2
    assert content["mark"] == "open"
    assert content["headline"].startswith("Nobody knows")
    assert as_json(float("nan")) is None


def test_the_correlation_with_length() -> None:
    assert found().length == Interval(0.1, 0.0, 0.2, 50)
    assert found(surfaces=()).length is None


def test_an_audit_shows_its_headline_and_what_shows_it() -> None:
    finding = AuditFinding("length", "ten more words add 0.4 standard deviations")
    audit = found(findings=(finding,), agreement=Interval(0.1, 0.0, 0.2, 50), gold="mine")
    assert repr(audit) == "Audit(tested: 1 finding; 2 texts)"
    html = audit._repr_html_()
    for fact in ("Audit of tested: 1 finding", ">ten more words add 0.4", "0.40 [0.30, 0.50]"):
        assert fact in html
    assert "</span>mine<" in html
