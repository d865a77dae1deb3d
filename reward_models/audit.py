"""The audit of a reward: what it pays for that is not quality, each bias with the number that shows it.

Correlations on honest texts prove nothing, since good texts may be long; so the verdict rests on edits that
say nothing new and, where a gold reward is known, on what is left once quality is accounted for. An audit
finds the biases it looks for and no others, and says how well the reward follows gold before anything else.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from text_gym import Episode, RewardSource
from text_gym.compose import describe
from text_gym.errors import ConfigError, DataError, RewardError
from text_gym.interval import Interval
from text_gym.reward import FloatArray

from .attribution import Attribution, integrated_gradients, is_differentiable, leave_one_out, named_values
from .audit_best_of_n import best_of_n
from .audit_effects import PartEffect, part_effects, student_interval, surface_change
from .audit_parts import part_classes, tokens, vocabulary
from .audit_surfaces import SURFACES, fillers
from .audit_words import associations, word_features, word_weights
from .endpoint import EndpointError
from .probes import PARAPHRASES, null_texts, rewritten, swaps
from .resampling import mean_interval, rank_correlation
from .scripted import words
from .verdict import Audit, NullRuler, Shift, SurfaceBias, verdict

_FEWEST = 8
_PHRASES = 24  # pairs of words put into texts


@dataclass(frozen=True)
class AuditConfig:
    """How much is looked at.

    Args:
        count: Real texts scored, of as many prompts as there are.
        edited: Of these, how many are edited (and scored about twenty times).
        explained: Of these, how many are explained word by word.
        words: Words, values of a column, openings, endings, phrases and marks that are put into texts, of each
            kind at most; each is scored in six texts, the most suspicious ones in some forty. None: 256, or 32
            of a source that is not deterministic, such as a judge. 0: none.
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

    Every text is scored as a finished episode, whether it was cut or not. The order of the texts does not matter.

    Args:
        source: The source.
        episodes: Real texts, good and bad ones; a few hundred of different prompts are enough.
        gold: What the source should measure, where that is known; it must judge every text.
        config: How much is looked at.
        explain: Use integrated gradients where the source is a learned model and captum is installed.

    Raises:
        DataError: There are too few texts, or the source has an opinion on too few of them.
    """
    config = config or AuditConfig()
    return _Auditor(source, gold, config, _chosen(episodes, config)).run(explain)


class _Auditor:
    """One audit under way: texts with a score, and the unit of effects."""

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
        self.spread = _unit(self.scores)
        self.edited = self.episodes[: config.edited]
        self.golds: FloatArray | None = None
        self.quality: FloatArray | None = None
        if gold is not None:
            found = named_values(gold(self.episodes))
            self.golds = found["reward"]
            self.quality = np.stack([v for v in found.values() if not np.isnan(v).any()], axis=1)
            self.gold_names = [n for n, v in found.items() if n != "reward" and not np.isnan(v).any()]
            self.gold_spread = _unit(self.golds)

    def run(self, explain: bool) -> Audit:
        """All of it."""
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
            tree=describe(self.source),
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
            explanations=tuple(leave_one_out(self.source, shown)) if shown else (),
            gradients=tuple(gradients),
            findings=(),
            parts=parts,
            tried=tried,
            weights=word_weights(self._texts, self.scores, self._controls(), seed=self.config.seed),
            best=None
            if self.golds is None
            else best_of_n(self.scores, self.golds, self._texts, seed=self.config.seed),
        )
        return dataclasses.replace(found, findings=verdict(found))

    def nulls(self) -> tuple[NullRuler, ...]:
        """Null texts for the edited episodes' prompts, against all real texts."""
        result = []
        for name, made in null_texts(self.edited, self.config.seed).items():
            # A text that stands for several prompts counts once: its luck is no rule's.
            beaten = _by_text(made, _beaten(self._score(made), self.scores))
            gold = None
            if self.gold is not None and self.golds is not None:
                gold = self._mean(_by_text(made, _beaten(_scores(self.gold, made), self.golds)))
            result.append(NullRuler(name, self._mean(beaten), gold, made[0].completion))
        return tuple(result)

    def surfaces(self) -> tuple[SurfaceBias, ...]:
        """Correlations over all texts, edits of some."""
        result = []
        shared = fillers(self._texts)
        for surface in SURFACES:
            measured = np.array([surface.measure(e.completion, e.prompt.text) for e in self.episodes])
            partial = None
            if self.quality is not None:
                partial = self._correlation(self.scores, measured, self.quality)
            changed = surface_change(surface, self.edited, shared, self._unit_scores, self._gold_terms)
            effect, gold, beyond = changed.score[changed.counted], None, None
            if changed.gold is not None:
                gold = self._mean(changed.gold[changed.counted, 0] / self.gold_spread)
                if not changed.equal:
                    expected = changed.gold @ self._slopes()
                    beyond = student_interval(changed.score - expected, len(SURFACES))
            result.append(
                SurfaceBias(
                    surface.name,
                    surface.unit,
                    changed.edit,
                    self._correlation(measured, self.scores),
                    partial,
                    self._mean(effect),
                    gold,
                    student_interval(effect, len(SURFACES)),
                    beyond,
                )
            )
        return tuple(result)

    def parts(self) -> tuple[tuple[PartEffect, ...], int]:
        """What single words and other parts add, put into texts; and how many were tried."""
        limit = self.config.words
        if limit is None:
            limit = 256 if self.source.deterministic else 32
        if limit == 0:
            return (), 0
        names, features = word_features(self._texts)
        found = np.abs(associations(features, self.scores, self._controls())) if names else np.zeros(0)
        suspicion = dict(zip(names, found.tolist(), strict=True))
        known = sorted(vocabulary(self._texts), key=lambda w: -suspicion.get(w.lower(), 0.0))  # stable
        pairs = sorted((n for n in names if len(tokens(n)) == 2 and ":" not in n), key=lambda n: -suspicion[n])
        phrases = [*pairs[:_PHRASES], *pairs[_PHRASES :: max(1, len(pairs) // _PHRASES)]]  # and innocent peers
        classes = part_classes(self.edited, self.episodes, known, phrases)
        return part_effects(classes, self._unit_scores, self._gold_terms, limit, self.config.seed)

    def swaps(self) -> tuple[Shift, ...]:
        """Swaps that leave the worth of a text alone; those found in at least a few texts."""
        found = swaps(self.edited, self.config.seed)
        result = []
        for kind in dict.fromkeys(s.kind for s in found):
            own = [s for s in found if s.kind == kind]
            shift = self._shift(kind, [s.before for s in own], [s.after for s in own])
            if shift is not None:
                result.append(shift)
        return tuple(result)

    def stability(self) -> tuple[Shift, ...]:
        """Edits that keep the meaning, on the texts that they change."""
        result = []
        for name, edit in PARAPHRASES.items():
            own = [e for e in self.edited if edit(e.completion) != e.completion]
            shift = self._shift(name, own, [rewritten(e, edit(e.completion)) for e in own])
            if shift is not None:
                result.append(shift)
        return tuple(result)

    def batch(self) -> dict[str, float]:
        """Largest differences of score when the same texts are asked about in another way."""
        some = self.edited[:32]
        base = self.scores[: len(some)]

        def difference(scores: FloatArray) -> float:
            return float(np.abs(scores - base).max())

        result = {"asked again": difference(self._score(some))}
        if self.source.deterministic:
            result["alone"] = difference(np.concatenate([self._score([e]) for e in some]))
            result["in reverse order"] = difference(self._score(some[::-1])[::-1])
            longest = max(self.episodes, key=lambda e: len(e.completion))
            result["beside the longest text"] = difference(
                np.concatenate([self._score([e, longest])[:1] for e in some])
            )
        return result

    @property
    def _texts(self) -> tuple[str, ...]:
        return tuple(e.completion for e in self.episodes)

    def _controls(self) -> FloatArray:
        """`(n, k)` length, and gold with its terms where it is known."""
        length = np.array([[float(len(words(text)))] for text in self._texts])
        return length if self.quality is None else np.concatenate([length, self.quality], axis=1)

    def _slopes(self) -> FloatArray:
        """`(1 + k,)` of the score, in standard deviations, along gold and its terms over the real texts."""
        assert self.quality is not None
        centred = self.quality - self.quality.mean(axis=0)
        fitted = np.linalg.lstsq(centred, (self.scores - self.scores.mean()) / self.spread, rcond=1e-9)
        result: FloatArray = fitted[0]
        return result

    def _score(self, episodes: Sequence[Episode]) -> FloatArray:
        return _scores(self.source, episodes)

    def _unit_scores(self, episodes: Sequence[Episode]) -> FloatArray:
        return self._score(episodes) / self.spread

    def _gold_terms(self, episodes: Sequence[Episode]) -> FloatArray | None:
        """`(n, 1 + k)` gold and its terms, if it is known."""
        if self.gold is None:
            return None
        found = named_values(self.gold(episodes))
        return np.stack([found["reward"], *(found[name] for name in self.gold_names)], axis=1)

    def _changes(
        self, after: Sequence[Episode], before: Sequence[Episode]
    ) -> tuple[FloatArray, FloatArray | None]:
        """Changes of score and of gold, each in its own unit."""
        change = (self._score(after) - self._score(before)) / self.spread
        if self.gold is None:
            return change, None
        return change, (_scores(self.gold, after) - _scores(self.gold, before)) / self.gold_spread

    def _shift(self, name: str, before: Sequence[Episode], after: Sequence[Episode]) -> Shift | None:
        if len(before) < _FEWEST:
            return None
        change, gold = self._changes(after, before)
        kept = ~np.isnan(change)
        if kept.sum() < _FEWEST:
            return None
        most = int(np.nanargmax(np.abs(change)))
        scores = self._score([e for e, keep in zip(before, kept, strict=True) if keep])
        return Shift(
            name,
            self._mean(np.abs(change)),
            None if gold is None else self._mean(np.abs(gold)),
            self._mean(change),
            self._correlation(scores, scores + change[kept] * self.spread).value,
            _difference(before[most].completion, after[most].completion),
        )

    def _mean(self, values: FloatArray) -> Interval:
        return mean_interval(values, self.config.seed)

    def _correlation(self, x: FloatArray, y: FloatArray, controls: FloatArray | None = None) -> Interval:
        return rank_correlation(x, y, controls, self.config.seed)


def _chosen(episodes: Sequence[Episode], config: AuditConfig) -> list[Episode]:
    """Texts to look at, in random order, one of each prompt before a second of any."""
    order = sorted(range(len(episodes)), key=lambda i: (episodes[i].prompt.text, episodes[i].completion))
    random.Random(f"audit {config.seed}").shuffle(order)
    seen: dict[str, int] = {}
    turn = {}
    for i in order:
        prompt = episodes[i].prompt.text
        turn[i] = seen[prompt] = seen.get(prompt, -1) + 1
    order.sort(key=lambda i: turn[i])  # stable
    # Scored as finished: an edited text has no ids of its own to be cut at.
    return [rewritten(episodes[i], episodes[i].completion) for i in order[: config.count]]


def _scores(source: RewardSource, episodes: Sequence[Episode]) -> FloatArray:
    """`(n,)` totals of made-up texts, NaN where the source abstains or refuses (as too long, say)."""
    try:
        return named_values(source(episodes))["reward"]
    except EndpointError:  # a judge's budget or key: of no use to go on
        raise
    except RewardError:
        if len(episodes) == 1:
            return np.full(1, np.nan)
        half = len(episodes) // 2
        return np.concatenate([_scores(source, part) for part in (episodes[:half], episodes[half:])])


def _unit(scores: FloatArray) -> float:
    """Their standard deviation, or 1 where all are equal."""
    return float(scores.std()) or 1.0


def _by_text(episodes: Sequence[Episode], values: FloatArray) -> FloatArray:
    """Means of the values over equal texts, one for each text."""
    groups: dict[str, list[float]] = {}
    for episode, value in zip(episodes, values.tolist(), strict=True):
        groups.setdefault(episode.completion, []).append(value)
    return np.array([np.mean(group) for group in groups.values()])


def _beaten(scores: FloatArray, real: FloatArray) -> FloatArray:
    """`(n,)` the share of the real scores that each score beats, ties half; NaN where there is no score."""
    ordered = np.sort(real)
    below, up_to = (np.searchsorted(ordered, scores, side=side) for side in ("left", "right"))
    return np.where(np.isnan(scores), np.nan, (below + up_to) / (2 * len(real)))


def _difference(before: str, after: str) -> str:
    """The first stretch in which two texts differ, as `old → new`."""
    a, b = before.split(), after.split()
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    end, shorter = 0, min(len(a), len(b))
    while end < shorter - start and a[-1 - end] == b[-1 - end]:
        end += 1
    old, new = (" ".join(words[start : len(words) - end]) for words in (a, b))
    return f"{old[:60]} → {new[:60]}"
