"""A user's algorithm beside each other one, at equal numbers of tokens.

Curves are read at as many tokens as the run that played the fewest of its task, between looks by a line:
iterations of as many episodes are no measure where one algorithm writes longer texts than another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from text_gym.utils.interval import Interval, shown

from .results import CellResult, Results, Setting, optimiser_name
from .runs import mean_known
from .statistics import Runs, contrast, resampled_contrast
from .verdicts import ALGORITHM_MARGIN, UNKNOWN, Finding

BETTER, WORSE, EQUAL = "better", "worse", "equal"


def own_against_others(results: Results) -> Iterator[Finding]:
    """Ask for each task: is the user's algorithm better than each other one at equal tokens?"""
    yours = list(results.config.get("algorithms") or {})
    for task in dict.fromkeys(s.task for s in results.settings):
        own = {s: c for s, c in results.settings.items() if s.task == task and s.kl_coefficient is not None}
        tokens = fewest_tokens(own)
        if math.isnan(tokens):  # cells from before tokens were counted
            continue
        gold = {s: gold_at(cells, tokens) for s, cells in own.items()}
        for mine in (s for s in own if s.optimiser in yours):
            for other in own:
                same = (mine.design, mine.kl_coefficient) == (other.design, other.kl_coefficient)
                if other != mine and same:
                    yield _compared(mine, other, gold[mine], gold[other], tokens)


def fewest_tokens(settings: Mapping[Setting, Sequence[CellResult]]) -> float:
    """Tokens of the run that played the fewest; NaN where a run does not know its own."""
    ends = [float(cell.along("tokens")[-1]) for cells in settings.values() for cell in cells if cell.curve]
    return min(ends) if ends and all(map(math.isfinite, ends)) else math.nan


def gold_at(cells: Sequence[CellResult], tokens: float) -> Runs:
    """Gold of each run after so many tokens, between points of its curve by a line; by seed."""
    return {
        c.row["seed"]: float(np.interp(tokens, c.along("tokens"), c.along("gold"))) for c in cells if c.curve
    }


def _compared(mine: Setting, other: Setting, own: Runs, theirs: Runs, tokens: float) -> Finding:
    student = contrast([own, theirs], [1.0, -1.0])
    drawn = resampled_contrast([own, theirs], [1.0, -1.0])
    name, rival = optimiser_name(mine.optimiser), optimiser_name(other.optimiser)
    both = (student, drawn)
    if all(e.low > 0 for e in both):
        how, words = BETTER, f"{name} is better than {rival}"
    elif all(e.high < 0 for e in both):
        how, words = WORSE, f"{name} is worse than {rival}"
    elif all(e.low > -ALGORITHM_MARGIN and e.high < ALGORITHM_MARGIN for e in both):
        how, words = EQUAL, f"{name} is as good as {rival}, within {ALGORITHM_MARGIN}"
    else:
        how, words = UNKNOWN, f"{name} cannot be told from {rival}"
    seeds = len(set(own) & set(theirs))
    runs = f"{seeds} seeds, paired" if seeds else "no seed in common"
    return Finding(
        "own_algorithm",
        f"{mine.task}: is {name} better than {rival} at {tokens:,.0f} tokens?",
        {BETTER: "yes", UNKNOWN: UNKNOWN}.get(how, "no"),
        f"Gold {mean_known(list(own.values())):.3f} and {mean_known(list(theirs.values())):.3f}; difference "
        f"{shown(drawn, 3, True)} by bootstrap over seeds, {shown(student, 3, True)} by Student ({runs}).",
        "Better or worse: both intervals exclude zero. As good: both lie within "
        f"±{ALGORITHM_MARGIN}. A bootstrap over few seeds is hardly more than their range, so that Student's "
        "interval has to agree. Gold is read off each run's curve at the number of tokens of the run that "
        "played the fewest on this task, between looks by a line.",
        [("bootstrap over seeds", drawn), ("Student's, over seeds", student)],
        answer=f"{words}: difference {shown(_wider(student, drawn), 3, True)}.",
        p=student.p,
    )


def _wider(a: Interval, b: Interval) -> Interval:
    """Return the wider of two intervals of one difference, since an answer rests on both."""
    return a if a.high - a.low >= b.high - b.low else b
