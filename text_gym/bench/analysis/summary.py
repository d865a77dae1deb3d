"""Summarises a benchmark: every setting over its seeds, every design over its settings, the findings.

Nothing is run here; `summarise` reads the cells that are there, also those of a matrix that is not finished.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .findings import find
from .frontier import frontiers
from .outcomes import is_yours
from .results import CellResult, Results, Setting, json_number, json_numbers, read_results
from .runs import MEASURES, RANKED_AT, below_start, best_point, by_seed, mean_curve, mean_known
from .statistics import Runs, aggregate, coverage, episodes_until, improvement, mean_of_strata
from .verdicts import multiplicity, summarise_findings

BUDGETS = (1.0, 2.0, 5.0, 10.0, 20.0)  # nats per text
SHARE = 0.9  # of the way from the start to the best gold of the task: the target of sample efficiency


def summarise(folder: str | Path) -> dict[str, Any]:
    """Summarise a benchmark's folder as plain data, with NaN where something is unknown.

    Raises:
        ConfigError: The folder holds no benchmark.
        DataError: It has no finished cell, or one that cannot be read.
    """
    return whole_summary(read_results(folder))


def whole_summary(results: Results) -> dict[str, Any]:
    """Summarise the results with the findings and the number of questions asked."""
    found = find(results)
    return summary_of(results) | {"findings": summarise_findings(found), "multiplicity": multiplicity(found)}


def summary_of(results: Results) -> dict[str, Any]:
    """Summarise everything but the findings."""
    settings = results.settings
    targets = _targets(settings)
    return {
        "what": results.config.get("what", "rewards"),
        "cells": len(results.cells),
        "runs": _runs(settings),
        "budgets": list(BUDGETS),
        "ranked_at": RANKED_AT,
        "starts": {
            t: mean_known([c["gold_start"] for c in results.cells if c.row["task"] == t]) for t in targets
        },
        "targets": targets,
        "settings": [_setting(s, cells, targets[s.task]) for s, cells in settings.items()],
        "designs": _ranked([_design(results, t, d) for t, d in _designs(results)]),
        "algorithms": _algorithms(settings),
    }


def _setting(setting: Setting, cells: Sequence[CellResult], target: float) -> dict[str, Any]:
    until = [episodes_until(c.along("episodes"), c.along("gold"), target) for c in cells]
    reached = sum(map(math.isfinite, until))
    return {
        **setting._asdict(),
        "group": cells[0].row.get("group"),
        "seeds": [c.row["seed"] for c in cells],
        "n": cells[0].row.get("n"),
        "kl_kind": cells[0].row.get("kl_kind"),
        "measures": {m: _over_runs(by_seed(cells, m)) for m in MEASURES} | {"gold": _gold([cells])},
        "episodes": mean_known(json_numbers(c.row.get("episodes") for c in cells)),
        "episodes_to_target": {
            "reached": reached,
            "mean": mean_known(until)
            if reached == len(cells)
            else math.nan,  # of all runs, or it would flatter
        },
        "curve": mean_curve(cells),
    }


def _design(results: Results, task: str, design: str) -> dict[str, Any]:
    settings = {s: c for s, c in results.settings.items() if (s.task, s.design) == (task, design)}
    cells = [c for runs in settings.values() for c in runs]
    trained = {s: c for s, c in settings.items() if s.kl_coefficient is not None}
    chosen = {s: c for s, c in settings.items() if s.kl_coefficient is None}
    best = max(trained or settings, key=lambda s: mean_known([c["gold"] for c in settings[s]]))
    ends = _ends(trained)
    about = results.about(design)
    return {
        "task": task,
        "name": design,
        "group": cells[0].row.get("group"),
        "yours": is_yours(results, design),
        "description": about.get("description") or "",
        "tree": about.get("tree"),
        "static_accuracy": _static_accuracy(cells),
        "null_rulers": _nulls(cells),
        "best": {**best._asdict(), "gold": _gold([settings[best]])},
        "least_kl_coefficient": ends[0]["kl_coefficient"] if ends else None,
        "at_least": ends[0] if ends else _end([]),
        "ends": ends,
        "frontier": frontiers(results, task, design),
        "budgets": {f"{b:g}": _within(trained or settings, b) for b in BUDGETS},
        "best_of_n": {f"{b:g}": _within(chosen, b) for b in BUDGETS if chosen},
    }


def _ends(trained: Mapping[Setting, Sequence[CellResult]]) -> list[dict[str, Any]]:
    """Tabulate where runs end, by ascending KL coefficient, over all optimisers but best-of-n."""
    coefficients = sorted({s.kl_coefficient for s in trained if s.kl_coefficient is not None})
    return [
        {"kl_coefficient": b, **_end([c for s, c in trained.items() if s.kl_coefficient == b])}
        for b in coefficients
    ]


def _end(strata: Sequence[Sequence[CellResult]]) -> dict[str, Any]:
    measures = ("over_optimisation", "length_drift", "kl_nats", "proxy_gain", "repetitive")
    return {"gold": _gold(strata), **{m: _strata(strata, m) for m in measures}}


def _gold(strata: Sequence[Sequence[CellResult]]) -> dict[str, Any]:
    """Summarise final gold over runs, with what an interquartile mean hides.

    `value` and `ci95` are the interquartile mean with its bootstrap interval over seeds; `mean` and `student`
    the mean over settings with Student's; `worst` the least of a run; `below_start` how many of the `n` runs
    ended with less gold than they began with.
    """
    runs = [by_seed(cells, "gold") for cells in strata]
    student = mean_of_strata(runs)
    cells = [c for own in strata for c in own]
    return {
        **aggregate(runs).summary(),
        "mean": student.value,
        "student": [student.low, student.high],
        "worst": min((c["gold"] for c in cells if math.isfinite(c["gold"])), default=math.nan),
        "below_start": below_start(cells),
        "seeds": len({c.row["seed"] for c in cells}),
    }


def _within(settings: Mapping[Setting, Sequence[CellResult]], budget: float) -> dict[str, Any] | None:
    found = best_point(settings, budget)
    if found is None:
        return None
    setting, point, gold = found
    return {
        "optimiser": setting.optimiser,
        "kl_coefficient": setting.kl_coefficient,
        **point,
        "gold": {**_over_runs(gold), "worst": min(gold.values())},
    }


def _ranked(designs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rank designs by best gold within the budget, then by name."""

    def gold(design: Mapping[str, Any]) -> float:
        within = design["budgets"][f"{RANKED_AT:g}"]
        return float(within["gold"]["value"]) if within else -math.inf

    ordered = sorted(designs, key=lambda d: (d["task"], -gold(d), d["name"]))
    ranks: dict[str, int] = {}
    for d in ordered:
        d["rank"] = ranks[d["task"]] = ranks.get(d["task"], 0) + 1
    return ordered


def _algorithms(settings: Mapping[Setting, Sequence[CellResult]]) -> list[dict[str, Any]]:
    """Return for every two optimisers the probability that one improves on the other where both ran.

    Strata are tasks, designs and KL coefficients that both have; best-of-n has none, so it is left out.
    """
    optimisers = list(dict.fromkeys(s.optimiser for s in settings if s.kl_coefficient is not None))
    result = []
    for a in optimisers:
        for b in optimisers:
            pairs = [
                (by_seed(settings[s], "gold"), by_seed(settings[s._replace(optimiser=b)], "gold"))
                for s in settings
                if s.optimiser == a != b and s._replace(optimiser=b) in settings
            ]
            if pairs:
                found = improvement(pairs)
                result.append({"a": a, "b": b, "strata": len(pairs), "b_beats_a": found.summary()})
    return result


def _runs(settings: Mapping[Setting, Sequence[CellResult]]) -> dict[str, Any]:
    """Count a setting's runs, and say what a bootstrap interval over so few is worth."""
    counts = [len(c) for c in settings.values()]
    return {"least": min(counts), "most": max(counts), "coverage_of_range": coverage(min(counts))}


def _targets(settings: Mapping[Setting, Sequence[CellResult]]) -> dict[str, float]:
    """Set each task's target: gold most of the way from the start to the best setting's end."""
    found = {}
    for task in dict.fromkeys(s.task for s in settings):
        runs = [c for s, c in settings.items() if s.task == task]
        start = mean_known([c["gold_start"] for cells in runs for c in cells])
        best = max((mean_known([c["gold"] for c in cells]) for cells in runs), default=math.nan)
        found[task] = start + SHARE * (best - start)
    return found


def _designs(results: Results) -> list[tuple[str, str]]:
    return list(dict.fromkeys((s.task, s.design) for s in results.settings))


def _nulls(cells: Sequence[CellResult]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for cell in cells:
        for ruler, rank in (cell.row.get("null_rulers") or {}).items():
            found.setdefault(ruler, []).append(json_number(rank))
    return {ruler: mean_known(ranks) for ruler, ranks in found.items()}


def _static_accuracy(cells: Sequence[CellResult]) -> dict[str, Any]:
    """Average over seeds, since a learned design is trained once per seed."""
    return _over_runs({c.row["seed"]: c["static_accuracy"] for c in cells})


def _strata(strata: Sequence[Sequence[CellResult]], measure: str) -> dict[str, Any]:
    return aggregate([by_seed(cells, measure) for cells in strata]).summary()


def _over_runs(runs: Runs) -> dict[str, Any]:
    return {**aggregate([runs]).summary(), "mean": mean_known(list(runs.values()))}
