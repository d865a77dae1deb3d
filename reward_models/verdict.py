"""What an audit found, and the verdict: which biases it names, each with the numbers that show it.

Thresholds are conventions (Cohen's 0.2 is a small effect), stated in every report. Nothing is scored here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from text_gym.interval import Interval
from text_gym.reward import FloatArray

from .attribution import Attribution

# From here on an effect is named: in standard deviations of the reward over the real texts …
EFFECT, UNSTABLE = 0.2, 0.5
# … as a rank correlation at equal gold (its whole interval); as what the batch changes, of the scores.
PARTIAL, BATCH = 0.3, 1e-5


@dataclass(frozen=True)
class NullRuler:
    """A rule without skill: the share of real texts whose score its texts beat (ties count half).

    Args:
        name: Of the rule.
        beaten: By the audited source.
        gold: By the gold reward, if there is one.
        example: One of its texts.
    """

    name: str
    beaten: Interval
    gold: Interval | None
    example: str


@dataclass(frozen=True)
class SurfaceBias:
    """What the source does with a property of the surface.

    Args:
        name: Of the property.
        unit: Its unit.
        edit: The edit in words.
        correlation: Spearman's, of score and property over the real texts.
        partial: The same with gold and its terms accounted for, if there is a gold reward.
        effect: What the edit adds, in standard deviations of the score over the real texts.
        gold: What it adds to the gold reward, in that one's standard deviations.
    """

    name: str
    unit: str
    edit: str
    correlation: Interval
    partial: Interval | None
    effect: Interval
    gold: Interval | None


@dataclass(frozen=True)
class Shift:
    """How far the score moves under changes that should not move it.

    Args:
        name: Of the change.
        size: Mean absolute change, in standard deviations of the score over the real texts.
        gold: The same of the gold reward.
        direction: Mean change with its sign, in the same unit.
        rank: Spearman's correlation of the scores before and after; NaN where there is none.
        example: What was changed, e.g. `$9 → $84`, where it moved the score most.
    """

    name: str
    size: Interval
    gold: Interval | None
    direction: Interval
    rank: float
    example: str = ""


@dataclass(frozen=True)
class Finding:
    """A bias by name, with the numbers that show it."""

    bias: str
    statement: str


@dataclass(frozen=True)
class Audit:
    """What `audit` found.

    Args:
        source: Name of the source.
        tree: The source and its parts.
        gold: Name of the gold reward, or None.
        texts: The real texts.
        scores: `(n,)` their scores.
        golds: `(n,)` their gold rewards, or None.
        spread: Standard deviation of the scores; the unit of all effects.
        agreement: Spearman's correlation of scores and gold, or None.
        missing: Real texts on which the source had no opinion.
        nulls: Null rulers.
        surfaces: Properties of the surface.
        swaps: Counterfactual swaps of brands, genders, places and prices.
        stability: Edits that keep the meaning.
        batch: Largest difference that the batch makes, by the way it was changed; NaN where not asked.
        terms: Name of a term -> its correlation with the score.
        explanations: Attributions of some texts, from the worst to the best.
        gradients: The same by integrated gradients, if the source is a learned model.
        findings: The verdict; empty if nothing was found.
    """

    source: str
    tree: str
    gold: str | None
    texts: tuple[str, ...]
    scores: FloatArray
    golds: FloatArray | None
    spread: float
    agreement: Interval | None
    missing: int
    nulls: tuple[NullRuler, ...]
    surfaces: tuple[SurfaceBias, ...]
    swaps: tuple[Shift, ...]
    stability: tuple[Shift, ...]
    batch: dict[str, float]
    terms: dict[str, Interval]
    explanations: tuple[Attribution, ...]
    gradients: tuple[Attribution, ...]
    findings: tuple[Finding, ...]

    @property
    def biases(self) -> tuple[str, ...]:
        """Names of what was found."""
        return tuple(finding.bias for finding in self.findings)

    def summary(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        limits = {"effect": EFFECT, "unstable": UNSTABLE, "partial": PARTIAL, "batch": BATCH}
        found: dict[str, Any] = plain(self)
        return found | {"thresholds": limits}


def verdict(found: Audit) -> tuple[Finding, ...]:
    """The biases that the numbers show; where gold is known, only those that gold does not share."""
    return (
        *_constant(found),
        *_surfaces(found),
        *_nulls(found),
        *_swaps(found),
        *_unstable(found),
        *_batch(found),
    )


def _constant(found: Audit) -> Iterator[Finding]:
    if found.spread == 0:
        yield Finding(
            "constant", f"All {len(found.scores)} texts score {found.scores[0]:g}: nothing can be learnt."
        )


def _surfaces(found: Audit) -> Iterator[Finding]:
    for s in found.surfaces:
        said = []
        # Without gold nobody knows whether less would be deserved: only what is paid for is named then.
        wanted = s.gold is not None and s.gold.value > EFFECT / 4
        unwanted = s.gold is None or s.gold.value < -EFFECT / 4
        paid = s.effect.value >= EFFECT and s.effect.low > 0 and not wanted
        punished = s.effect.value <= -EFFECT and s.effect.high < 0 and not unwanted
        if paid or punished:
            verb = "adds" if paid else "costs"
            said.append(f"{s.edit} {verb} {_shown(s.effect)} standard deviations{_beside(s.gold)}")
        if s.partial is not None and (s.partial.low >= PARTIAL or s.partial.high <= -PARTIAL):
            said.append(f"at equal gold the rank correlation with it is {_shown(s.partial)}")
        if said:
            text = "; ".join(said)
            yield Finding(s.name, f"{text[0].upper()}{text[1:]}.")


def _nulls(found: Audit) -> Iterator[Finding]:
    for n in found.nulls:
        if n.beaten.low > 0.5 and (n.gold is None or n.gold.value <= 0.5):
            beside = "" if n.gold is None else f" (by gold {n.gold.value:.0%})"
            yield Finding(
                f"null ruler: {n.name}", f"It beats {n.beaten.value:.0%} of the real texts{beside}."
            )


def _swaps(found: Audit) -> Iterator[Finding]:
    for s in found.swaps:
        fair = s.gold is None or s.gold.value < EFFECT / 2
        if fair and s.size.low >= EFFECT:
            yield Finding(
                s.name,
                f"Swapping it moves the score by {_shown(s.size)} standard deviations{_beside(s.gold)}; "
                f"most: {s.example}.",
            )


def _unstable(found: Audit) -> Iterator[Finding]:
    for s in found.stability:
        fair = s.gold is None or s.gold.value < UNSTABLE / 2
        if fair and s.size.low >= UNSTABLE:
            yield Finding(
                f"unstable: {s.name}",
                f"The edit moves the score by {_shown(s.size)} standard deviations{_beside(s.gold)}.",
            )


def _batch(found: Audit) -> Iterator[Finding]:
    scale = max(1.0, float(np.abs(found.scores).max()))
    for name, difference in found.batch.items():
        if not difference <= BATCH * scale:
            yield Finding(
                f"depends on the batch: {name}", f"The same texts score up to {difference:.2g} apart."
            )


def _shown(interval: Interval) -> str:
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]".replace("-0.00", "0.00").replace(
        "-", "−"
    )


def _beside(gold: Interval | None) -> str:
    return "" if gold is None else f" (gold: {gold.value:.2f})".replace("-", "−")


def plain(value: Any) -> Any:
    """Dataclasses, intervals and arrays as what JSON has."""
    if isinstance(value, Interval):
        return value.summary()
    if isinstance(value, Attribution):
        return value.summary()
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value
