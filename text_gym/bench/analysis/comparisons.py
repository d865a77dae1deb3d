"""Compares designs that differ in one trait, and the optimisers over all designs.

What is compared has the same optimiser, KL coefficient and seed on both sides. Over-optimisation of single
designs stands in `findings`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from text_gym.utils.interval import rank_correlation, shown

from .results import Results, Setting, is_reinforcement_learning, json_numbers, optimiser_name
from .runs import RANKED_AT, best_point, by_seed, mean_curve, mean_known, mean_of, value
from .statistics import RESAMPLES, Runs, contrast, mean_of_strata
from .verdicts import (
    ALGORITHM_MARGIN,
    EFFECT_MARGIN,
    RHO_MARGIN,
    UNKNOWN,
    WORDS_MARGIN,
    Finding,
    judge_increase,
    minus,
)


def length_rater(results: Results) -> Iterator[Finding]:
    """Do texts grow when raters prefer long ones?"""
    for clean, biased in _twins(results, "rater"):
        if (results.traits(clean)["rater"], results.traits(biased)["rater"]) != ("clean", "length"):
            continue
        drifts = _differences(results, clean, biased, "length_drift")
        if not drifts:
            continue
        least = _betas(drifts)[0]
        effect = mean_of_strata(d for s, d in drifts.items() if s.kl_coefficient == least)
        own = mean_of(results.trained(biased, least), "length_drift")
        yield Finding(
            "length_rater",
            f"Do texts grow when raters prefer long ones, at β = {least:g}?",
            judge_increase(effect, WORDS_MARGIN),
            f"With “{biased}” a text's length changes by {shown(own, 1, True)} words; that is "
            f"{shown(effect, 1, True)} words more than with “{clean}”.",
            f"Yes: the difference to the clean rater's drift is at least {WORDS_MARGIN:g} words and above "
            "zero beyond its interval; paired by seed, mean over optimisers.",
            [("drift, words", own), ("difference to the clean rater, words", effect)]
            + [
                (f"difference: {s.optimiser}, β = {s.kl_coefficient:g}", mean_of_strata([d]))
                for s, d in drifts.items()
            ],
            p=effect.p,
        )


@dataclass(frozen=True)
class _Trait:
    """A trait in which designs are compared.

    Args:
        name: In the configuration.
        question: About the two values.
        pairs: Which of the values that designs alike in all else have are compared, in the question's order.
        ignored: Traits in which such designs may differ.
    """

    name: str
    question: str
    pairs: Callable[[Sequence[Any]], Sequence[tuple[Any, Any]]]
    ignored: tuple[str, ...] = ()


_TRAITS = (
    _Trait(
        "members",
        "Does an ensemble of {1} do better than a single model?",
        lambda n: [(1, max(n))],
        ("k",),
    ),
    _Trait("asked", "Do pairs teach more than as many ratings?", lambda _: [("ratings", "pairs")]),
    _Trait("opinions", "Do {1:,} opinions give better text than {0:,}?", lambda n: [(min(n), max(n))]),
    _Trait("model", "Does a transformer do better than n-grams?", lambda _: [("ngrams", "transformer")]),
    _Trait("per", "Is a reward per token better than one at the end?", lambda _: [("text", "token")]),
    _Trait(
        "rater",
        "Does a rater of the kind “{1}” cost gold, beside a clean one?",
        lambda kinds: [("clean", kind) for kind in kinds if kind != "clean"],
    ),
)


def traits(results: Results) -> Iterator[Finding]:
    """Compare the final gold of designs that differ in one trait."""
    for trait in _TRAITS:
        for a, b in _twins(results, trait.name):
            drawn = _differences(results, a, b, "gold")
            if not drawn:
                continue
            cost = trait.name == "rater"
            whole = mean_of_strata(drawn.values())
            least = _betas(drawn)[0]
            first = mean_of_strata(d for s, d in drawn.items() if s.kl_coefficient == least)
            yield Finding(
                trait.name,
                trait.question.format(results.traits(a)[trait.name], results.traits(b)[trait.name]),
                judge_increase(minus(whole) if cost else whole, EFFECT_MARGIN),
                f"Gold with “{b}” less gold with “{a}”: {shown(whole, sign=True)} over all coefficients, "
                f"{shown(first, sign=True)} at β = {least:g}.",
                f"{'Below' if cost else 'Above'} zero beyond its interval, and at least {EFFECT_MARGIN}: "
                "yes. Differences are paired by seed; mean over optimisers and coefficients.",
                [("all coefficients", whole)]
                + [
                    (
                        f"β = {beta:g}",
                        mean_of_strata(d for s, d in drawn.items() if s.kl_coefficient == beta),
                    )
                    for beta in _betas(drawn)
                ],
                p=whole.p,
            )


def _twins(results: Results, name: str) -> Iterator[tuple[str, str]]:
    """Find pairs of designs that differ in one trait only, in the order of its question."""
    trait = next(t for t in _TRAITS if t.name == name)
    families: dict[frozenset[tuple[str, Any]], dict[Any, str]] = {}
    for design in results.designs:
        own = results.traits(design)
        if name in own:
            rest = frozenset((k, v) for k, v in own.items() if k not in (name, *trait.ignored))
            families.setdefault(rest, {}).setdefault(own[name], design)
    for family in families.values():
        for a, b in trait.pairs(list(family)):
            if a != b and a in family and b in family:
                yield family[a], family[b]


def static_accuracy(results: Results) -> Iterator[Finding]:
    """Does agreement with gold on pairs of starting texts predict gold after optimisation?"""
    rows: list[tuple[str, float, float, float]] = []
    for design in results.designs:
        own = {
            s: c for s, c in results.settings.items() if s.design == design and s.kl_coefficient is not None
        }
        accuracy = [c["static_accuracy"] for cells in own.values() for c in cells]
        found = best_point(own, RANKED_AT)
        if (
            results.traits(design).get("kind") == "gold"
            or not own
            or not np.isfinite(accuracy).all()
            or not found
        ):
            continue
        least = results.trained(design, results.coefficients(design)[0])
        hard = float(np.mean([c["gold"] for cells in least for c in cells]))
        rows.append((design, float(np.mean(accuracy)), mean_known(list(found[2].values())), hard))
    if len(rows) < 5:
        return
    agreement, gold, at_least = (json_numbers(r[i] for r in rows) for i in (1, 2, 3))
    matched, unbound = (
        rank_correlation(agreement, gold, resamples=RESAMPLES, quantiles="inverted_cdf"),
        rank_correlation(agreement, at_least, resamples=RESAMPLES, quantiles="inverted_cdf"),
    )
    if math.isnan(matched.value):
        return
    yield Finding(
        "static_accuracy",
        "Does a design's accuracy on pairs foretell the text that optimising it gives?",
        "yes"
        if matched.low > 0 and matched.value >= RHO_MARGIN
        else "no"
        if matched.high < RHO_MARGIN
        else UNKNOWN,
        f"Over {len(rows)} designs its rank correlation with the best gold within {RANKED_AT:g} nats is "
        f"{shown(matched)}, and with gold at the smallest coefficient {shown(unbound)}.",
        f"Spearman's correlation within {RANKED_AT:g} nats, percentile bootstrap over designs, gold itself "
        f"left out. Yes: above zero beyond its interval and at least {RHO_MARGIN}; no: the whole interval "
        f"is below {RHO_MARGIN}.",
        [(f"within {RANKED_AT:g} nats", matched), ("at the smallest coefficient", unbound)],
    )


def best_of_n_against_rl(results: Results) -> Iterator[Finding]:
    """Compare reinforcement learning with best-of-n at the KL that best-of-n can reach."""
    chosen = {s: c for s, c in results.settings.items() if s.optimiser == "best_of_n"}
    ends = [mean_curve(c)[-1]["kl_nats"] for c in chosen.values() if mean_curve(c)]
    if not ends:
        return
    budget = max(ends)
    strata: list[tuple[str, Runs]] = []
    for design in results.designs:
        own = {
            s: c for s, c in results.settings.items() if s.design == design and is_reinforcement_learning(s)
        }
        rl = best_point(own, budget)
        bon = best_point({s: c for s, c in chosen.items() if s.design == design}, budget)
        paired = {s: g - bon[2][s] for s, g in rl[2].items() if s in bon[2]} if rl and bon else {}
        if paired:
            strata.append((design, paired))
    if not strata:
        return
    effect = mean_of_strata(d for _, d in strata)
    verdict = judge_increase(effect, EFFECT_MARGIN)
    yield Finding(
        "best_of_n",
        f"Does reinforcement learning give better text than best-of-n within {budget:.1f} nats?",
        verdict,
        f"Best gold of reinforcement learning less best gold of best-of-n: {shown(effect, sign=True)}, "
        f"mean over {len(strata)} designs.",
        f"At least {EFFECT_MARGIN} and above zero beyond its interval: yes. Reinforcement learning picks "
        "from more points (coefficients, optimisers, iterations), all chosen on these runs, and its KL is "
        "an estimate, that of best-of-n the bound log n - (n - 1)/n.",
        [("all designs", effect)] + [(d, mean_of_strata([x])) for d, x in strata],
        p=effect.p,
    )


def other_optimisers(results: Results) -> Iterator[Finding]:
    """Compare DPO and best-of-n distillation with RLOO, where both were run on a design."""
    for optimiser in ("dpo", "distillation"):
        matched: list[tuple[str, Runs]] = []
        ends: list[Runs] = []
        for design in results.designs:
            own = {s: c for s, c in results.settings.items() if s.design == design}
            found = [
                best_point({s: c for s, c in own.items() if s.optimiser == name}, RANKED_AT)
                for name in (optimiser, "rloo")
            ]
            if found[0] and found[1]:
                mine, theirs = found[0][2], found[1][2]
                matched.append((design, {s: g - theirs[s] for s, g in mine.items() if s in theirs}))
            for setting, cells in own.items():
                beside = by_seed(own.get(setting._replace(optimiser="rloo"), ()), "gold")
                if setting.optimiser == optimiser and beside:
                    gold = by_seed(cells, "gold")
                    ends.append({s: g - beside[s] for s, g in gold.items() if s in beside})
        matched = [(design, runs) for design, runs in matched if runs]
        if not matched:
            continue
        effect, end, name = (
            mean_of_strata(r for _, r in matched),
            mean_of_strata(ends),
            optimiser_name(optimiser),
        )
        yield Finding(
            optimiser,
            f"Does {name} give better text than RLOO within {RANKED_AT:g} nats?",
            judge_increase(effect, EFFECT_MARGIN),
            f"Best gold of {name} less that of RLOO: {shown(effect, sign=True)}, mean over {len(matched)} "
            f"{'design' if len(matched) == 1 else 'designs'}. At the end of runs with the same β: "
            f"{shown(end, sign=True)}.",
            f"At least {EFFECT_MARGIN} and above zero beyond its interval: yes; the whole interval below "
            f"{EFFECT_MARGIN}: no. Paired by seed, with as many episodes. RLOO picks from more points where "
            "it was run with more coefficients.",
            [("all designs", effect), ("at the end, same β", end)]
            + [(design, mean_of_strata([runs])) for design, runs in matched],
            p=effect.p,
        )


def best_algorithms(results: Results) -> Iterator[Finding]:
    """Ask for each task: is the optimiser with the highest mean gold better than the next?"""
    for task in dict.fromkeys(s.task for s in results.settings):
        own = {s: c for s, c in results.settings.items() if s.task == task}
        gold = {s: by_seed(c, "gold") for s, c in own.items()}
        means = {s: mean_known(list(runs.values())) for s, runs in gold.items()}
        ordered = sorted((s for s in means if math.isfinite(means[s])), key=lambda s: -means[s])
        if len(ordered) < 2:
            continue
        one, two = ordered[:2]
        effect = contrast([gold[one], gold[two]], [1.0, -1.0])
        verdict = judge_increase(effect, ALGORITHM_MARGIN)
        yield Finding(
            "best_algorithm",
            f"{task}: is {optimiser_name(one.optimiser)}, first by mean gold, better than "
            f"{optimiser_name(two.optimiser)}, the next?",
            verdict,
            f"Gold {means[one]:.3f} (worst run {_least(gold[one])}) and {means[two]:.3f} (worst run "
            f"{_least(gold[two])}); difference {shown(effect, 3, True)}.",
            f"At least {ALGORITHM_MARGIN} and above zero beyond Student's interval, paired by seed: yes. The "
            "two were picked by the same runs, which makes the difference look larger than it is.",
            [(str(s), mean_of_strata([gold[s]])) for s in ordered],
            p=effect.p,
        )


def _least(runs: Runs) -> str:
    return f"{min(runs.values()):.3f}"


def _differences(results: Results, a: str, b: str, measure: str) -> dict[Setting, Runs]:
    """Return a measure of design `b` minus that of `a`, by setting (of `b`), paired by seed."""
    found: dict[Setting, Runs] = {}
    for setting, cells in results.settings.items():
        if setting.design != b or setting.kl_coefficient is None:
            continue
        others = {c.row["seed"]: c for c in results.settings.get(setting._replace(design=a), ())}
        pairs = [(others[c.row["seed"]], c) for c in cells if c.row["seed"] in others]
        if pairs:
            found[setting] = {y.row["seed"]: value(y, measure) - value(x, measure) for x, y in pairs}
    return found


def _betas(settings: Iterable[Setting]) -> list[float]:
    return sorted({s.kl_coefficient for s in settings if s.kl_coefficient is not None})
