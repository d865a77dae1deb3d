"""Audits a reward: what it pays for that is not quality, each bias with the number that shows it.

Correlations on honest texts prove nothing, since good texts may be long; so the verdict rests on edits that
say nothing new and, where a gold reward is known, on what is left once quality is accounted for. An audit
finds the biases it looks for and no others, and says how well the reward follows gold before anything else.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from text_gym.episode import Episode, FloatArray
from text_gym.errors import ConfigError, DataError
from text_gym.reward_models.scripted.rules import split_words
from text_gym.rewards.source import RewardSource, describe_reward
from text_gym.utils.interval import Interval, RankCorrelations, mean_interval, rank_correlation

from .attribution import (
    Attribution,
    integrated_gradients,
    is_differentiable,
    leave_one_word_out,
    named_values,
)
from .best_of_n import best_of_n_probe
from .edits import expected_scores, surface_change
from .effects import PartEffect, part_effects, student_interval
from .parts import part_classes, tokens, vocabulary
from .probes import PARAPHRASES, null_texts, rewritten, swaps
from .result import Audit, NullRuler, Shift, SurfaceBias
from .scoring import beaten, by_text, chosen, difference, scores, scores_and_terms, unit
from .surfaces import SURFACES, fillers
from .verdict import find_biases
from .words import associations, word_features, word_weights

_FEWEST = 8
_PHRASES = 24  # word pairs put into texts


@dataclass(frozen=True)
class AuditConfig:
    """How much the audit looks at.

    Args:
        count: Real texts scored, of as many prompts as there are.
        edited: Of these, how many are edited (and scored about twenty times).
        explained: Of these, how many are explained word by word.
        words: Words, values of a column, openings, endings, phrases and marks that are put into texts, of
            each kind at most; that is some thousand texts to score. None: 256, or 0 for a source that is not
            deterministic, such as a judge.
        seed: Decides which texts, the random ones and the resamples.
    """

    count: int = 256
    edited: int = 96
    explained: int = 6
    words: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < _FEWEST or self.edited < _FEWEST or min(self.explained, self.words or 0) < 0:
            raise ConfigError(
                f"{self}: count and edited must be at least {_FEWEST}, explained and words at least 0"
            )


def audit_reward(
    source: RewardSource,
    episodes: Sequence[Episode],
    gold: RewardSource | None = None,
    config: AuditConfig | None = None,
    *,
    explain: bool = True,
) -> Audit:
    """Audit a reward source on real texts.

    Every text is scored as a finished episode, whether it was cut or not. The order of the texts does not
    matter.

    Args:
        source: The source.
        episodes: Real texts, good and bad ones; a few hundred of different prompts are enough.
        gold: What the source should measure, where that is known; it must judge every text.
        config: How much the audit looks at.
        explain: Use integrated gradients where the source is a learned model and captum is installed.

    Raises:
        DataError: There are too few texts, or the source has an opinion on too few of them.
    """
    config = config or AuditConfig()
    return _Auditor(source, gold, config, chosen(episodes, config.count, config.seed)).run(explain)


class _Auditor:
    """The state of an audit: texts with a score, and the unit of effects."""

    def __init__(
        self, source: RewardSource, gold: RewardSource | None, config: AuditConfig, episodes: list[Episode]
    ) -> None:
        self.source, self.gold, self.config = source, gold, config
        named = named_values(source(episodes))
        kept = [i for i, score in enumerate(named["reward"]) if not math.isnan(score)]
        if len(kept) < _FEWEST:
            raise DataError(
                f"an audit of {source.name!r} needs at least {_FEWEST} texts it has an opinion on; "
                f"there are {len(kept)} of {len(episodes)}"
            )
        self.missing = len(episodes) - len(kept)
        self.episodes = [episodes[i] for i in kept]
        self.scores = named["reward"][kept]
        self.terms = {name: values[kept] for name, values in named.items() if name != "reward"}
        self.spread = unit(self.scores)
        self.edited = self.episodes[: config.edited]
        self.golds: FloatArray | None = None
        self.quality: FloatArray | None = None
        if gold is not None:
            found = named_values(gold(self.episodes))
            self.golds = found["reward"]
            self.quality = np.stack([v for v in found.values() if not np.isnan(v).any()], axis=1)
            self.gold_names = [n for n, v in found.items() if n != "reward" and not np.isnan(v).any()]
            self.gold_spread = unit(self.golds)

    def run(self, explain: bool) -> Audit:
        """Run the whole audit."""
        order = np.argsort(self.scores, kind="stable")
        places = np.linspace(0, len(order) - 1, min(self.config.explained, len(order))).round().astype(int)
        shown = [self.episodes[order[i]] for i in places]
        gradients: list[Attribution] = []
        if explain and shown and is_differentiable(self.source):
            gradients = integrated_gradients(self.source, shown)  # type: ignore[arg-type]
        known = {k: v for k, v in self.terms.items() if not np.isnan(v).any()}
        parts, tried = self.parts()
        found = Audit(
            source=self.source.name,
            tree=describe_reward(self.source),
            gold=None if self.gold is None else self.gold.name,
            texts=self._texts,
            scores=self.scores,
            golds=self.golds,
            spread=float(self.scores.std()),
            agreement=None if self.golds is None else self._correlation(self.scores, self.golds),
            missing=self.missing,
            nulls=self.nulls(),
            surfaces=self.surfaces(),
            swaps=self.swaps(),
            stability=self.stability(),
            batch=self.batch(),
            terms={name: self._correlation(values, self.scores) for name, values in known.items()},
            explanations=tuple(leave_one_word_out(self.source, shown)) if shown else (),
            gradients=tuple(gradients),
            findings=(),
            parts=parts,
            tried=tried,
            weights=word_weights(self._texts, self.scores, self._controls(), seed=self.config.seed),
            best=None
            if self.golds is None
            else best_of_n_probe(self.scores, self.golds, self._texts, seed=self.config.seed),
        )
        return dataclasses.replace(found, findings=find_biases(found))

    def nulls(self) -> tuple[NullRuler, ...]:
        """Compare null texts for the edited episodes' prompts with all real texts."""
        result = []
        for name, made in null_texts(self.edited, self.config.seed).items():
            # A text used for several prompts counts once, since its luck proves no rule.
            share = by_text(made, beaten(self._score(made), self.scores))
            gold = None
            if self.gold is not None and self.golds is not None:
                gold = self._mean(by_text(made, beaten(scores(self.gold, made), self.golds)))
            result.append(NullRuler(name, self._mean(share), gold, made[0].completion))
        return tuple(result)

    def surfaces(self) -> tuple[SurfaceBias, ...]:
        """Measure surface biases: correlations over all texts, and edits of some."""
        result = []
        shared = fillers(self._texts)
        measured = [[s.measure(e.completion, e.prompt.text) for e in self.episodes] for s in SURFACES]
        quality = np.zeros((0, len(self.scores))) if self.quality is None else self.quality.T
        ranked = RankCorrelations(np.concatenate([[self.scores], measured, quality]), self.config.seed)
        controls = range(1 + len(SURFACES), 1 + len(SURFACES) + len(quality))
        for number, surface in enumerate(SURFACES, 1):
            changed = surface_change(surface, self.edited, shared, self._unit_scores, self._gold_terms)
            effect, gold, beyond = changed.score[changed.counted], None, None
            if changed.gold is not None:
                gold = self._mean(changed.gold[changed.counted, 0] / self.gold_spread)
                if not changed.equal:
                    expected = self._expected(changed.after) - self._expected(changed.before)
                    beyond = student_interval(changed.score - expected, len(SURFACES))
            result.append(
                SurfaceBias(
                    surface.name,
                    surface.unit,
                    changed.edit,
                    ranked.of(0, number),
                    None if self.quality is None else ranked.of(0, number, controls),
                    self._mean(effect),
                    gold,
                    student_interval(effect, len(SURFACES)),
                    beyond,
                )
            )
        return tuple(result)

    def parts(self) -> tuple[tuple[PartEffect, ...], int]:
        """Measure what words and other parts add when put into texts; also return how many were tried."""
        limit = self.config.words
        if limit is None:
            limit = 256 if self.source.deterministic else 0
        if limit == 0:
            return (), 0
        names, features = word_features(self._texts)
        found = np.abs(associations(features, self.scores, self._controls())) if names else np.zeros(0)
        suspicion = dict(zip(names, found.tolist(), strict=True))
        known = sorted(vocabulary(self._texts), key=lambda w: -suspicion.get(w.lower(), 0.0))  # stable
        pairs = [n for n in names if len(tokens(n)) == 2 and ":" not in n]
        pairs.sort(key=lambda n: -suspicion[n])
        innocent = pairs[_PHRASES :: max(1, len(pairs) // _PHRASES)]  # peers for the others
        phrases = [*pairs[:_PHRASES], *innocent]
        classes = part_classes(self.edited, self.episodes, known, phrases)
        return part_effects(classes, self._unit_scores, self._gold_terms, limit, self.config.seed)

    def swaps(self) -> tuple[Shift, ...]:
        """Measure swaps that should not change a text's score, if they apply to at least a few texts."""
        found = swaps(self.edited, self.config.seed)
        result = []
        for kind in dict.fromkeys(s.kind for s in found):
            own = [s for s in found if s.kind == kind]
            shift = self._shift(kind, [s.before for s in own], [s.after for s in own])
            if shift is not None:
                result.append(shift)
        return tuple(result)

    def stability(self) -> tuple[Shift, ...]:
        """Measure edits that keep the meaning, on the texts they change."""
        result = []
        for name, edit in PARAPHRASES.items():
            own = [e for e in self.edited if edit(e.completion) != e.completion]
            shift = self._shift(name, own, [rewritten(e, edit(e.completion)) for e in own])
            if shift is not None:
                result.append(shift)
        return tuple(result)

    def batch(self) -> dict[str, float]:
        """Measure the largest score differences when the same texts are batched differently."""
        some = self.edited[:32]
        base = self.scores[: len(some)]

        def apart(found: FloatArray) -> float:
            return float(np.abs(found - base).max())

        result = {"asked again": apart(self._score(some))}
        if self.source.deterministic:
            result["alone"] = apart(np.concatenate([self._score([e]) for e in some]))
            result["in reverse order"] = apart(self._score(some[::-1])[::-1])
            longest = max(self.episodes, key=lambda e: len(e.completion))
            result["beside the longest text"] = apart(
                np.concatenate([self._score([e, longest])[:1] for e in some])
            )
        return result

    @property
    def _texts(self) -> tuple[str, ...]:
        return tuple(e.completion for e in self.episodes)

    def _controls(self) -> FloatArray:
        """Return the control variables `(n, k)`: length, and gold with its terms where known."""
        length = np.array([[float(len(split_words(text)))] for text in self._texts])
        return length if self.quality is None else np.concatenate([length, self.quality], axis=1)

    def _expected(self, episodes: Sequence[Episode]) -> FloatArray:
        """Return the scores expected from gold alone, `(n,)`, in standard deviations."""
        golds = self._gold_terms(episodes)
        assert golds is not None
        assert self.quality is not None
        return expected_scores(self.quality, self.scores / self.spread, golds)

    def _score(self, episodes: Sequence[Episode]) -> FloatArray:
        return scores(self.source, episodes)

    def _unit_scores(self, episodes: Sequence[Episode]) -> FloatArray:
        return self._score(episodes) / self.spread

    def _gold_terms(self, episodes: Sequence[Episode]) -> FloatArray | None:
        """Return gold and its terms, `(n, 1 + k)`, if gold is known."""
        if self.gold is None:
            return None
        return scores_and_terms(self.gold, episodes, self.gold_names)

    def _changes(
        self, after: Sequence[Episode], before: Sequence[Episode]
    ) -> tuple[FloatArray, FloatArray | None]:
        """Return the changes of score and of gold, each in its own unit."""
        change = (self._score(after) - self._score(before)) / self.spread
        if self.gold is None:
            return change, None
        return change, (scores(self.gold, after) - scores(self.gold, before)) / self.gold_spread

    def _shift(self, name: str, before: Sequence[Episode], after: Sequence[Episode]) -> Shift | None:
        if len(before) < _FEWEST:
            return None
        change, gold = self._changes(after, before)
        kept = ~np.isnan(change)
        if kept.sum() < _FEWEST:
            return None
        most = int(np.nanargmax(np.abs(change)))
        earlier = self._score([e for e, keep in zip(before, kept, strict=True) if keep])
        return Shift(
            name,
            self._mean(np.abs(change)),
            None if gold is None else self._mean(np.abs(gold)),
            self._mean(change),
            self._correlation(earlier, earlier + change[kept] * self.spread).value,
            difference(before[most].completion, after[most].completion),
        )

    def _mean(self, values: FloatArray) -> Interval:
        return mean_interval(values, self.config.seed)

    def _correlation(self, x: FloatArray, y: FloatArray, controls: FloatArray | None = None) -> Interval:
        return rank_correlation(x, y, controls, self.config.seed)
