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
from .audit_best_of_n import BestOfN
from .audit_effects import PartEffect
from .audit_parts import tokens
from .audit_words import WordWeight

# From here on an effect is named: in standard deviations of the reward over the real texts …
EFFECT, UNSTABLE = 0.2, 0.5
# … for one word, or another part put into a text.
PART = 0.1
# … as a rank correlation at equal gold (its whole interval); as what the batch changes, of the scores.
PARTIAL, BATCH = 0.05, 1e-5
# Below this rank correlation a reward does not follow gold; from the second on it follows it well.
FOLLOWS, FOLLOWS_WELL = 0.3, 0.5
_MOST_PARTS = 12  # of one kind that a finding lists


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
        effect: What the edit adds, in standard deviations of the score over the real texts; where gold is
            known, over the texts in which the edit changes no term of gold, or (where they are too few) raises
            none.
        gold: What it adds to the gold reward in the same texts, in that one's standard deviations.
        corrected: The effect with an interval that is corrected for the number of properties (99 %).
        beyond: Where no edit leaves gold alone: what the edit adds in all texts beyond what a linear model
            expects of the change in gold's terms, with a corrected interval.
    """

    name: str
    unit: str
    edit: str
    correlation: Interval
    partial: Interval | None
    effect: Interval
    gold: Interval | None
    corrected: Interval | None = None
    beyond: Interval | None = None


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
    """What was found, by name, with the numbers that show it.

    Args:
        bias: Its name.
        statement: The numbers, in a sentence.
        kind: `bias`; `gold`, of a reward that does not follow gold; `noise`, of one that moves under changes
            of no meaning, now up and now down; or `fault`, of one that is constant or looks at its batch.
    """

    bias: str
    statement: str
    kind: str = "bias"


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
        parts: What single words, values, openings, endings and marks add, of those that seemed to matter.
        tried: How many of them were tried.
        weights: Words that go with the score at equal gold and length.
        best: Best-of-n by the source, if gold is known.
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
    parts: tuple[PartEffect, ...] = ()
    tried: int = 0
    weights: tuple[WordWeight, ...] = ()
    best: BestOfN | None = None

    @property
    def biases(self) -> tuple[str, ...]:
        """Names of what was found."""
        return tuple(finding.bias for finding in self.findings)

    @property
    def length(self) -> Interval | None:
        """Rank correlation of score and length."""
        return next((s.correlation for s in self.surfaces if s.name == "length"), None)

    @property
    def mark(self) -> str:
        """`bad` with findings, `good` only for a reward that is known to follow gold well, else `open`."""
        if self.findings:
            return "bad"
        return "good" if self.agreement is not None and self.agreement.value >= FOLLOWS_WELL else "open"

    def headline(self) -> str:
        """The verdict in one sentence."""
        n = len(self.findings)
        if n:
            return "1 finding" if n == 1 else f"{n} findings"
        if self.agreement is None:
            return "Nobody knows what this reward should follow; none of the biases looked for was found"
        if math.isnan(self.agreement.value):
            return "Gold is the same for all texts; none of the biases looked for was found"
        if self.mark == "open":
            return "It follows gold weakly; none of the biases looked for was found"
        return "It follows gold, and none of the biases looked for was found"

    def summary(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        limits = {"effect": EFFECT, "part": PART, "unstable": UNSTABLE, "partial": PARTIAL, "batch": BATCH}
        limits |= {"follows": FOLLOWS, "follows_well": FOLLOWS_WELL}
        found: dict[str, Any] = plain(self)
        return found | {"thresholds": limits, "headline": self.headline(), "mark": self.mark}


def verdict(found: Audit) -> tuple[Finding, ...]:
    """What the numbers show; where gold is known, only biases that gold does not share."""
    return (
        *_constant(found),
        *_gold(found),
        *_surfaces(found),
        *_parts(found),
        *_nulls(found),
        *_swaps(found),
        *_unstable(found),
        *_batch(found),
    )


def _constant(found: Audit) -> Iterator[Finding]:
    if found.spread == 0:
        yield Finding(
            "constant", f"All {len(found.scores)} texts score {found.scores[0]:g}: nothing can be learnt.", "fault"
        )


def _gold(found: Audit) -> Iterator[Finding]:
    follows, best = found.agreement, found.best
    if follows is not None and (follows.value < FOLLOWS or follows.low <= 0):
        yield Finding("does not follow gold", f"Its rank correlation with gold is {_shown(follows)}.", "gold")
    if best is not None and best.change.high < 0:
        yield Finding(
            f"best of {best.n} lowers gold",
            f"Taking the best of {best.n} texts by this reward takes gold {best.mean:.2f} → {_shown(best.gold)}; "
            f"by gold itself it would be {best.best:.2f}.",
            "gold",
        )


def _surfaces(found: Audit) -> Iterator[Finding]:
    for s in found.surfaces:
        # Without gold nobody knows whether less would be deserved: only what is paid for is named then.
        wanted = s.gold is not None and s.gold.value > EFFECT / 4
        unwanted = s.gold is None or s.gold.value < -EFFECT / 4
        sure = s.corrected or s.effect
        paid = s.effect.value >= EFFECT and sure.low > 0 and not wanted
        punished = s.effect.value <= -EFFECT and sure.high < 0 and not unwanted
        text = f"{s.edit} {{}} {_shown(s.effect)} standard deviations{_beside(s.gold)}"
        if not (paid or punished):  # a correlation alone names nothing: an edit decides
            if s.beyond is None or not _agree(s.beyond, s.partial):
                continue
            paid = s.beyond.value > 0
            text = f"beyond what gold explains, {s.edit} {{}} {_shown(s.beyond)} standard deviations"
        text = text.format("adds" if paid else "costs")
        if s.partial is not None and (s.partial.low > 0 if paid else s.partial.high < 0):
            text += f"; at equal gold the rank correlation with it is {_shown(s.partial)}"
        yield Finding(s.name, f"{text[0].upper()}{text[1:]}.")


def _agree(beyond: Interval, partial: Interval | None) -> bool:
    """Whether the edit, beyond what gold explains, and the texts at equal gold say the same, and surely."""
    if partial is None:
        return False
    up = beyond.value >= EFFECT and beyond.low > 0 and partial.low >= PARTIAL
    down = beyond.value <= -EFFECT and beyond.high < 0 and partial.high <= -PARTIAL
    return up or down


def _parts(found: Audit) -> Iterator[Finding]:
    """A finding for the parts of a kind that are paid for, and one for those that cost."""
    named: dict[tuple[str, bool], list[PartEffect]] = {}
    for part in found.parts:
        effect = part.effect
        large = abs(effect.value) >= (EFFECT if found.gold is None else PART)
        sure = effect.low > 0 or effect.high < 0
        # Without gold a word may deserve what it gets; a value that was swapped everywhere does not.
        if large and sure and part.unearned and (part.value or found.gold is not None):
            named.setdefault((part.kind, effect.value > 0), []).append(part)
    words = {p.part.lower() for parts in named.values() for p in parts if " " not in p.part}
    for (kind, paid), every in named.items():
        # Beside parts that are paid for, innocent ones seem to cost a little, and the other way round.
        most, other = (abs(own[0].effect.value) for own in (every, named.get((kind, not paid), every)))
        parts = [p for p in every if " " not in p.part or not words & {*tokens(p.part.lower())}]
        if not parts or most < other / 2:
            continue
        shown = [f"“{p.part}” {_shown(p.effect)}" for p in parts[:_MOST_PARTS]]
        more = f" and {len(parts) - _MOST_PARTS} more" if len(parts) > _MOST_PARTS else ""
        names = ", ".join(f"“{p.part}”" for p in parts[:3]) + (", …" if len(parts) > 3 else "")
        yield Finding(
            f"{kind} {names}",
            f"In place of others {'it adds' if paid else 'it costs'}, in standard deviations: "
            f"{', '.join(shown)}{more}.",
        )


def _nulls(found: Audit) -> Iterator[Finding]:
    for n in found.nulls:
        if n.beaten.low > 0.5 and (n.gold is None or n.gold.value <= 0.5):
            beside = "" if n.gold is None else f" (by gold {n.gold.value:.0%})"
            yield Finding(
                f"null ruler: {n.name}", f"It beats {n.beaten.value:.0%} of the real texts{beside}."
            )


def _swaps(found: Audit) -> Iterator[Finding]:
    # A noisy reward moves under any edit; a swap is named for what it moves the score beyond that.
    noise = float(np.median([s.size.value for s in found.stability])) if found.stability else 0.0
    for s in found.swaps:
        fair = s.gold is None or s.gold.value < EFFECT / 2
        if fair and s.size.low >= EFFECT + noise:
            yield Finding(
                s.name,
                f"Swapping it moves the score by {_shown(s.size)} standard deviations{_beside(s.gold)}; "
                f"most: {s.example}.",
            )


def _unstable(found: Audit) -> Iterator[Finding]:
    noisy = []
    for s in found.stability:
        fair = s.gold is None or s.gold.value < UNSTABLE / 2
        if not fair or s.size.low < UNSTABLE:
            continue
        if abs(s.direction.value) < s.size.value / 2:
            noisy.append(f"{s.name} {_shown(s.size)}{_beside(s.gold)}")
            continue
        yield Finding(
            f"unstable: {s.name}",
            f"The edit moves the score by {_shown(s.size)} standard deviations{_beside(s.gold)}.",
        )
    if noisy:
        yield Finding(
            "noise",
            f"Edits that keep the meaning move the score now up and now down, in standard deviations: "
            f"{', '.join(noisy)}.",
            "noise",
        )


def _batch(found: Audit) -> Iterator[Finding]:
    scale = max(1.0, float(np.abs(found.scores).max()))
    for name, difference in found.batch.items():
        if not difference <= BATCH * scale:
            yield Finding(
                f"depends on the batch: {name}", f"The same texts score up to {difference:.2g} apart.", "fault"
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
