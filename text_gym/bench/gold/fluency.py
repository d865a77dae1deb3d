"""Fluency of short texts: how well an n-gram model of human texts predicts them, from 0 to 1.

It is a stand-in for a reader. It knows word order within three words and nothing of meaning: whether a text
is true is the business of slots.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from text_gym.errors import DataError

ORDER = 3
DISCOUNT = 0.75  # the usual constant of absolute discounting (Ney, Essen & Kneser 1994)
HUMAN = 0.25  # quantile of human texts from which on a text is as fluent as any
_BEGIN, _END, _RARE, _NAME = "<s>", "</s>", "<unk>", "<name>"
_TOKEN = re.compile(r"<name>|[^\W\d_]+(?:['’][^\W\d_]+)?|\d+|[^\w\s]")


class Trigrams:
    """A trigram model with interpolated absolute discounting; words seen once count as one rare word.

    `p(w | uv) = max(c(uvw) − D, 0) / c(uv) + D · N(uv·) / c(uv) · p(w | v)`, down to the uniform distribution
    over the vocabulary; `N(uv·)` is the number of different words seen after `uv`. So all probabilities that
    follow one history sum to 1.

    Args:
        texts: Token lists.
    """

    def __init__(self, texts: Iterable[Sequence[str]]) -> None:
        texts = [list(text) for text in texts]
        counts = Counter(word for text in texts for word in text)
        self.vocabulary = [*sorted(w for w, n in counts.items() if n > 1), _RARE, _END]
        self._known = frozenset(self.vocabulary)
        self._counts: Counter[tuple[str, ...]] = Counter()  # of n-grams up to `ORDER`, and of histories
        self._histories: Counter[tuple[str, ...]] = Counter()
        self._followers: Counter[tuple[str, ...]] = Counter()
        for text in texts:
            for gram in self._grams(text):
                for n in range(ORDER):
                    part = gram[n:]
                    self._followers[part[:-1]] += part not in self._counts
                    self._counts[part] += 1
                    self._histories[part[:-1]] += 1

    def probability(self, gram: tuple[str, ...]) -> float:
        """Return the probability of the last word after the others, at most two, in (0, 1)."""
        if not gram:
            return 1 / len(self.vocabulary)
        history, shorter = gram[:-1], self.probability(gram[1:])
        seen = self._histories[history]
        if not seen:
            return shorter
        kept = max(self._counts[gram] - DISCOUNT, 0.0)
        return (kept + DISCOUNT * self._followers[history] * shorter) / seen

    def log_likelihood(self, tokens: Sequence[str]) -> float:
        """Return the mean log-probability of a text's tokens and of its end, in nats per token."""
        grams = self._grams(tokens)
        return sum(math.log(self.probability(gram)) for gram in grams) / len(grams)

    def _grams(self, tokens: Sequence[str]) -> list[tuple[str, ...]]:
        words = [_BEGIN] * (ORDER - 1) + [w if w in self._known else _RARE for w in tokens] + [_END]
        return [tuple(words[i : i + ORDER]) for i in range(len(words) - ORDER + 1)]


class Fluency:
    """The fluency of a text, in [0, 1]: `likelihood · fresh²`.

    - `likelihood` is the mean log-probability per token, on a scale whose ends come from human texts that
      the model has not seen: 1 from their lower quartile on, 0 at the median of the same texts with the
      words of their first half in random order.
    - `fresh` is one minus the share of token trigrams that stood in the text before. A text that is said
      twice over has about 0.5, and loses three quarters.

    Args:
        texts: Human texts to count n-grams in.
        unseen: Other human texts, to calibrate on.
        names: Names, which all count as one word; longer ones are found first.

    Attributes:
        human: The mean log-probability that counts as 1, nats per token.
        broken: That which counts as 0.

    Raises:
        DataError: There are too few texts to tell human ones from broken ones.

    >>> said = [f"The {x} is a nice {y} by the river." for x in ("Eagle", "Mill") for y in ("pub", "cafe")]
    >>> fluency = Fluency(said, said, names=["Eagle", "Mill"])
    >>> fluency("The Eagle is a nice cafe by the river."), fluency("nice the Mill by cafe is river a the.")
    (1.0, 0.0)
    """

    def __init__(self, texts: Sequence[str], unseen: Sequence[str], names: Iterable[str] = ()) -> None:
        ordered = sorted({n for n in names if n}, key=lambda n: (-len(n), n))
        found = "|".join(map(re.escape, ordered))
        self._names = re.compile(rf"(?<!\w)(?:{found})(?!\w)", re.IGNORECASE) if found else None
        self.model = Trigrams(map(self.tokens, texts))
        rng = random.Random(0)  # the calibration is a function of the texts alone
        whole = [self.tokens(text) for text in unseen]
        broken = [rng.sample(half := t[: len(t) // 2], len(half)) + t[len(half) :] for t in whole]
        if not whole:
            raise DataError("there are no texts to calibrate fluency on")
        self.human = float(np.quantile([self.model.log_likelihood(t) for t in whole], HUMAN))
        self.broken = float(np.median([self.model.log_likelihood(t) for t in broken]))
        if not self.broken < self.human:
            raise DataError(
                f"an n-gram model of {len(texts)} texts does not tell {len(whole)} other human texts from "
                f"the same with shuffled words ({self.human:.2f} and {self.broken:.2f} nats per token): "
                "more texts are needed"
            )

    def __call__(self, text: str) -> float:
        """Return the fluency of a text."""
        tokens = self.tokens(text)
        if not tokens:
            return 0.0
        place = (self.model.log_likelihood(tokens) - self.broken) / (self.human - self.broken)
        return min(1.0, max(0.0, place)) * fresh(tokens) ** 2

    def tokens(self, text: str) -> list[str]:
        """Split a text into words in lower case, numbers and punctuation; every name is one token."""
        if self._names is not None:
            text = self._names.sub(f" {_NAME} ", text.replace(_NAME, " "))
        return _TOKEN.findall(text.lower())


def fresh(tokens: Sequence[str]) -> float:
    """Return the share of a text's trigrams that did not stand in it before; 1 for fewer than three tokens.

    >>> fresh("a b c a b c".split())
    0.75
    """
    grams = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    return len(set(grams)) / len(grams) if grams else 1.0
