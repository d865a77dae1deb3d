"""Ranks submissions by gold after optimisation, with ties where intervals overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from text_gym.errors import TextGymError
from text_gym.utils.display import harmless

from .checking import Submission, check_contest, check_duplicate, read_submission


@dataclass(frozen=True)
class Ranked:
    """A submission with its rank.

    Args:
        rank: One more than the number of submissions that are certainly better: their intervals lie above.
        submission: The submission.
        tied: How many others have an interval that overlaps with its own.
    """

    rank: int
    submission: Submission
    tied: int


@dataclass(frozen=True)
class Rejected:
    """A folder that has no place on the leaderboard, and why."""

    folder: Path
    reason: str


def judge_submissions(folders: Sequence[str | Path]) -> tuple[list[Submission], list[Rejected]]:
    """Check submissions in the order given; the first whole one says how the others must be measured.

    Returns:
        The submissions that take part, and the folders that do not.
    """
    accepted: list[Submission] = []
    rejected = []
    for folder in map(Path, folders):
        try:
            submission = read_submission(folder)
            if accepted:
                check_contest(submission, accepted[0])
            check_duplicate(submission, accepted)
        except TextGymError as error:
            rejected.append(Rejected(folder, harmless(str(error), limit=600)))
        else:
            accepted.append(submission)
    return accepted, rejected


def rank_submissions(submissions: Sequence[Submission]) -> list[Ranked]:
    """Rank by gold at the end of the hardest optimisation, the highest first.

    Where a submission has no interval, for it has one seed, nobody is certainly better or worse.
    """
    known = [(s, *_interval(s)) for s in submissions]
    found = []
    for own, _, low, high in known:
        others = [k for k in known if k[0] is not own]
        better = sum(other_low > high for _, _, other_low, _ in others)
        worse = sum(other_high < low for _, _, _, other_high in others)
        found.append(Ranked(1 + better, own, len(others) - better - worse))
    return sorted(found, key=lambda r: (r.rank, -r.submission.gold.value))


def _interval(submission: Submission) -> tuple[float, float, float]:
    """Return gold and the ends of its interval, infinite where there is none."""
    gold = submission.gold
    unknown = math.isnan(gold.low) or math.isnan(gold.high)
    return gold.value, -math.inf if unknown else gold.low, math.inf if unknown else gold.high
