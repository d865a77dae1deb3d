"""Chooses what to ask people: which texts or pairs of a pool to label, and how many get two raters.

Choosing needs no answers, only what a reward model (an ensemble, for most ways) thinks of the pool so far;
without one it falls back on chance. It does not ask: that is `HumanRater`'s business.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from text_gym.episode import Episode, FloatArray
from text_gym.errors import ConfigError, DataError, UnknownNameError
from text_gym.reward_models.learned.ensembles import Ensemble
from text_gym.reward_models.preferences.measures import probability
from text_gym.rewards.source import RewardSource

ACQUISITIONS = ("random", "disagreement", "uncertainty", "diversity", "top-against-random")
_BUCKETS = 512  # into which word n-grams are hashed, to measure distances between texts
Text = tuple[str, str]  # prompt and completion


@dataclass(frozen=True)
class Pool:
    """The texts people could be asked about.

    Args:
        episodes: The texts; equal ones count once.
        scores: `(members, n)` float64, what each member of a reward model gives each text; None where there
            is no model yet.
        asked: Prompts and completions that were asked about earlier: not asked again, and for `diversity`
            what new texts are to be far from.

    Raises:
        DataError: Scores that are not one finite number for each member and text.
    """

    episodes: Sequence[Episode]
    scores: FloatArray | None = None
    asked: frozenset[Text] = frozenset()

    def __post_init__(self) -> None:
        if self.scores is not None and (
            self.scores.ndim != 2
            or self.scores.shape[1] != len(self.episodes)
            or not np.isfinite(self.scores).all()
        ):
            raise DataError(
                f"scores of shape {self.scores.shape} for {len(self.episodes)} texts; "
                "give a row of finite numbers for each member"
            )

    @property
    def texts(self) -> list[Text]:
        """The prompt and completion of each text."""
        return [(e.prompt.text, e.completion) for e in self.episodes]

    def fresh(self) -> list[int]:
        """Return the indices of texts not yet asked about, keeping the first of equal ones."""
        seen, found = set(self.asked), []
        for i, text in enumerate(self.texts):
            if text not in seen:
                seen.add(text)
                found.append(i)
        return found


def member_scores(source: RewardSource, episodes: Sequence[Episode]) -> FloatArray:
    """Score each text by each ensemble member: `(members, n)` float64, with one row for other sources.

    A member that abstains gives 0.
    """
    members = source.members if isinstance(source, Ensemble) else [source]
    return np.stack([m(episodes).totals for m in members])


def split_budget(labels: int, overlap: float) -> tuple[int, int]:
    """Return how many questions a label budget pays for, and how many of those get two raters.

    Args:
        labels: Answers that people are to give, at least 1.
        overlap: Share of the questions that get two raters, so that agreement can be measured, in [0, 1].

    >>> split_budget(200, 0.25)
    (160, 40)
    """
    if labels < 1 or not 0 <= overlap <= 1:
        raise ConfigError(f"labels {labels} and overlap {overlap}: need at least 1, and a share in [0, 1]")
    questions = max(math.ceil(labels / 2), math.floor(labels / (1 + overlap) + 1e-9))
    return questions, labels - questions


def choose_texts(pool: Pool, count: int, how: str = "random", seed: int = 0) -> list[int]:
    """Choose the texts to have rated, the most useful first.

    - `random`: any.
    - `disagreement`: those on which the members' scores vary most.
    - `uncertainty`: those whose mean score is nearest to the pool's median: neither clearly good nor bad.
    - `diversity`: each as far as can be from those before it and from those asked earlier (farthest first, as
      in Sener and Savarese 2018; distances between counts of words and pairs of words).
    - `top-against-random`: by turns the best by mean score and any: where optimisation goes, and the rest.

    Args:
        pool: What there is.
        count: How many; fewer come back where the pool has fewer.
        how: A name in `ACQUISITIONS`.
        seed: Decides chance.

    Returns:
        Numbers in `pool.episodes`, different.

    Raises:
        UnknownNameError: There is no such way.
    """
    _check_name(how)
    rng = np.random.default_rng(seed)
    fresh = np.array(pool.fresh(), dtype=np.int64)
    shuffled: list[int] = rng.permutation(fresh).tolist()
    if how == "diversity":
        return _farthest_first(pool, shuffled, count)
    if how == "random" or pool.scores is None:
        return shuffled[:count]
    mean, std = pool.scores.mean(axis=0), pool.scores.std(axis=0)
    if how == "disagreement":
        return _by(lambda i: -float(std[i]), shuffled, count)
    if how == "uncertainty":
        middle = float(np.median(mean[fresh])) if len(fresh) else 0.0
        return _by(lambda i: abs(float(mean[i]) - middle), shuffled, count)
    best = _by(lambda i: -float(mean[i]), shuffled, len(shuffled))
    return _alternating(best, shuffled, count)


def choose_pairs(pool: Pool, count: int, how: str = "random", seed: int = 0) -> list[tuple[int, int]]:
    """Choose pairs of completions to have compared, the most useful first; sides are drawn at random.

    No text is in two pairs, unless there are too few texts for `count`. Ways differ from those of
    `choose_texts` in this:

    - `disagreement`: the members' probabilities that the left text wins vary most.
    - `uncertainty`: their mean is nearest to one half.
    - `top-against-random`: the best text of a prompt by mean score against any other of it.

    Args:
        pool: What there is; a prompt with fewer than two different texts gives no pair.
        count: How many; fewer come back where the pool has fewer.
        how: A name in `ACQUISITIONS`.
        seed: Decides chance.

    Returns:
        Numbers in `pool.episodes`, left and right.

    Raises:
        UnknownNameError: There is no such way.
    """
    _check_name(how)
    rng = np.random.default_rng(seed)
    pairs = _pairs(pool, rng, top=how == "top-against-random")
    if how in ("disagreement", "uncertainty") and pool.scores is not None and pairs:
        left, right = np.array(pairs).T
        wins = probability(pool.scores[:, left] - pool.scores[:, right])
        wanted = -wins.std(axis=0) if how == "disagreement" else np.abs(wins.mean(axis=0) - 0.5)
        pairs = [pairs[i] for i in np.argsort(wanted, kind="stable")]
    elif how == "diversity":
        first: dict[int, list[tuple[int, int]]] = {}
        for pair in pairs:
            first.setdefault(pair[0], []).append(pair)
        order = _farthest_first(pool, list(first), len(first))
        pairs = [pair for i in order for pair in first[i]]
    return _disjoint_first(pairs, count)


def _pairs(pool: Pool, rng: np.random.Generator, top: bool) -> list[tuple[int, int]]:
    """Pair each prompt's texts, all or the best with the rest, in random order and on random sides."""
    groups: dict[str, list[int]] = {}
    for i in pool.fresh():
        groups.setdefault(pool.episodes[i].prompt.text, []).append(i)
    found = []
    for group in groups.values():
        if top and pool.scores is not None:
            mean = pool.scores[:, group].mean(axis=0)
            best = group[int(np.argmax(mean))]
            found += [(best, i) for i in group if i != best]
        else:
            found += [(a, b) for n, a in enumerate(group) for b in group[n + 1 :]]
    order, sides = rng.permutation(len(found)), rng.integers(2, size=len(found))
    return [found[i] if side else found[i][::-1] for i, side in zip(order, sides, strict=True)]


def _disjoint_first(pairs: Iterable[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """Put pairs of unused texts first, keeping their order, then the others."""
    used: set[int] = set()
    alone: list[tuple[int, int]] = []
    others: list[tuple[int, int]] = []
    for pair in pairs:
        if used.isdisjoint(pair):
            alone.append(pair)
            used.update(pair)
        else:
            others.append(pair)
    return [*alone, *others][:count]


def _by(key: Callable[[int], float], shuffled: Sequence[int], count: int) -> list[int]:
    """Return the texts with the smallest keys, breaking ties at random."""
    return sorted(shuffled, key=key)[:count]


def _alternating(first: Sequence[int], second: Sequence[int], count: int) -> list[int]:
    """Take from both lists in turn, without repeats."""
    turns = (i for both in zip(first, second, strict=True) for i in both)
    return list(dict.fromkeys(turns))[:count]


def _farthest_first(pool: Pool, candidates: Sequence[int], count: int) -> list[int]:
    """Order candidates by farthest-first traversal: each is the farthest from everything asked or taken."""
    if not candidates:
        return []
    points = _points([pool.texts[i][1] for i in candidates])
    old = _points([completion for _, completion in sorted(pool.asked)])
    nearest = np.full(len(candidates), np.inf)
    for point in old:
        nearest = np.minimum(nearest, 1 - points @ point)
    taken: list[int] = []
    while len(taken) < min(count, len(candidates)):
        new = int(np.argmax(nearest))
        taken.append(new)
        nearest = np.minimum(nearest, 1 - points @ points[new])
        nearest[taken] = -np.inf
    return [candidates[i] for i in taken]


def _points(texts: Sequence[str]) -> FloatArray:
    """Hash the words and word pairs of each text into a unit vector: `(n, buckets)` float64."""
    points = np.zeros((len(texts), _BUCKETS))
    for row, text in zip(points, texts, strict=True):
        words = text.lower().split()
        for gram in (*words, *map(" ".join, itertools.pairwise(words))):
            row[_bucket(gram)] += 1
    sizes: FloatArray = np.linalg.norm(points, axis=1, keepdims=True)
    return points / np.maximum(sizes, 1e-12)


def _bucket(gram: str) -> int:
    """Hash a word to a bucket; Python's own hash differs from process to process."""
    value = 2166136261  # FNV-1a
    for byte in gram.encode("utf-8", "surrogatepass"):
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    return value % _BUCKETS


def _check_name(how: str) -> None:
    if how not in ACQUISITIONS:
        raise UnknownNameError("way to choose", how, ACQUISITIONS)
