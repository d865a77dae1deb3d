"""The verdicts of `rlhf`: whether a round made the policy better, and the report's headline.

They read rows of `rounds.jsonl`; nothing is measured here. What went wrong comes before what went well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["better", "worse", "same"]
OBJECTIVE = "objective (proxy − β·KL)"


@dataclass(frozen=True)
class Headline:
    """The first sentence of a report.

    Args:
        text: One sentence or a few.
        bad: Whether something got worse.
        notes: Sentences for after it: rounds whose training was stopped early, without harm to the result.
    """

    text: str
    bad: bool
    notes: tuple[str, ...] = ()


def judge_difference(change: Mapping[str, Any]) -> Verdict:
    """Judge a paired difference by its 95 % interval; an unknown interval says nothing.

    >>> judge_difference({"mean": -0.49, "ci95": [-0.53, -0.45]})
    'worse'
    >>> judge_difference({"mean": 0.01, "ci95": [-0.01, 0.03]})
    'same'
    """
    low, high = change["ci95"]
    if low is None or high is None:
        return "same"
    return "better" if low > 0 else "worse" if high < 0 else "same"


def headline(rows: Sequence[Mapping[str, Any]]) -> Headline:
    """Write the headline about the rounds so far: what got worse, else how far it came.

    Args:
        rows: Of all rounds so far, in order; one at least.
    """
    bad = [_setback(row, row is rows[-1]) for row in rows if _went_wrong(row)]
    end = rows[-1]["since_start"]
    since = f"{_change(end)} since the start"
    if judge_difference(end) == "worse":
        bad.append(f"It ended below where it started: {since}")
    elif end["mean"] is not None and end["mean"] < 0:
        bad.append(f"It ended no better than it started: {since}")
    notes = tuple(
        f"Training of round {row['round']} was stopped early, and its policy of iteration "
        f"{row['policy_of_iteration']} kept. {row['declined']}"
        for row in rows
        if row["declined"]
    )
    if bad:
        known = [] if judge_difference(end) != "better" else [f"From start to end it got better: {since}"]
        return Headline(". ".join([*bad, *known]) + ".", True, notes)
    parts = [
        f"{words} in {_rounds(found)}"
        for kind, words in (("better", "got better"), ("same", "stayed the same"))
        if (found := [row["round"] for row in rows if row["verdict"] == kind])
    ]
    return Headline(f"It {' and '.join(parts)}: {since}.", False, notes)


def policy_name(number: int) -> str:
    """Name the policy after a round in a sentence; 0 is the first one."""
    return f"the policy of round {number}" if number else "the first policy"


def _went_wrong(row: Mapping[str, Any]) -> bool:
    return bool(row["verdict"] == "worse" or row["kept"] != row["round"])


def _setback(row: Mapping[str, Any], last: bool) -> str:
    """Describe what got worse in a round, how the texts look, and which policy is used next."""
    number, before, after = row["round"], row["objective_before"], row["objective_after"]
    judged = {**row["objective_change"], "measure": OBJECTIVE, "before": before, "after": after}
    measures = [judged]
    if row["gold_change"] is not None:
        ends = {"before": row["gold_before"]["mean"], "after": row["gold"]["mean"]}
        known = {**row["gold_change"], "measure": "gold", **ends}
        measures = [known] if row["verdict"] == "worse" else [judged, known]
    shown = ", ".join(map(_change, measures))
    texts = f"KL {row['kl_nats']:.0f} nats, {100 * row['cut']:.0f} % of texts cut at the limit"
    if row["kept"] == number:
        what = f"its objective did not show it ({before:.3f} → {after:.3f}), so its policy was kept"
    elif last:
        what = f"{policy_name(row['kept'])} stands"
    else:
        what = f"round {number + 1} went on from {policy_name(row['kept'])} instead"
    begin = f"It got worse in round {number}" if row["verdict"] == "worse" else f"Round {number} was given up"
    return f"{begin}: {shown}, {texts}; {what}"


def _change(change: Mapping[str, Any]) -> str:
    """`gold 0.970 → 0.480 (difference −0.490 [−0.530, −0.450])`."""
    values = [change["before"], change["after"], change["mean"], *change["ci95"]]
    before, after, mean, low, high = (_number(value) for value in values)
    return f"{change['measure']} {before} → {after} (difference {mean} [{low}, {high}])"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}".replace("-", "−")


def _rounds(numbers: Sequence[int]) -> str:
    """`round 1`, `rounds 1 and 2`, `rounds 1, 2 and 3`."""
    *some, last = map(str, numbers)
    return f"rounds {', '.join(some)} and {last}" if some else f"round {last}"
