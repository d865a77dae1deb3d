"""Collects a benchmark's findings: the user's designs first, then joint findings, then the suite's.

Every design is asked the same. A question whose cells are missing is not asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from text_gym.utils.interval import shown

from .comparisons import (
    best_algorithms,
    best_of_n_against_rl,
    length_rater,
    other_optimisers,
    static_accuracy,
    traits,
)
from .frontier import penalty_frontier, spent_kl
from .outcomes import Pressed, hardest, is_yours, outcome, worst_setting
from .own_algorithms import own_against_others
from .results import Results, Setting, optimiser_name
from .runs import RANKED_AT, below_start, best_point, falls, mean_of
from .samples import example, troubles
from .statistics import Estimate, Runs, contrast, mean_of_strata
from .verdicts import (
    EFFECT_MARGIN,
    GOLD_MARGIN,
    UNKNOWN,
    WORDS_MARGIN,
    Finding,
    judge_change,
    judge_increase,
    minus,
)


def find(results: Results) -> list[Finding]:
    """Find everything the cells allow, in the order of the report."""
    if results.config.get("what") == "agents":
        return [*own_against_others(results), *best_algorithms(results)]
    yours = [d for d in results.designs if is_yours(results, d)]
    return [
        *(finding for d in yours for finding in _of_design(results, d)),
        *_learned(results),
        *length_rater(results),
        *traits(results),
        *static_accuracy(results),
        *penalty_frontier(results),
        *spent_kl(results),
        *best_of_n_against_rl(results),
        *other_optimisers(results),
        *(finding for d in results.designs if d not in yours for finding in _of_design(results, d)),
    ]


_QUOTED = 160  # characters of a text


def _of_design(results: Results, design: str) -> Iterator[Finding]:
    """Answer every question about one design; the first finding says what becomes of gold."""
    pressed = hardest(results, design)
    if pressed is None or math.isnan(pressed.change.value):  # older rows lack the start
        return
    found = [outcome(results, pressed)]
    found += [_over_optimisation(pressed)] if math.isfinite(pressed.fall.value) else []
    coefficients = results.coefficients(design)
    if (pressed.failed or pressed.fall.value <= -GOLD_MARGIN) and len(coefficients) > 1:
        found.append(_prevention(results, [design], coefficients))
    found += [*_length(pressed), *_texts(pressed)]
    if is_yours(results, design):
        found += _standing(results, design)
    for finding in found:
        yield replace(finding, design=design)


def _learned(results: Results) -> Iterator[Finding]:
    """Judge each kind of model learned from pairs, pooling its models at the smallest KL coefficient."""
    for models in _models(results).values():
        names = [design for _, design in sorted(models)]
        coefficients = results.coefficients(names[0])
        names = [d for d in names if set(coefficients) <= set(results.coefficients(d))]
        if len(names) < 2:
            continue
        least = coefficients[0]
        strata = [cells for d in names for cells in results.trained(d, least)]
        pressed = Pressed(names, f"{{}} is optimised at β = {least:g}", strata)
        if math.isnan(pressed.fall.value):  # rows that have no curves
            continue
        finding = _over_optimisation(pressed)
        yield finding
        if finding.verdict == "yes" and len(coefficients) > 1:
            yield _prevention(results, names, coefficients)


def _models(results: Results) -> dict[Any, list[tuple[int, str]]]:
    """List the plain learned models by kind (n-grams, transformers), with number of opinions and name."""
    found: dict[Any, list[tuple[int, str]]] = {}
    for design in results.designs:
        own = results.traits(design)
        plain = own.get("kind") == "learned" and own.get("rater", "clean") in ("clean", "noisy")
        plain = plain and own.get("asked", "pairs") == "pairs" and own.get("members", 1) == 1
        if plain and "opinions" in own and results.coefficients(design):
            found.setdefault(own.get("model"), []).append((own["opinions"], design))
    return found


def _over_optimisation(pressed: Pressed) -> Finding:
    """Does gold fall from its best point while the design's own score rises?"""
    fall, rise = pressed.fall, pressed.rise
    falling = judge_increase(minus(fall), GOLD_MARGIN)
    verdict = "yes" if falling == "yes" and rise.low > 0 else "no" if falling == "no" else UNKNOWN
    happened = fall.value <= -GOLD_MARGIN and rise.value > 0
    gain = mean_of(pressed.strata, "proxy_gain")
    told = (
        f"From its best point to the end, gold changes by {shown(fall, sign=True)} while the score that was "
        f"optimised gains {shown(gain, 1)} standard deviations since the start (gold since the start "
        f"{shown(pressed.change, sign=True)})."
    )
    return Finding(
        "over_optimisation",
        f"{'Is' if len(pressed.designs) == 1 else 'Are'} {pressed.names} over-optimised when "
        f"{pressed.when('it' if len(pressed.designs) == 1 else 'each')}?",
        verdict,
        told + (pressed.caveat if verdict == UNKNOWN else ""),
        f"Yes: gold falls from the best point of an optimiser's mean curve, by at least {GOLD_MARGIN} and "
        "beyond its interval, while the design's own score rises beyond its own. The best point is chosen "
        "on the same runs, which makes the fall look a little larger than it is.",
        [
            ("gold, best to end", fall),
            ("gold, start to end", pressed.change),
            ("gain of its own score, standard deviations", gain),
            *((f"gold, best to end: {d}", f) for d, f in _each(pressed)),
        ],
        answer="" if verdict != UNKNOWN else f"In {pressed.among}, {'yes' if happened else 'no'}.",
        alarm=happened,
        p=max(fall.p, rise.p) if not math.isnan(fall.p + rise.p) else math.nan,
    )


def _each(pressed: Pressed) -> Iterator[tuple[str, Estimate]]:
    """Describe the fall of each of several designs."""
    for design in pressed.designs if len(pressed.designs) > 1 else ():
        yield design, mean_of_strata(falls(c) for c in pressed.strata if c[0].row["design"] == design)


def _prevention(results: Results, designs: Sequence[str], coefficients: Sequence[float]) -> Finding:
    """At which KL coefficient does gold no longer fall from its best point, for one design or several?"""
    strata = {b: [c for d in designs for c in results.trained(d, b)] for b in coefficients}
    found = {b: mean_of_strata(map(falls, own)) for b, own in strata.items()}
    verdicts = [judge_increase(minus(f), GOLD_MARGIN) for f in found.values()]
    values = [f.value > -GOLD_MARGIN for f in found.values()]
    late = range(1, len(found))
    safe = next((i for i in late if verdicts[i] == "no" and "yes" not in verdicts[i:]), None)
    seen = next((i for i in late if all(values[i:])), None)
    verdict, answer, place = "yes", "", safe
    if safe is None:
        verdict = "no" if verdicts[-1] == "yes" else UNKNOWN
        place = seen if verdict == UNKNOWN else None
        if verdict == UNKNOWN:
            answer = "In these runs, no." if seen is None else "In these runs, yes."
    if place is None:
        beta, how = coefficients[-1], f"At the largest coefficient tried, β = {coefficients[-1]:g}"
    else:
        beta, how = coefficients[place], f"From β = {coefficients[place]:g} on"
    cells = [c for own in strata[beta] for c in own]
    statement = (
        f"{how}: there gold changes by {shown(found[beta], sign=True)} from its best point to the end, and "
        f"ends at {shown(mean_of(strata[beta], 'gold'))}; {below_start(cells) or 'none'} of {len(cells)} "
        f"{'run' if len(cells) == 1 else 'runs'} ended below the start."
    )
    return Finding(
        "prevention",
        f"Does a KL penalty prevent that of {', '.join(f'“{d}”' for d in designs)}, and how much of one?",
        verdict,
        statement + ("" if verdict != UNKNOWN else " Of other seeds that cannot be told from so few."),
        f"The smallest coefficient at which a fall of {GOLD_MARGIN} from the best point can be ruled out "
        "(the whole interval is above it), with no fall shown at a larger one.",
        [(f"gold, best to end: β = {b:g}", f) for b, f in found.items()],
        answer=answer,
        alarm=place is None,
    )


def _length(pressed: Pressed) -> Iterator[Finding]:
    drift = mean_of(pressed.strata, "length_drift")
    if math.isnan(drift.value):
        return
    verdict = judge_change(drift, WORDS_MARGIN)
    drifted = abs(drift.value) >= WORDS_MARGIN
    start = mean_of(pressed.strata, "length_start").value
    yield Finding(
        "length_drift",
        f"Does {pressed.names} change the length of texts when {pressed.when()}?",
        verdict,
        f"By {shown(drift, 1, True)} words a text, from {start:.0f} at the start."
        + (pressed.caveat if verdict == UNKNOWN else ""),
        f"Yes: the mean change is at least {WORDS_MARGIN:g} words and its interval excludes zero; no: the "
        "whole interval lies within that margin.",
        [("words, start to end", drift)],
        answer="" if verdict != UNKNOWN else f"In {pressed.among}, {'yes' if drifted else 'no'}.",
        p=drift.p,
    )


def _texts(pressed: Pressed) -> Iterator[Finding]:
    """Describe what the policy writes, by the symptoms under the optimiser with the least gold."""
    cells = worst_setting(pressed.strata)
    if not any(c.samples for c in cells):
        return
    seen = troubles(cells)
    text, shows = example(cells)
    quoted = " ".join(text.split())
    ending = " …" if len(quoted) > _QUOTED else ""
    quote = f" A text{f' ({shows[0]})' if shows else ''}: “{quoted[:_QUOTED]}{ending}”"
    evidence = "; ".join(f"{t.name} ({t.evidence})" for t in seen)
    symptoms = ", ".join(dict.fromkeys(t.name for t in seen))
    who = optimiser_name(str(cells[0].row["optimiser"]))
    yield Finding(
        "texts",
        f"What is written when {pressed.when(pressed.names)}?",
        "yes" if seen else "no",
        (f"Symptoms with {who}: {evidence}." if seen else "No symptom is frequent.") + quote,
        "Symptoms are found by rules that stand with the texts below, over all runs of the optimiser with "
        "the least gold; the text is one of its worst run. Yes: there are symptoms, in these runs.",
        answer=f"{symptoms.capitalize()}." if seen else "Nothing strange.",
        alarm=bool(seen),
    )


def _standing(results: Results, design: str) -> Iterator[Finding]:
    """State a design's rank, and whether it can be told apart from its neighbours."""
    gold: dict[str, Runs] = {}
    for name in results.designs:
        own: dict[Setting, Any] = {s: c for s, c in results.settings.items() if s.design == name}
        trained = {s: c for s, c in own.items() if s.kl_coefficient is not None}
        if found := best_point(trained or own, RANKED_AT):
            gold[name] = found[2]
    means = {name: mean_of_strata([runs]).value for name, runs in gold.items()}
    ranked = sorted((n for n in means if math.isfinite(means[n])), key=lambda n: (-means[n], n))
    if design not in ranked or len(ranked) < 2:
        return
    place = ranked.index(design)
    around = [ranked[i] for i in (place - 1, place + 1) if 0 <= i < len(ranked)]
    gaps = [(n, contrast([gold[design], gold[n]], [1.0, -1.0])) for n in around]
    verdicts = [judge_change(gap, EFFECT_MARGIN) for _, gap in gaps]
    verdict = verdicts[0] if len(set(verdicts)) == 1 else UNKNOWN
    yield Finding(
        "standing",
        f"Is “{design}”, rank {place + 1} of {len(ranked)} by gold within {RANKED_AT:g} nats, told apart "
        "from its neighbours?",
        verdict,
        f"Its best gold within {RANKED_AT:g} nats is {shown(mean_of_strata([gold[design]]))}; that is "
        + " and ".join(f"{shown(gap, sign=True)} beside “{n}”" for n, gap in gaps)
        + ".",
        f"Yes: each difference is at least {EFFECT_MARGIN} and its interval excludes zero; no: each lies "
        "within that margin. Paired by seed; the best points and the neighbours are chosen on the same runs.",
        [(f"difference to {n}", gap) for n, gap in gaps],
        p=max((gap.p for _, gap in gaps)),
    )
