"""What a benchmark shows: whether rewards are over-optimised, what prevents it, and what comparisons tell.

A question whose cells are missing is not asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from .comparisons import (
    best_algorithms,
    best_of_n,
    length_rater,
    static_accuracy,
    traits,
)
from .results import Cell, Results
from .runs import mean_curve, mean_of, value
from .verdicts import GOLD_MARGIN, UNKNOWN, Finding, judge, minus, shown


def find(results: Results) -> list[Finding]:
    """All findings that the cells allow, in the order of the report."""
    if results.config.get("what") == "agents":
        return list(best_algorithms(results))
    return [
        *_over_optimisation(results),
        *_scripts(results),
        *length_rater(results),
        *traits(results),
        *static_accuracy(results),
        *best_of_n(results),
    ]


def _over_optimisation(results: Results) -> Iterator[Finding]:
    """Of each kind of model, all of them together at the smallest KL coefficient; then what prevents it."""
    for models in _models(results).values():
        yield from _of_models(results, [design for _, design in sorted(models)])


def _models(results: Results) -> dict[Any, list[tuple[int, str]]]:
    """Number of opinions and name of the plain learned models, by kind (n-grams, transformers)."""
    found: dict[Any, list[tuple[int, str]]] = {}
    for design in results.designs:
        own = results.traits(design)
        plain = own.get("kind") == "learned" and own.get("rater", "clean") in ("clean", "noisy")
        plain = plain and own.get("asked", "pairs") == "pairs" and own.get("members", 1) == 1
        if plain and "opinions" in own and results.coefficients(design):
            found.setdefault(own.get("model"), []).append((own["opinions"], design))
    return found


def _of_models(results: Results, models: Sequence[str]) -> Iterator[Finding]:
    coefficients = results.coefficients(models[0])
    models = [d for d in models if set(coefficients) <= set(results.coefficients(d))]
    names = ", ".join(f"“{d}”" for d in models)
    least = coefficients[0]
    runs = _trained(results, models, least)
    fall, gain = mean_of(runs, _fall), mean_of(runs, lambda c: [value(x, "proxy_gain") for x in c])
    change = mean_of(runs, lambda c: [value(x, "gold_change") for x in c])
    falls = judge(minus(fall), GOLD_MARGIN)
    verdict = "no" if falls == "no" else "yes" if falls == "yes" and gain.low > 0 else UNKNOWN
    yield Finding(
        "over_optimisation",
        f"{'Is a reward model' if len(models) == 1 else 'Are reward models'} learned from pairs ({names}) "
        f"over-optimised at β = {least:g}?",
        verdict,
        f"From its best point to the end, gold changes by {shown(fall, sign=True)} while the proxy gains "
        f"{shown(gain, 1)} standard deviations since the start (gold since the start "
        f"{shown(change, sign=True)}).",
        f"Yes: gold falls from the best point of a design's mean curve, by at least {GOLD_MARGIN} and beyond "
        "its interval, while the proxy's gain is above zero beyond its own. The best point is chosen on the "
        "same runs, which makes the fall look a little larger than it is. Mean over designs and optimisers.",
        [
            ("gold, best to end", fall),
            ("gold, start to end", change),
            ("proxy gain, standard deviations", gain),
        ]
        + [(f"gold, best to end: {d}", mean_of(results.trained(d, least), _fall)) for d in models],
    )
    if verdict == "yes" and len(coefficients) > 1:
        yield _prevention(results, models, coefficients)


def _trained(results: Results, designs: Sequence[str], beta: float) -> list[Sequence[Cell]]:
    """The settings of several designs at one coefficient."""
    return [cells for design in designs for cells in results.trained(design, beta)]


def _prevention(results: Results, models: Sequence[str], coefficients: Sequence[float]) -> Finding:
    falls = [(b, mean_of(_trained(results, models, b), _fall)) for b in coefficients]
    verdicts = [judge(minus(f), GOLD_MARGIN) for _, f in falls]
    safe = next((i for i in range(1, len(falls)) if verdicts[i] == "no" and "yes" not in verdicts[i:]), None)
    if safe is None:
        verdict = "no" if verdicts[-1] == "yes" else UNKNOWN
        statement = (
            f"At the largest coefficient tried, β = {falls[-1][0]:g}, gold still changes by "
            f"{shown(falls[-1][1], sign=True)} from its best point to the end."
        )
    else:
        verdict, (beta, fall) = "yes", falls[safe]
        gold = mean_of(_trained(results, models, beta), lambda c: [x["gold"] for x in c])
        statement = (
            f"From β = {beta:g} on: there gold changes by {shown(fall, sign=True)} from its best point to "
            f"the end, and ends at {shown(gold)}."
        )
    return Finding(
        "prevention",
        f"Does a KL penalty prevent that of {', '.join(f'“{d}”' for d in models)}, and how much of one?",
        verdict,
        statement,
        f"The smallest coefficient at which a fall of {GOLD_MARGIN} from the best point can be ruled out "
        "(the whole interval is above it), with no fall shown at a larger one.",
        [(f"gold, best to end: β = {b:g}", f) for b, f in falls],
    )


def _fall(cells: Sequence[Cell]) -> list[float]:
    """Gold at the end of each run's curve, less that at the best point of the mean curve."""
    curve = mean_curve(cells)
    if not curve:
        return [math.nan for _ in cells]
    best, last = max(curve, key=lambda p: p["gold"])["step"], curve[-1]["step"]
    by_step = [{float(p["step"]): float(p["gold"]) for p in c.curve} for c in cells]
    return [points[last] - points[best] for points in by_step]


def _scripts(results: Results) -> Iterator[Finding]:
    for design in results.designs:
        if results.traits(design).get("kind") != "script" or not results.coefficients(design):
            continue
        least = results.coefficients(design)[0]
        runs = results.trained(design, least)
        gain = mean_of(runs, lambda c: [value(x, "proxy_gain") for x in c])
        change = mean_of(runs, lambda c: [value(x, "gold_change") for x in c])
        falls = judge(minus(change), GOLD_MARGIN)
        yield Finding(
            "script",
            f"Is the script “{design}” hacked at β = {least:g}?",
            "no" if falls == "no" else "yes" if falls == "yes" and gain.low > 0 else UNKNOWN,
            f"Its score gains {shown(gain, 1)} standard deviations while gold changes by "
            f"{shown(change, sign=True)} since the start.",
            f"Yes: gold ends at least {GOLD_MARGIN} below its start, beyond its interval, while the "
            "script's own score has risen beyond its own. Mean over optimisers.",
            [("proxy gain, standard deviations", gain), ("gold, start to end", change)],
        )
