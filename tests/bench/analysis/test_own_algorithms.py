"""Verdicts on a user's algorithm, from made-up curves whose gold at equal tokens is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from text_gym.bench.analysis.own_algorithms import fewest_tokens, gold_at, own_against_others
from text_gym.bench.analysis.results import CellResult, Results
from text_gym.bench.analysis.verdicts import Finding

CONFIG = {"what": "agents", "algorithms": {"Mine": {"spec": "mine.py:Mine", "content": "0"}}}
NOISE = (0.0, 0.004, -0.004, 0.002, -0.002)  # of each seed


def cell(
    optimiser: str, seed: int, curve: Sequence[tuple[float | None, float]], task: str = "sort", **row: Any
) -> CellResult:
    """A run whose curve has these tokens and gold."""
    about = {"task": task, "design": "gold", "optimiser": optimiser, "kl_coefficient": 0.0, "seed": seed}
    points = [{"step": i, "tokens": t, "gold": g} for i, (t, g) in enumerate(curve)]
    return CellResult({**about, "gold": curve[-1][1], **row}, points, [])


def findings(own: float, other: float, noise: Sequence[float] = NOISE, **row: Any) -> list[Finding]:
    """Mine plays 200 tokens, and has this gold at 100; the other one ends at 100 with that gold."""
    cells = []
    for seed, extra in enumerate(noise):
        cells.append(cell("Mine", seed, [(0, 0.1), (50, 0.2), (150, 2 * (own + extra) - 0.2), (200, 9.0)]))
        cells.append(cell("rloo", seed, [(0, 0.1), (100, other)], **row))
    return list(own_against_others(Results(CONFIG, cells)))


def test_gold_is_read_where_the_run_of_fewest_tokens_ends() -> None:
    longer, shorter = [(0, 0.0), (100, 0.4), (300, 0.8)], [(0, 0.0), (200, 1.0)]
    results = Results(CONFIG, [cell("Mine", 0, longer), cell("rloo", 1, shorter)])
    mine, other = results.settings.values()
    assert fewest_tokens(results.settings) == 200
    assert gold_at(mine, 200) == {0: pytest.approx(0.6)}  # half way from 100 to 300
    assert gold_at(other, 200) == {1: 1.0}


@pytest.mark.parametrize(
    ("own", "other", "noise", "verdict", "said"),
    [
        (
            0.8,
            0.5,
            NOISE,
            "yes",
            "Mine is better than RLOO: difference +0.300 [+0.296, +0.304]",
        ),
        (0.5, 0.8, NOISE, "no", "Mine is worse than RLOO: difference −0.300 [−0.304, −0.296]"),
        (0.5, 0.5, NOISE, "no", "Mine is as good as RLOO, within 0.01: difference 0.000"),
        (0.6, 0.5, (0.3, -0.3, 0.1), "cannot be told", "Mine cannot be told from RLOO"),
        # Above zero in all three runs, so that the bootstrap's interval is too: Student's is not.
        (0.6, 0.5, (0.3, -0.09, -0.05), "cannot be told", "difference +0.153 [−0.380, +0.686]"),
        # The bootstrap's interval is their range, ±0.009; Student's is ±0.022.
        (0.5, 0.5, (0.009, -0.009, 0.0), "cannot be told", "Mine cannot be told from RLOO"),
        (0.9, 0.5, (0.0,), "cannot be told", "difference +0.400 (no interval)"),
    ],
)
def test_a_verdict_needs_both_intervals(
    own: float, other: float, noise: Sequence[float], verdict: str, said: str
) -> None:
    (found,) = findings(own, other, noise)
    assert found.verdict == verdict
    assert said in found.answer
    assert found.question == "sort: is Mine better than RLOO at 100 tokens?"
    assert f"{len(noise)} seeds, paired" in found.statement


def test_only_what_can_be_compared_is() -> None:
    assert findings(0.5, 0.5, task="slots") == []  # another task
    assert findings(0.5, 0.5, kl_coefficient=0.1) == []
    old = [cell("Mine", 0, [(None, 0.1), (None, 0.5)]), cell("rloo", 0, [(None, 0.1), (None, 0.5)])]
    assert list(own_against_others(Results(CONFIG, old))) == []  # tokens were not counted
    assert list(own_against_others(Results({}, [cell("ppo", 0, [(0, 0.1), (9, 0.2)])]))) == []
