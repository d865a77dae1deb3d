"""Write a short text of a given length that uses each of the given words once.

The words are the products' and every prompt was made from a fluent text that answers it. The reward
is verifiable and reads words only: it judges neither grammar nor sense.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import cache, lru_cache, partial
from typing import NamedTuple

import numpy as np

from text_gym.episode import Episode, Prompt
from text_gym.errors import RewardError
from text_gym.rewards.source import RewardSource
from text_gym.rewards.values import Rewards
from text_gym.tokenizer import PretrainedTokenizer

from .classic import check_range
from .products import N_HELD_OUT, N_TRAIN, POLICY
from .products_corpus import describe_product, lexicon, make_products
from .task import Pairs, Task

_WORD = re.compile(r"\w+(?:'\w+)*")
_N_PRODUCTS = 4096  # the subjects of the texts
_CARELESS = 0.5  # share of the corpus written by a careless writer
_SENTENCE_END = re.compile(r"(?<=[.!?]) ")
_FUNCTION_WORDS = frozenset("a all any at every for in more never out the with".split())  # noqa: SIM905


class KeywordsReward(RewardSource):
    """Pays the mean of the terms `used` and `length`, each in [0, 1].

    - `used`: mean over the words asked for of `1 / n` for a word that is there `n` times, 0 for one that is
      not there. Letter case does not matter; a longer word that begins like it is another word.
    - `length`: 1 with `low` to `high` words, `w / low` with `w < low`, `2 − w / high` with `w > high`, not
      below 0; and 0 if the text was cut at the token limit, since nobody knows how long it was to be.

    A word is a run of letters and digits, apostrophes within it included. The term `perfect` is 1 where
    both are 1, otherwise 0. Prompts need the columns `words`, `low` and `high`. A salad of words can be
    perfect: where the text is to stay fluent, a KL penalty to a policy that is has to see to it.

    Args:
        sparse: Pay `perfect` only.

    >>> from text_gym import ByteTokenizer
    >>> episode = Episode.of("", "Hikers and more hikers.", ByteTokenizer(), words=["hikers"], low=3, high=5)
    >>> KeywordsReward()([episode]).values
    array([0.75])
    """

    name = "keywords"

    def __init__(self, sparse: bool = False) -> None:
        self.sparse = sparse

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        """Score each episode by its text, its prompt's columns and its finish reason."""
        rows = np.array([self._score_one(e) for e in episodes]).reshape(-1, 2)
        perfect = (rows == 1.0).all(axis=1).astype(np.float64)
        terms = {"used": rows[:, 0], "length": rows[:, 1], "perfect": perfect}
        return Rewards(perfect if self.sparse else rows.mean(axis=1), terms=terms)

    def _score_one(self, episode: Episode) -> tuple[float, float]:
        columns = episode.prompt.columns
        missing = [name for name in ("words", "low", "high") if name not in columns]
        if missing:
            raise RewardError(
                f"reward {self.name!r} needs the columns words, low and high; "
                f"prompt {episode.prompt.id!r} lacks {', '.join(missing)}"
            )
        words = _words(episode.completion)
        counts = [words.count(word.casefold()) for word in columns["words"]]
        used = sum(1 / n for n in counts if n) / len(counts)
        w, low, high = len(words), columns["low"], columns["high"]
        length = min(1.0, w / low, max(0.0, 2 - w / high)) if episode.whole else 0.0
        return used, length


def keywords(
    words: int = 3,
    sentences: int = 2,
    band: int = 5,
    sparse: bool = False,
    n_train: int = N_TRAIN,
    n_held_out: int = N_HELD_OUT,
    seed: int = 0,
) -> Task:
    r"""Use each word once in a text of the right length: `# use: hikers, steel | 10 to 14 words\n`.

    State: the prompt and the tokens so far. Action: a token of the tokenizer of `products`, `V = 876`.
    Reward: see `KeywordsReward`. Optimum: 1, reached by the text that the prompt was made from. The token
    limit is `8 + 16 · sentences`. `Task.policy` is the policy of `products`: it writes these words, but
    has never been asked for any. Make one that has with `text-gym sft --task keywords`; half of the corpus
    is by a careless writer, so that there is something left to gain.

    Args:
        words: How many words to use, 1 to `3 · sentences`.
        sentences: Of the text that the prompt was made from, 1 to 3, of 3 to 13 words each: how long
            texts are.
        band: Width of the length band, in words, at least 1.
        sparse: Pay for perfect texts only.
        n_train: Prompts to learn on; a few less where one that is held out came again.
        n_held_out: Prompts to judge on; none of them is among those to learn on.
        seed: Another seed gives other prompts.

    Raises:
        ConfigError: A parameter out of its range.

    >>> keywords().prompts[0].text
    '# use: tracks, runners, further | 18 to 22 words\n'
    """
    check_range("sentences", sentences, 1, 3)
    check_range("words", words, 1, 3 * sentences)
    check_range("band", band, 1)
    writer = _Writer(words, sentences, band, seed)
    train, held_out = _halves(writer, n_train, n_held_out)
    return Task(
        name="keywords",
        prompts=[p for p, _ in train],
        held_out=[p for p, _ in held_out],
        tokenizer=PretrainedTokenizer.from_pretrained(POLICY),
        reward=KeywordsReward(sparse),
        max_tokens=8 + 16 * sentences,
        policy=POLICY,
        corpus=partial(_halves, writer, 4 * n_train, n_held_out),
        optimum=1.0,
        golden=partial(_golden, writer, n_train, n_held_out),
    )


class _Writer(NamedTuple):
    """Writes a text, then a prompt it answers; the parameters are those of `keywords`."""

    words: int
    sentences: int
    band: int
    seed: int

    def pairs(self, first: int, n: int, careless: float = _CARELESS) -> list[tuple[Prompt, str]]:
        """Write pairs `first` to `first + n - 1`; each depends on (parameters, its number) alone."""
        products = make_products(_N_PRODUCTS, self.seed)
        return [self._pair(products, k, careless) for k in range(first, first + n)]

    def _pair(self, products: Sequence[Prompt], k: int, careless: float) -> tuple[Prompt, str]:
        rng = random.Random(f"keywords {self.seed} {k}")
        while True:  # until the text has enough words
            product = products[int(rng.random() * len(products))]
            text = self._text(product, rng)
            said = _words(text)
            options = [word for word in said if word in _vocabulary() and said.count(word) == 1]
            if len(options) >= self.words:
                break
        chosen = tuple(sorted(options, key=lambda _: rng.random())[: self.words])
        low = max(1, len(said) - int(rng.random() * self.band))
        columns = {"words": chosen, "low": low, "high": low + self.band - 1}
        prompt = Prompt(f"# use: {', '.join(chosen)} | {low} to {low + self.band - 1} words\n", columns)
        # A careless writer has the right product in mind, but minds neither the words nor the length.
        return prompt, self._text(product, rng) if rng.random() < careless else text

    def _text(self, product: Prompt, rng: random.Random) -> str:
        sentences = _SENTENCE_END.split(describe_product(product, rng, careless=0.0))
        start = int(rng.random() * (len(sentences) - self.sentences + 1))
        return " ".join(sentences[start : start + self.sentences])


@lru_cache(maxsize=4)  # environments are made often, and writing is slow
def _halves(writer: _Writer, n_train: int, n_held_out: int) -> tuple[Pairs, Pairs]:
    """Split the pairs into training and held-out ones, dropping training pairs whose prompt is held out."""
    held_out = writer.pairs(0, n_held_out)
    taken = {p.text for p, _ in held_out}
    return [(p, text) for p, text in writer.pairs(n_held_out, n_train) if p.text not in taken], held_out


def _golden(writer: _Writer, n_train: int, n_held_out: int, prompt: Prompt) -> str:
    """Return the text that a prompt was made from."""
    few = _golden_texts(writer, n_held_out)  # writing is slow, and most ask for held-out prompts only
    return (
        few[prompt.text] if prompt.text in few else _golden_texts(writer, n_train + n_held_out)[prompt.text]
    )


@lru_cache(maxsize=2)
def _golden_texts(writer: _Writer, n: int) -> dict[str, str]:
    return {prompt.text: text for prompt, text in writer.pairs(0, n, careless=0.0)}


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


@cache
def _vocabulary() -> frozenset[str]:
    """Return the words of the products' values and of the benefits, without function words and prices."""
    values = (value for slot, options in lexicon().items() if slot != "price" for value in options)
    return frozenset(word for value in values for word in value.split()) - _FUNCTION_WORDS
