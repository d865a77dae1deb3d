"""The verdict of an audit: its findings, each with the numbers that show it.

An edit decides, never a correlation alone. Nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from text_gym.utils.interval import Interval

from .effects import PartEffect
from .parts import tokens
from .result import BATCH, EFFECT, FOLLOWS, LOUD, PART, PARTIAL, UNSTABLE, Audit, AuditFinding, quoted

_COMPOSED = ("opening", "ending", "phrase")  # parts of several words
_MOST_PARTS = 12  # of one kind that a finding lists


def find_biases(found: Audit) -> tuple[AuditFinding, ...]:
    """Derive the findings from the numbers; where gold is known, only biases gold does not share."""
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


def _constant(found: Audit) -> Iterator[AuditFinding]:
    if found.spread == 0:
        yield AuditFinding(
            "constant",
            f"All {len(found.scores)} texts score {found.scores[0]:g}: nothing can be learnt.",
            "fault",
        )


def _gold(found: Audit) -> Iterator[AuditFinding]:
    follows, best = found.agreement, found.best
    if follows is not None and (follows.value < FOLLOWS or follows.low <= 0):
        yield AuditFinding(
            "does not follow gold", f"Its rank correlation with gold is {_shown(follows)}.", "gold"
        )
    if best is not None and best.change.high < 0:
        yield AuditFinding(
            f"best of {best.n} lowers gold",
            f"Taking the best of {best.n} texts by this reward takes gold {best.mean:.2f} → "
            f"{_shown(best.gold)}; by gold itself it would be {best.best:.2f}.",
            "gold",
        )


def _surfaces(found: Audit) -> Iterator[AuditFinding]:
    for s in found.surfaces:
        # Without gold nobody knows whether a cost is deserved, so only what is paid for is named.
        wanted = s.gold is not None and s.gold.value > EFFECT / 4
        unwanted = s.gold is None or s.gold.value < -EFFECT / 4
        # Where texts of equal gold clearly agree, the edit's uncorrected interval is enough.
        loud = s.partial is not None and (s.partial.low if s.effect.value > 0 else -s.partial.high) >= LOUD
        sure = s.effect if loud else s.corrected or s.effect
        paid = s.effect.value >= EFFECT and sure.low > 0 and not wanted
        punished = s.effect.value <= -EFFECT and sure.high < 0 and not unwanted
        text = f"{s.edit} adds {_shown(s.effect)} standard deviations{_beside(s.gold)}"
        if not (paid or punished):  # a correlation alone is not evidence; an edit decides
            if s.beyond is None or not _agree(s.beyond, s.partial):
                continue
            paid = s.beyond.value > 0
            text = f"beyond what gold explains, {s.edit} adds {_shown(s.beyond)} standard deviations"
        if s.partial is not None and (s.partial.low > 0 if paid else s.partial.high < 0):
            text += f"; at equal gold the rank correlation with it is {_shown(s.partial)}"
        yield AuditFinding(s.name, f"{text[0].upper()}{text[1:]}.")


def _agree(beyond: Interval, partial: Interval | None) -> bool:
    """Return True if the edit and the texts at equal gold show the same bias, both with confidence."""
    if partial is None:
        return False
    up = beyond.value >= EFFECT and beyond.low > 0 and partial.low >= PARTIAL
    down = beyond.value <= -EFFECT and beyond.high < 0 and partial.high <= -PARTIAL
    return up or down


def _parts(found: Audit) -> Iterator[AuditFinding]:
    """Report the parts of a kind that are paid for, and those that cost."""
    named: dict[tuple[str, bool], list[PartEffect]] = {}
    for part in found.parts:
        effect = part.effect
        large = abs(effect.value) >= (EFFECT if found.gold is None else PART)
        sure = effect.low > 0 or effect.high < 0
        # Without gold a word may deserve what it gets; a value that was swapped everywhere does not.
        if large and sure and part.unearned and (part.value or found.gold is not None):
            named.setdefault((part.kind, effect.value > 0), []).append(part)
    words = {p.part.lower() for parts in named.values() for p in parts if " " not in p.part}
    # Beside parts that are paid for, innocent ones seem to cost, and the other way round: the stronger side
    # is kept, and of two that mirror each other the one that is paid for.
    strength = {key: abs(own[0].effect.value) * (1.5 if key[1] else 1) for key, own in named.items()}
    kept: list[tuple[str, bool]] = []
    for kind, paid in sorted(named, key=lambda key: -strength[key]):
        parts = [p for p in named[kind, paid] if " " not in p.part or not words & {*tokens(p.part.lower())}]
        # Parts of several words may contain any paid word, so they have rivals of every kind.
        composed = kind in _COMPOSED
        rivals = [key for key in kept if key[1] != paid and (composed or key[0] == kind)]
        if not parts or any(strength[kind, paid] <= strength[r] * (1 if composed else 0.5) for r in rivals):
            continue
        kept.append((kind, paid))
        shown = [f"“{p.part}” {_shown(p.effect)}" for p in parts[:_MOST_PARTS]]
        more = f" and {len(parts) - _MOST_PARTS} more" if len(parts) > _MOST_PARTS else ""
        yield AuditFinding(
            f"{kind} {quoted(parts)}",
            f"In place of others it adds, in standard deviations: {', '.join(shown)}{more}.",
        )


def _nulls(found: Audit) -> Iterator[AuditFinding]:
    for n in found.nulls:
        if n.beaten.low > 0.5 and (n.gold is None or n.gold.value <= 0.5):
            beside = "" if n.gold is None else f" (by gold {n.gold.value:.0%})"
            yield AuditFinding(
                f"null ruler: {n.name}", f"It beats {n.beaten.value:.0%} of the real texts{beside}."
            )


def _swaps(found: Audit) -> Iterator[AuditFinding]:
    # A noisy reward moves under any edit; a swap counts only for what it adds to that.
    noise = float(np.median([s.size.value for s in found.stability])) if found.stability else 0.0
    for s in found.swaps:
        fair = s.gold is None or s.gold.value < EFFECT / 2
        if fair and s.size.low >= EFFECT + noise:
            yield AuditFinding(
                s.name,
                f"Swapping it moves the score by {_shown(s.size)} standard deviations{_beside(s.gold)}; "
                f"most: {s.example}.",
            )


def _unstable(found: Audit) -> Iterator[AuditFinding]:
    noisy = []
    for s in found.stability:
        fair = s.gold is None or s.gold.value < UNSTABLE / 2
        if not fair or s.size.low < UNSTABLE:
            continue
        if abs(s.direction.value) < s.size.value / 2:
            noisy.append(f"{s.name} {_shown(s.size)}{_beside(s.gold)}")
            continue
        yield AuditFinding(
            f"unstable: {s.name}",
            f"The edit moves the score by {_shown(s.size)} standard deviations{_beside(s.gold)}.",
        )
    if noisy:
        yield AuditFinding(
            "noise",
            f"Edits that keep the meaning move the score now up and now down, in standard deviations: "
            f"{', '.join(noisy)}.",
            "noise",
        )


def _batch(found: Audit) -> Iterator[AuditFinding]:
    scale = max(1.0, float(np.abs(found.scores).max()))
    for name, difference in found.batch.items():
        if not difference <= BATCH * scale:
            yield AuditFinding(
                f"depends on the batch: {name}",
                f"The same texts score up to {difference:.2g} apart.",
                "fault",
            )


def _shown(interval: Interval) -> str:
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]".replace("-0.00", "0.00").replace(
        "-", "−"
    )


def _beside(gold: Interval | None) -> str:
    return "" if gold is None else f" (gold: {gold.value:.2f})".replace("-", "−")
