"""Measures of texts and of choosing among them: diversity, self-BLEU, pair accuracy, exact best-of-n.

Numbers and strings in, numbers out; nothing here writes, trains or reads files.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np

from text_gym.episode import FloatArray

ORDER = 4  # longest n-grams of BLEU
PHRASE = 4  # words


def distinct(texts: Sequence[str], n: int) -> float | None:
    """Return the share of distinct word n-grams (distinct-n, Li et al. 2016); None if there are no n-grams.

    >>> distinct(["a b a b", "a b"], 2)
    0.5
    """
    grams = [gram for text in texts for gram in _ngrams(text.split(), n)]
    return len(set(grams)) / len(grams) if grams else None


def says_twice(text: str) -> bool:
    """Return True if a phrase of four words occurs twice in the text.

    >>> says_twice("So you ride further, and so you ride further."), says_twice("So you ride, so you run.")
    (True, False)
    """
    phrases = _ngrams(re.findall(r"\w+(?:['’]\w+)*", text.lower()), PHRASE)
    return len(set(phrases)) < len(phrases)


def said_twice(text: str) -> str:
    """Return the longest phrase of at least four words that occurs twice in a text, in lower case, or "".

    Of a text that goes round in a circle it is one whole turn.

    >>> said_twice("So you ride further, and so you ride further."), said_twice("So you ride.")
    ('so you ride further', '')
    """
    words = re.findall(r"\w+(?:['’]\w+)*", text.lower())
    best: tuple[str, ...] = ()
    for n in range(PHRASE, len(words)):
        seen: dict[tuple[str, ...], int] = {}
        found: tuple[str, ...] = ()
        for i, gram in enumerate(_ngrams(words, n)):
            if i - seen.setdefault(gram, i) >= (
                n if n > PHRASE else 1
            ):  # a phrase is quoted without its own repetition
                found = gram
                break
        if not found:
            break
        best = found
    turns = (t for t in range(PHRASE, len(best)) if best == best[:t] * (len(best) // t))
    return " ".join(best[: next(turns, len(best))])


def self_bleu(texts: Sequence[str]) -> float | None:
    """Return the mean BLEU-4 of each text against all others, in [0, 1] (self-BLEU, Zhu et al. 2018).

    1 means that all texts are the same. Words are parted at white space. An order whose n-grams never match
    makes a text's BLEU 0, as in Papineni et al. 2002; orders longer than the text are left out.

    >>> self_bleu(["a b c d e"] * 3)
    1.0
    """
    words = [text.split() for text in texts if text.split()]
    if len(words) < 2:
        return None
    lengths = [len(own) for own in words]
    most = [_two_largest(words, n) for n in range(1, ORDER + 1)]
    return float(np.mean([_bleu(own, lengths, most) for own in words]))


def gold_pair_accuracy(gold: FloatArray, proxy: FloatArray) -> float | None:
    """Return the share of pairs, within prompts, that two rewards put in the same order.

    Pairs with equal gold, or without an opinion, are left out; equal proxies count half.

    Args:
        gold: `(N, k)`, of `k` texts of each of `N` prompts.
        proxy: The same.

    >>> gold_pair_accuracy(np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 3.0, 2.0]])) == 2 / 3
    True
    """
    i, j = np.triu_indices(gold.shape[1], k=1)
    apart = np.sign(gold[:, i] - gold[:, j])
    said = np.sign(proxy[:, i] - proxy[:, j])
    known = (apart != 0) & ~np.isnan(apart) & ~np.isnan(said)
    if not known.any():
        return None
    return float(((apart * said)[known] + 1).mean() / 2)


def rank_among(score: FloatArray, others: FloatArray) -> float | None:
    """Return the mean share of a prompt's texts that a text of the same prompt beats; ties count half.

    Args:
        score: `(N,)`; prompts without an opinion are left out.
        others: `(N, k)`.

    >>> rank_among(np.array([2.0, 0.0]), np.array([[1.0, 2.0], [1.0, 2.0]]))
    0.375
    """
    beaten = (np.sign(score[:, None] - others) + 1) / 2
    beaten = beaten[~np.isnan(beaten).any(axis=1)]
    return float(beaten.mean()) if len(beaten) else None


def best_of_n_mean(proxy: FloatArray, value: FloatArray, n: int) -> float | None:
    """Return the expected value of the proxy's best of `n` texts drawn without replacement from `k`.

    Unbiased for best-of-n of the policy that wrote the candidates: the mean over all `n`-subsets, not one
    draw. Among candidates of equal proxy chance decides.

    Args:
        proxy: `(N, k)`; NaN ranks last.
        value: `(N, k)`, what is averaged, of the same candidates; NaN (no opinion) is left out.
        n: At most `k`.

    >>> best_of_n_mean(np.array([[1.0, 2.0, 3.0]]), np.array([[0.0, 1.0, 0.0]]), 2) == 1 / 3
    True
    """
    proxy = np.where(np.isnan(proxy), -np.inf, proxy)
    weights = _weights(proxy.shape[1], n)
    means = []
    for scores, values in zip(proxy, value, strict=True):
        order = np.argsort(scores, kind="stable")
        _, group = np.unique(scores[order], return_inverse=True)  # candidates of equal proxy share equally
        share = (np.bincount(group, weights) / np.bincount(group))[group]
        known = ~np.isnan(values[order])
        if share[known].sum() > 0:
            means.append(float(share[known] @ values[order][known] / share[known].sum()))
    return float(np.mean(means)) if means else None


@cache
def _weights(k: int, n: int) -> FloatArray:
    """Return the probabilities `(k,)` that the `r`-th smallest of `k` is the largest of an `n`-subset."""
    return np.array([math.comb(r, n - 1) / math.comb(k, n) for r in range(k)])


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _two_largest(texts: Sequence[Sequence[str]], n: int) -> dict[tuple[str, ...], tuple[int, int]]:
    """Return each n-gram's largest and second largest count in any text, the most the others can have."""
    most: dict[tuple[str, ...], tuple[int, int]] = {}
    for words in texts:
        for gram, count in Counter(_ngrams(words, n)).items():
            first, second = most.get(gram, (0, 0))
            most[gram] = (count, first) if count > first else (first, max(second, count))
    return most


def _bleu(
    words: Sequence[str], lengths: Sequence[int], most: Sequence[dict[tuple[str, ...], tuple[int, int]]]
) -> float:
    """Compute the BLEU of one text against the others, given lengths and clipping counts of all texts."""
    log_precision, orders = 0.0, 0
    for n, table in enumerate(most, 1):
        own = Counter(_ngrams(words, n))
        if not own:
            break
        # Where this text has the largest count itself, the others' largest is the second largest.
        hits = sum(min(c, table[g][1] if c == table[g][0] else table[g][0]) for g, c in own.items())
        if not hits:
            return 0.0
        log_precision += math.log(hits / sum(own.values()))
        orders += 1
    size = len(words)
    rest = list(lengths)
    rest.remove(size)
    closest = min(rest, key=lambda length: (abs(length - size), length))
    return math.exp(log_precision / orders + min(0.0, 1 - closest / size))
