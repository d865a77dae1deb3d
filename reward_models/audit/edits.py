"""Measures what an edit of a surface property changes, in texts where gold does not notice it.

The edits and texts are chosen by gold alone, never by the score, so that the choice favours no result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from text_gym.episode import BoolArray, Episode, FloatArray

from .probes import rewritten
from .scoring import Golds, Score
from .surfaces import Edit, Surface, Variant

_ENOUGH, _ATTEMPTS = 8, 8  # texts wanted in which gold is blind to an edit; sentences tried to find them


@dataclass(frozen=True)
class SurfaceChange:
    """The change of score caused by the edit of a property.

    Args:
        edit: The edit, in words.
        score: `(n,)` changes of the score, NaN where there is none.
        gold: `(n, k)` of gold and its terms, if gold is known.
        counted: `(n,)` texts to count: those in which gold changes in no term (or rises in none, where they
            are too few).
        equal: Whether gold changes in no term in the texts to count.
        before: `n` texts.
        after: `n` texts.
    """

    edit: str
    score: FloatArray
    gold: FloatArray | None
    counted: BoolArray
    equal: bool
    before: list[Episode]
    after: list[Episode]


def surface_change(
    surface: Surface, episodes: Sequence[Episode], shared: Sequence[str], score: Score, gold: Golds
) -> SurfaceChange:
    """Apply the edit of a property and measure the change.

    Of the surface's edits the most telling one that changes no term of gold is used, in the texts in which it
    does not; if those are a handful for each, the first edit, in all.

    Args:
        surface: The property.
        episodes: Texts to edit.
        shared: Sentences that many texts share.
        score: Episodes -> `(n,)` scores.
        gold: Episodes -> `(n, k)` gold and its terms, or None if gold is not known.
    """
    made = []
    for variant in surface.variants:
        made.append((variant.edit, _Pairs.of(variant, episodes, shared, gold)))
        if made[-1][1].change is None:
            break
    edit, pairs = max(made, key=lambda own: own[1].power(surface))  # of several, the first
    blind = int(pairs.equal.sum()) >= _ENOUGH
    if not blind:
        edit, pairs = made[0]
    rows = np.flatnonzero(pairs.equal if blind else np.ones(len(episodes)))
    before, after = ([side[i] for i in rows] for side in (pairs.before, pairs.after))
    change = score(after) - score(before)
    counted = np.ones(len(rows), dtype=bool)
    if pairs.change is not None and not blind:
        lower = np.asarray((pairs.change <= 1e-9).all(axis=1), dtype=bool)
        counted = lower if lower.sum() >= _ENOUGH else counted
    of_gold = None if pairs.change is None else pairs.change[rows]
    return SurfaceChange(edit, change, of_gold, counted, blind, before, after)


def expected_scores(golds: FloatArray, scores: FloatArray, at: FloatArray, neighbours: int = 8) -> FloatArray:
    """Predict scores from gold, `(m,)`, by a linear model plus the residuals of neighbours.

    Args:
        golds: `(n, k)` terms of gold of texts that were scored.
        scores: `(n,)` their scores.
        at: `(m, k)` terms of gold to expect a score for.
        neighbours: Texts of the nearest gold, each term in its standard deviations.
    """
    middle, spread = golds.mean(axis=0), np.maximum(golds.std(axis=0), 1e-9)
    x, new = (golds - middle) / spread, (at - middle) / spread
    slopes = np.linalg.lstsq(x, scores - scores.mean(), rcond=1e-9)[0]
    left = scores - x @ slopes
    far = ((new[:, None] - x[None]) ** 2).sum(axis=2)
    nearest = np.argsort(far, axis=1, kind="stable")[:, :neighbours]
    result: FloatArray = new @ slopes + left[nearest].mean(axis=1)
    return result


@dataclass(frozen=True)
class _Pairs:
    """Texts before and after an edit, with the change of gold and its terms, `(n, k)`."""

    before: list[Episode]
    after: list[Episode]
    change: FloatArray | None

    @property
    def equal(self) -> BoolArray:
        """Mark where the edit changes the text but no term of gold, `(n,)`."""
        if self.change is None:
            return np.zeros(len(self.before), dtype=bool)
        edited = [a.completion != b.completion for a, b in zip(self.after, self.before, strict=True)]
        unseen: BoolArray = (np.abs(self.change) <= 1e-9).all(axis=1) & np.array(edited)
        return unseen

    def power(self, surface: Surface) -> float:
        """The amount of the property added unseen by gold, times the root of the number of such texts."""
        rows = np.flatnonzero(self.equal).tolist()
        if len(rows) < _ENOUGH:
            return 0.0
        more, less = (
            np.mean([surface.measure(side[i].completion, side[i].prompt.text) for i in rows])
            for side in (self.after, self.before)
        )
        return float(len(rows) ** 0.5 * abs(more - less))

    @classmethod
    def of(cls, variant: Variant, episodes: Sequence[Episode], shared: Sequence[str], gold: Golds) -> _Pairs:
        """Make the pairs, using for each text the first shared sentence that gold is blind to."""
        found = cls._once(variant, episodes, _fillers(shared, variant, range(len(episodes)), 0), gold)
        if found.change is None or not variant.filled:
            return found
        before, after, change = list(found.before), list(found.after), found.change.copy()
        open_ = np.flatnonzero(~found.equal).tolist()
        for attempt in range(1, _ATTEMPTS):
            if not open_:
                break
            said = _fillers(shared, variant, open_, attempt)
            own = cls._once(variant, [episodes[i] for i in open_], said, gold)
            for place in np.flatnonzero(own.equal).tolist():
                i = open_[place]
                before[i], after[i] = own.before[place], own.after[place]
                change[i] = own.change[place] if own.change is not None else 0
            open_ = [i for place, i in enumerate(open_) if not own.equal[place]]
        return cls(before, after, change)

    @classmethod
    def _once(cls, variant: Variant, episodes: Sequence[Episode], said: Sequence[str], gold: Golds) -> _Pairs:
        def edited(edit: Edit) -> list[Episode]:
            pairs = zip(episodes, said, strict=True)
            return [rewritten(e, edit(e.completion, filler, e.prompt.text)) for e, filler in pairs]

        before, after = edited(variant.control), edited(variant.more)
        gold_before, gold_after = gold(before), gold(after)
        change = None if gold_before is None or gold_after is None else gold_after - gold_before
        return cls(before, after, change)


def _fillers(shared: Sequence[str], variant: Variant, places: Iterable[int], attempt: int) -> list[str]:
    """Choose for each text as many shared sentences as the edit takes, different ones at each attempt."""
    return [
        " ".join(shared[(i + attempt + k) % len(shared)] for k in range(max(1, variant.filled)))
        for i in places
    ]
