"""Ranks against intervals written down by hand, and ties."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench_submissions import submitted
from text_gym.bench.leaderboard.checking import Submission, read_submission
from text_gym.bench.leaderboard.ranking import judge_submissions, rank_submissions


@pytest.fixture(scope="module")
def one(made: dict[str, Path]) -> Submission:
    return read_submission(made["hackable"])


def entry(one: Submission, name: str, low: float, high: float) -> Submission:
    gold = {"value": (low + high) / 2, "ci95": [low, high], "n": 3}
    return replace(one, content={**one.content, "name": name}, summary={**one.summary, "gold": gold})


def test_only_intervals_that_lie_above_cost_a_rank(one: Submission) -> None:
    intervals = {"d": (0.1, 0.2), "a": (0.8, 0.9), "c": (0.5, 0.75), "b": (0.7, 0.8)}
    ranked = rank_submissions([entry(one, name, *ends) for name, ends in intervals.items()])
    # a overlaps with b (they touch at 0.8), b with c, a does not with c: c has one above it, d has three.
    assert [(r.submission.name, r.rank, r.tied) for r in ranked] == [
        ("a", 1, 1), ("b", 1, 2), ("c", 2, 1), ("d", 4, 0),
    ]  # fmt: skip


def test_without_an_interval_nobody_is_certainly_better(one: Submission) -> None:
    single = entry(one, "single", float("nan"), float("nan"))
    ranked = rank_submissions([entry(one, "low", 0.1, 0.2), single, entry(one, "high", 0.8, 0.9)])
    assert {r.submission.name: (r.rank, r.tied) for r in ranked} == {
        "high": (1, 1), "single": (1, 2), "low": (2, 1),
    }  # fmt: skip


def test_the_first_whole_submission_sets_the_contest(made: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    a, b = made["hackable"], made["keywords"]
    few = submitted(tmp_path / "few", design="gold", seeds=(0, 1))
    accepted, rejected = judge_submissions([broken, a, few, b, a])
    assert [s.folder.name for s in accepted] == ["hackable", "keywords"]
    assert [(r.folder.name, r.reason.split()[0]) for r in rejected] == [
        ("broken", str(broken)), ("few", "it"), ("hackable", "it"),
    ]  # fmt: skip
    assert "duplicate" in rejected[-1].reason
