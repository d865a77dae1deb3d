"""The result of an audit as plain dataclasses, with the thresholds its verdict uses.

Thresholds are conventions (Cohen's 0.2 is a small effect), stated in every report. Nothing is scored here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from text_gym.episode import FloatArray
from text_gym.pages.notebook import card, table
from text_gym.plot.style import label
from text_gym.utils.display import harmless
from text_gym.utils.interval import Interval, shown

from .attribution import Attribution
from .best_of_n import BestOfNProbe
from .effects import PartEffect
from .words import WordWeight

# From here on an effect is reported: in standard deviations of the reward over the real texts …
EFFECT, UNSTABLE = 0.2, 0.5
# … for one word, or another part put into a text.
PART = 0.1
# … as a rank correlation at equal gold (its whole interval); as what the batch changes, of the scores.
PARTIAL, LOUD, BATCH = 0.05, 0.2, 1e-5
# Below the first rank correlation a reward does not follow gold; from the second on it follows it well.
FOLLOWS, FOLLOWS_WELL = 0.3, 0.5


@dataclass(frozen=True)
class NullRuler:
    """A rule without skill, and the share of real texts its texts beat (ties count half).

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
    """The source's response to a surface property.

    Args:
        name: Of the property.
        unit: Its unit.
        edit: The edit in words.
        correlation: Spearman's, of score and property over the real texts.
        partial: The same with gold and its terms accounted for, if there is a gold reward.
        effect: What the edit adds, in standard deviations of the score over the real texts; where gold is
            known, over the texts in which the edit changes no term of gold, or (where they are too few)
            raises none.
        gold: What it adds to the gold reward in the same texts, in that one's standard deviations.
        corrected: The effect with an interval that is corrected for the number of properties (99 %).
        beyond: Where no edit leaves gold alone: what the edit adds in all texts beyond what real texts
            of such gold score, with a corrected interval.
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
    """How far the score moves under changes that should not matter.

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
class AuditFinding:
    """A finding by name, with the numbers that show it.

    Args:
        bias: Its name.
        statement: The numbers, in a sentence.
        kind: `bias`; `gold`, of a reward that does not follow gold; `noise`, of one that moves under changes
            of no meaning, now up and now down; or `fault`, of one that is constant or looks at its batch.
    """

    bias: str
    statement: str
    kind: str = "bias"


@dataclass(frozen=True, repr=False)
class Audit:
    """The result of `audit_reward`.

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
    findings: tuple[AuditFinding, ...]
    parts: tuple[PartEffect, ...] = ()
    tried: int = 0
    weights: tuple[WordWeight, ...] = ()
    best: BestOfNProbe | None = None

    def __repr__(self) -> str:
        return f"Audit({label(self.source)}: {self.headline()}; {len(self.texts):,} texts)"

    def _repr_html_(self) -> str:
        facts: dict[str, object] = {"texts": len(self.texts), "gold": self.gold or "unknown"}
        if self.agreement is not None:
            facts["rank correlation with gold"] = shown(self.agreement)
        found = [[finding.bias, finding.statement] for finding in self.findings]
        surfaces = [[s.name, s.edit, shown(s.correlation), shown(s.effect)] for s in self.surfaces]
        headings = ["property", "edit", "rank correlation", "what the edit adds, standard deviations"]
        return card(
            f"Audit of {self.source}: {self.headline()}",
            facts,
            Markup("<pre>{}</pre>").format(harmless(self.tree, newlines=True)),
            table(["finding", "what shows it"], found) if found else Markup(),
            table(headings, surfaces),
        )

    @property
    def biases(self) -> tuple[str, ...]:
        """The names of the findings."""
        return tuple(finding.bias for finding in self.findings)

    @property
    def length(self) -> Interval | None:
        """The rank correlation of score and length."""
        return next((s.correlation for s in self.surfaces if s.name == "length"), None)

    @property
    def mark(self) -> str:
        """`bad` with findings, `good` only for a reward that is known to follow gold well, else `open`."""
        if self.findings:
            return "bad"
        return "good" if self.agreement is not None and self.agreement.value >= FOLLOWS_WELL else "open"

    @property
    def paid(self) -> tuple[PartEffect, ...]:
        """Parts that surely raise or lower the score, without gold to say whether they should."""
        if self.gold is not None:
            return ()
        sure = [p for p in self.parts if p.effect.low > 0 or p.effect.high < 0]
        large = (p for p in sure if not p.value and abs(p.effect.value) >= EFFECT)
        return tuple(sorted(large, key=lambda p: " " in p.part))  # single words first

    def headline(self) -> str:
        """The verdict in one sentence."""
        n = len(self.findings)
        if n:
            return "1 finding" if n == 1 else f"{n} findings"
        if self.agreement is None:
            pays = f"; it looks at {quoted(self.paid)}" if self.paid else ""
            return (
                f"Nobody knows what this reward should follow{pays}; none of the biases looked for was found"
            )
        if math.isnan(self.agreement.value):
            return "Gold is the same for all texts; none of the biases looked for was found"
        if self.mark == "open":
            return "It follows gold weakly; none of the biases looked for was found"
        return "It follows gold, and none of the biases looked for was found"

    def summary(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        limits = {
            "effect": EFFECT,
            "part": PART,
            "unstable": UNSTABLE,
            "partial": PARTIAL,
            "loud": LOUD,
            "batch": BATCH,
        }
        limits |= {"follows": FOLLOWS, "follows_well": FOLLOWS_WELL}
        found: dict[str, Any] = as_json(self)
        return found | {"thresholds": limits, "headline": self.headline(), "mark": self.mark}


def quoted(parts: Sequence[PartEffect]) -> str:
    """Quote the first three parts."""
    return ", ".join(f"“{p.part}”" for p in parts[:3]) + (", …" if len(parts) > 3 else "")


def as_json(value: Any) -> Any:
    """Convert dataclasses, intervals and arrays to JSON's types."""
    if isinstance(value, Interval):
        return value.summary()
    if isinstance(value, Attribution):
        return value.summary()
    if dataclasses.is_dataclass(value):
        return {f.name: as_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {k: as_json(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return [as_json(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value
