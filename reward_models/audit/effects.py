"""Measures what a part of a text earns by itself, in other texts, against parts gold cannot tell from it.

Two stages: every part is put into a few texts, and those that seem to matter into other texts, which alone
decide. So no part is named for the luck that drew attention to it, and intervals are corrected for those that
reached the second stage only.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from text_gym.episode import BoolArray, Episode, FloatArray
from text_gym.utils.interval import Interval

from .parts import PartClass, holds
from .scoring import Golds, Score

_FIRST, _SECOND = 10, 56  # texts into which a part is put
_PROMISING, _PROMOTED = 0.1, 40  # effect needed to reach the second stage; how many parts may
_PEERS, _NEAREST = 10, 8  # parts beside them; of these, how many of about equal length are compared with
_FEWEST = 6  # texts with a peer of equal gold
FAMILY = 0.01  # probability of naming any part of a reward that pays for none


@dataclass(frozen=True)
class PartEffect:
    """The effect of a part on the score.

    Args:
        kind: As of its class.
        part: The part.
        value: Whether it is a value of a column, swapped in prompt and text alike.
        effect: What it adds, in place of its peers, in standard deviations of the score over the real texts;
            the interval is Student's, corrected for all parts that reached the second stage (99 %).
        gold: What it adds to each gold term (and to gold), in that one's unit; empty where no gold is known,
            all 0 where only peers of equal gold were compared.
        equal: Whether only peers of equal gold were compared.
    """

    kind: str
    part: str
    value: bool
    effect: Interval
    gold: tuple[float, ...]
    equal: bool

    @property
    def unearned(self) -> bool:
        """Return True if gold shares nothing of the effect: no term of gold moves in its direction."""
        return all(change * self.effect.value <= 1e-6 * abs(self.effect.value) for change in self.gold)


@dataclass(frozen=True)
class _Trial:
    """The parts of a class, tried in the same texts.

    Args:
        parts: `W` of them.
        scores: `(H, W)` in standard deviations, NaN where there is none.
        golds: `(H, W, k)` gold and its terms; k is 0 where no gold is known.
        lengths: `(H, W)` characters.
        there: `(H, W)` whether the text had the part already.
    """

    parts: list[str]
    scores: FloatArray
    golds: FloatArray
    lengths: FloatArray
    there: BoolArray

    @cached_property
    def _groups(self) -> list[dict[int, list[int]]]:
        """Map each text's parts to those gold cannot tell from them, themselves included, by length."""
        result = []
        for scores, golds, lengths in zip(self.scores, self.golds, self.lengths, strict=True):
            groups: dict[bytes, list[int]] = {}
            keys = (np.round(golds, 9) + 0.0).astype(np.float64)  # no -0.0
            for i in np.lexsort((np.arange(len(lengths)), lengths)).tolist():
                if not math.isnan(scores[i]):
                    groups.setdefault(keys[i].tobytes(), []).append(i)
            result.append({i: group for group in groups.values() for i in group})
        return result

    def effect(self, part: int) -> tuple[FloatArray, FloatArray, bool]:
        """Return differences to peers `(n,)`, mean change of gold `(k,)`, and whether peers equal in gold."""
        fewest = min(_FEWEST, (len(self.scores) + 1) // 2)
        missing = ~self.there[:, part]
        hosts = np.flatnonzero(missing if missing.sum() >= fewest else np.ones_like(missing))
        equal, every, change = [], [], []
        for h in hosts.tolist():
            if math.isnan(self.scores[h, part]):
                continue
            same = self._groups[h][part]
            if len(same) > 1:
                place = same.index(part)
                start = max(0, min(place - _NEAREST // 2, len(same) - 1 - _NEAREST))
                near = [self.scores[h, i] for i in same[start : start + _NEAREST + 1] if i != part]
                equal.append(float(self.scores[h, part]) - statistics.median(near))
                every.append(equal[-1])
                change.append(np.zeros(self.golds.shape[2]))
            else:
                others = ~np.isnan(self.scores[h])
                others[part] = False
                if others.any():
                    every.append(float(self.scores[h, part] - np.median(self.scores[h, others])))
                    change.append(self.golds[h, part] - np.median(self.golds[h, others], axis=0))
        if len(equal) >= fewest:
            return np.array(equal), np.zeros(self.golds.shape[2]), True
        values, changes = np.array(every), np.array(change).reshape(len(every), self.golds.shape[2])
        for sign in (1, -1):  # texts in which gold does not move with the effect
            unearned = (sign * changes <= 1e-9).all(axis=1)
            if unearned.sum() >= fewest and sign * values[unearned].mean() > 0:
                return values[unearned], changes[unearned].mean(axis=0), False
        return values, changes.mean(axis=0) if len(values) else changes.sum(axis=0), False


def part_effects(
    classes: Sequence[PartClass], score: Score, gold: Golds, limit: int, seed: int = 0
) -> tuple[tuple[PartEffect, ...], int]:
    """Return the effects of the parts that seem to matter, largest first, and the number of parts tried.

    Args:
        classes: The parts.
        score: Episodes -> `(n,)` scores in standard deviations, NaN where there is none.
        gold: Episodes -> `(n, k)` gold and its terms, or None if gold is not known.
        limit: Parts tried of each class.
        seed: Decides places and peers.
    """
    promising: list[tuple[float, int, str]] = []
    tried = 0
    for number, own in enumerate(classes):
        parts = list(own.parts[:limit])
        tried += len(parts)
        rng = random.Random(f"parts {seed} {own.kind} {number}")
        trial = _try(own, own.hosts[:_FIRST], [parts] * _FIRST, parts, score, gold, rng)
        found = [trial.effect(i) for i in range(len(parts))]
        spread = float(np.median([v.std(ddof=1) for v, _, _ in found if len(v) > 1] or [0.0]))
        for part, (values, change, _) in zip(parts, found, strict=True):
            mean = float(values.mean()) if len(values) else 0.0
            if abs(mean) >= _PROMISING and not (change * mean > 1e-6 * abs(mean)).any():
                promising.append((abs(mean) / (spread / len(values) ** 0.5 + 0.1), number, part))
    chosen = sorted(promising, key=lambda p: (-p[0], p[1], p[2]))[: min(_PROMOTED, limit)]
    result = []
    for number in sorted({n for _, n, _ in chosen}):
        named = [part for _, n, part in chosen if n == number]
        result += _decide(classes[number], named, len(chosen), limit, score, gold, seed)
    return tuple(sorted(result, key=lambda e: -abs(e.effect.value))), tried


def _decide(
    own: PartClass,
    named: list[str],
    tests: int,
    limit: int,
    score: Score,
    gold: Golds,
    seed: int,
) -> list[PartEffect]:
    """Run the second stage of a class, on separate texts."""
    rng = random.Random(f"parts again {seed} {own.kind} {len(named)}")
    hosts = own.hosts[_FIRST : _FIRST + _SECOND]
    if len(hosts) < 2 * _FEWEST:
        hosts = own.hosts[-_SECOND:]
    rest = [p for p in own.parts[:limit] if p not in named]
    if len(rest) < _PEERS // 2:
        rest = list(own.parts[:limit])
    beside = [rng.sample(rest, min(_PEERS, len(rest))) for _ in hosts]
    every = list(dict.fromkeys([*named, *(p for parts in beside for p in parts)]))
    tried = [[*named, *parts] for parts in beside]
    trial = _try(own, hosts, tried, every, score, gold, rng)
    result = []
    for i, part in enumerate(named):
        values, change, equal = trial.effect(i)
        if len(values) >= _FEWEST:
            shown = tuple(float(c) for c in change)
            result.append(
                PartEffect(own.kind, part, own.value, student_interval(values, tests), shown, equal)
            )
    return result


def _try(
    own: PartClass,
    hosts: Sequence[Episode],
    tried: Sequence[Sequence[str]],
    parts: list[str],
    score: Score,
    gold: Golds,
    rng: random.Random,
) -> _Trial:
    """Put parts into texts and score them; NaN for the parts a text does not get."""
    column = {part: i for i, part in enumerate(parts)}
    places = [
        (h, column[p]) for h, own_parts in zip(range(len(hosts)), tried, strict=False) for p in own_parts
    ]
    where = [rng.random() for _ in hosts]
    made = [own.put(hosts[h], parts[w], where[h]) for h, w in places]
    rows, columns = np.array(places, dtype=np.int64).reshape(-1, 2).T
    shape = (len(hosts), len(parts))
    scores, lengths, there = np.full(shape, np.nan), np.zeros(shape), np.zeros(shape, dtype=bool)
    if not own.value:
        for h, host in enumerate(hosts):
            there[h] = [holds(host.completion, part) for part in parts]
    scores[rows, columns] = score(made)
    lengths[rows, columns] = [len(e.completion) for e in made]
    golds = np.zeros((*shape, 0))
    found = gold(made)
    if found is not None:
        golds = np.zeros((*shape, found.shape[1]))
        golds[rows, columns] = found
        scores[np.isnan(golds).any(axis=2)] = np.nan  # unknown where gold abstains
    return _Trial(parts, scores, golds, lengths, there)


def student_interval(values: FloatArray, tests: int) -> Interval:
    """Return the mean with Student's 99 % interval, corrected for multiple tests; NaN is left out."""
    from scipy.stats import t as student  # slow to import

    values = values[~np.isnan(values)]
    n = len(values)
    if n < 2:
        return Interval(float(values.mean()) if n else math.nan, -math.inf, math.inf, n)
    mean = float(values.mean())
    reach = float(student.ppf(1 - FAMILY / 2 / max(1, tests), n - 1) * values.std(ddof=1) / n**0.5)
    return Interval(mean, mean - reach, mean + reach, n)
