"""Findings of two made-up benchmarks side by side: what agrees is said to agree, and nothing else is."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.bench_folder import write_benchmark
from text_gym.bench.analysis.across import across
from text_gym.bench.analysis.summary import summarise
from text_gym.bench.analysis.verdicts import UNKNOWN
from text_gym.errors import DataError
from text_gym.utils.json_files import write_json


def finding(name: str, verdict: str, value: float | None = 0.1, **more: Any) -> dict[str, Any]:
    numbers = [] if value is None else [{"label": "all", "value": value}]
    own = {"name": name, "design": "", "question": f"{name}?", "verdict": verdict, "answer": verdict}
    return {**own, "alarm": False, "numbers": numbers, **more}


def summary(folder: Path, name: str, *findings: dict[str, Any]) -> Path:
    file = folder / f"{name}.json"
    file.write_text(json.dumps({"what": "rewards", "findings": findings}))
    return file


def agreements(folder: Path, a: list[dict[str, Any]], b: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(f.name, f.agreement) for f in across(summary(folder, "a", *a), summary(folder, "b", *b))]


def test_each_kind_of_agreement(tmp_path: Path) -> None:
    verdicts = {
        "same": ("yes", "yes", "on both"),
        "none": ("no", "no", "on both"),
        "other": ("yes", "no", "opposite"),
        "first": ("yes", UNKNOWN, "on A only"),
        "second": (UNKNOWN, "no", "on B only"),
        "neither": (UNKNOWN, UNKNOWN, "cannot be told"),
    }
    a = [finding(name, v[0]) for name, v in verdicts.items()]
    b = [finding(name, v[1]) for name, v in reversed(verdicts.items())]
    assert agreements(tmp_path, a, b) == [(name, v[2]) for name, v in verdicts.items()]


def test_one_verdict_that_stands_for_different_things_is_not_the_same(tmp_path: Path) -> None:
    """`outcome` says no of a design that is hacked, and of one that gold hardly moves with."""
    hacked, flat = finding("outcome", "no", alarm=True), finding("outcome", "no", alarm=False)
    assert agreements(tmp_path, [hacked], [flat]) == [("outcome", "opposite")]
    assert agreements(tmp_path, [hacked], [hacked]) == [("outcome", "on both")]


def test_questions_are_matched_by_their_words_and_single_ones_by_name(tmp_path: Path) -> None:
    length, hype = (finding("rater", "yes", question=f"a rater who likes {x}?") for x in ("length", "hype"))
    pooled, others = (finding("over_optimisation", "yes", question=f"are {x}?") for x in ("a, b", "a, c"))
    one = finding("texts", "yes", design="gold")
    asked, again, once_more = (finding("prevention", "yes", question=f"does β help {x}?") for x in "abc")
    others_too = [again, once_more, finding("texts", "no")]
    found = agreements(tmp_path, [length, hype, pooled, one, asked], [hype, others, *others_too])
    # `length` has no counterpart, nor has the finding on gold: the other is about no design. Of two questions
    # on prevention neither is the one that was asked.
    assert found == [("rater", "on both"), ("over_optimisation", "on both")]


def test_effects_and_their_signs(tmp_path: Path) -> None:
    a = summary(tmp_path, "a", finding("x", "yes", 0.3), finding("y", "yes", 0.1), finding("z", "no", None))
    b = summary(tmp_path, "b", finding("x", "yes", 0.2), finding("y", "yes", -0.1), finding("z", "no", 0.1))
    x, y, z = across(a, b)
    assert (x.effect_a, x.effect_b, x.same_sign) == (0.3, 0.2, True)
    assert (y.same_sign, z.same_sign) == (False, False)
    assert math.isnan(z.effect_a)


def test_a_benchmark_agrees_with_itself_wherever_it_can_tell(tmp_path: Path) -> None:
    folder = write_benchmark(tmp_path / "made", ["gold", "pairs-128", "keywords"])
    content = summarise(folder)
    write_json(folder / "summary.json", content)
    found = across(folder, folder / "summary.json")
    assert len(found) == len(content["findings"])
    told = [f["verdict"] != UNKNOWN for f in content["findings"]]
    assert [f.agreement for f in found] == ["on both" if known else "cannot be told" for known in told]


def test_what_is_no_summary_is_refused(tmp_path: Path) -> None:
    good = summary(tmp_path, "good", finding("x", "yes"))
    with pytest.raises(DataError, match="no question in common"):
        across(good, summary(tmp_path, "other", finding("y", "yes")))
    with pytest.raises(DataError, match="no summary of a benchmark"):
        across(good, tmp_path)
    for text in ("[]", "{", '{"what": "rewards", "findings": [1]}', '{"findings": []}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(DataError, match="no summary of a benchmark"):
            across(good, tmp_path / "bad.json")
    (tmp_path / "agents.json").write_text('{"what": "agents", "findings": []}')
    with pytest.raises(DataError, match="no findings on rewards"):
        across(tmp_path / "agents.json", good)
