from __future__ import annotations

from typing import Any

import pytest

from text_gym.rlhf.verdict import headline, judge_difference, policy_name


def change(mean: float) -> dict[str, Any]:
    return {"mean": mean, "ci95": [mean - 0.04, mean + 0.04]}


def row(number: int, before: float, after: float, **changes: Any) -> dict[str, Any]:
    """A round that took gold from one mean to another, and the objective by as much, within ± 0.04."""
    found = change(after - before)
    return {
        "round": number,
        "started_from": number - 1,
        "kept": number,
        "verdict": judge_difference(found),
        "gold_before": {"mean": before},
        "gold": {"mean": after},
        "gold_change": found,
        "objective_before": before - 0.1,
        "objective_after": after - 0.1,
        "objective_change": found,
        "since_start": {"measure": "gold", "before": 0.72, "after": after, **change(after - 0.72)},
        "kl_nats": 3.2,
        "cut": 0.012,
        "policy_of_iteration": 40,
        "declined": None,
    } | changes


def since(after: float) -> dict[str, Any]:
    return {"measure": "gold", "before": 0.72, "after": after, **change(after - 0.72)}


def blind(found: dict[str, Any]) -> dict[str, Any]:
    """The row where nobody knows gold."""
    nothing: dict[str, Any] = {"gold_before": {"mean": None}, "gold": {"mean": None}, "gold_change": None}
    objective = {"measure": "objective (proxy − β·KL)", "before": 0.62, "after": found["objective_after"]}
    judged = judge_difference(found["objective_change"])
    return found | nothing | {"verdict": judged, "since_start": found["since_start"] | objective}


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ([0.01, 0.2], "better"),
        ([-0.2, -0.01], "worse"),
        ([-0.1, 0.2], "same"),
        ([0.0, 0.2], "same"),
        ([-0.2, 0.0], "same"),
        ([0.0, 0.0], "same"),
        ([None, None], "same"),
    ],
)
def test_a_verdict_needs_an_interval_on_one_side_of_zero(interval: list[float | None], expected: str) -> None:
    assert judge_difference({"mean": 0.0, "ci95": interval}) == expected


def test_a_good_run() -> None:
    found = headline([row(1, 0.72, 0.95), row(2, 0.95, 0.97), row(3, 0.97, 0.975)])
    assert found.text == (
        "It got better in round 1 and stayed the same in rounds 2 and 3: gold 0.720 → 0.975 "
        "(difference 0.255 [0.215, 0.295]) since the start."
    )
    assert not found.bad
    assert found.notes == ()


def test_a_ruin_comes_first_with_its_interval_kl_and_share_of_cut_texts() -> None:
    ruined = row(2, 0.97, 0.48, kl_nats=47.3, cut=0.953, kept=1, since_start=since(0.97))
    found = headline([row(1, 0.72, 0.97), ruined])
    assert found.bad
    assert found.text == (
        "It got worse in round 2: gold 0.970 → 0.480 (difference −0.490 [−0.530, −0.450]), KL 47 nats, 95 % "
        "of texts cut at the limit; the policy of round 1 stands. From start to end it got better: gold "
        "0.720 → 0.970 (difference 0.250 [0.210, 0.290]) since the start."
    )


def test_it_says_which_policy_the_next_round_started_from() -> None:
    ruined = row(1, 0.72, 0.48, kept=0, since_start=since(0.72))
    found = headline([ruined, row(2, 0.72, 0.9, started_from=0)])
    assert "It got worse in round 1: gold 0.720 → 0.480" in found.text
    assert "; round 2 went on from the first policy instead." in found.text
    assert found.bad


def test_a_ruin_that_the_objective_did_not_show_is_told_as_such() -> None:
    fooled = row(1, 0.72, 0.48, objective_before=0.6, objective_after=0.66)
    found = headline([fooled])
    assert "its objective did not show it (0.600 → 0.660), so its policy was kept" in found.text
    assert "It ended below where it started: gold 0.720 → 0.480" in found.text


def test_the_end_below_the_start_is_said_even_within_the_interval() -> None:
    found = headline([row(1, 0.72, 0.70)])
    assert found.bad
    assert found.text == (
        "It ended no better than it started: gold 0.720 → 0.700 (difference −0.020 [−0.060, 0.020]) since "
        "the start."
    )


def test_small_steps_down_that_add_up_are_said() -> None:
    """No round is worse by more than its interval, but all together are."""
    rows = [row(1, 0.72, 0.69), row(2, 0.69, 0.66)]
    assert [r["verdict"] for r in rows] == ["same", "same"]
    assert headline(rows).text.startswith("It ended below where it started: gold 0.720 → 0.660")


def test_without_gold_the_objective_decides() -> None:
    ruined = blind(row(1, 0.72, 0.4, kept=0, since_start=since(0.72)))
    text = headline([ruined]).text
    assert "It got worse in round 1: objective (proxy − β·KL) 0.620 → 0.300" in text
    assert "gold" not in text
    good = headline([blind(row(1, 0.72, 0.9))])
    assert not good.bad
    assert "objective (proxy − β·KL) 0.620 → 0.800" in good.text


def test_a_round_given_up_though_gold_was_no_worse_is_said() -> None:
    found = headline([row(1, 0.72, 0.9), row(2, 0.9, 0.9, kept=1, objective_change=change(-0.3))])
    assert found.bad
    assert found.text.startswith("Round 2 was given up: objective (proxy − β·KL) 0.800 → 0.800 (difference")
    assert "gold 0.900 → 0.900" in found.text


def test_training_that_was_stopped_early_is_a_note() -> None:
    told = "The objective (reward − β·KL) fell from 0.670 to 0.320"
    found = headline([row(1, 0.72, 0.9, declined=told, policy_of_iteration=10)])
    assert not found.bad
    assert found.notes == (
        "Training of round 1 was stopped early, and its policy of iteration 10 kept. " + told,
    )


def test_names_of_policies() -> None:
    assert [policy_name(n) for n in (0, 2)] == ["the first policy", "the policy of round 2"]
