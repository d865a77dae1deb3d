"""The default task: describe a product accurately, clearly and persuasively.

Product information comes in, a description of 20 to 40 words goes out. The gold reward is exact
because the task's English is closed (`products_corpus`); it cannot judge any other English.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from text_gym.episode import Episode, Prompt
from text_gym.errors import RewardError
from text_gym.rewards.source import RewardSource
from text_gym.rewards.values import Rewards
from text_gym.tokenizer import PretrainedTokenizer

from . import products_corpus as english
from .task import Pairs, Task

POLICY = Path(__file__).parent / "products_policy"
N_TRAIN, N_HELD_OUT = 4096, 256

# A price with all its digits, a word, a number, or any other character but white space.
_TOKEN = re.compile(r"\$\d[\d.,]*\b|[^\W\d_]+(?:'[^\W\d_]+)?|\d+|[^\w\s]|_")
_TEMPLATE_TOKEN = re.compile(r"\{\w+\}|\w+|[^\w\s]")
_NAME_PARTS = frozenset(english.BRANDS + english.LINES)
_ENDS = frozenset(".!?")
_NO_TOKEN = ""  # stands before a sentence's first token

_HOOKS = (
    ("Meet", "the", "{name}"),
    ("Say", "hello", "to"),
    ("Discover", "the", "{name}"),
    ("Looking", "for", "a"),
)
_CALLS = frozenset({("Order", "yours"), ("Order", "it"), ("Get", "yours"), ("Try", "it"), ("Bring", "it")})
_CALL_VERBS = frozenset({"order", "get", "buy", "try", "bring", "grab"})
_HYPE = frozenset(
    """! amazing awesome best ever fantastic greatest incredible love most perfect really revolutionary
    ultimate unbelievable very wow""".split()  # noqa: SIM905
)
_YOU = frozenset({"you", "your", "yours", "yourself"})


class Mention(NamedTuple):
    """A value of the lexicon, found in a text.

    Args:
        slot: One of `SLOTS`, or `"benefit"`.
        value: What the text says.
        sentence: Number of the sentence it stands in, from 0.
    """

    slot: str
    value: str
    sentence: int


class Reading(NamedTuple):
    """A text with the values of the lexicon found in it.

    Args:
        tokens: Words and punctuation; a value stands as its slot's name in braces, e.g. `{colour}`.
        mentions: The values in order.
        n_words: Number of words, those within values included.
    """

    tokens: list[str]
    mentions: list[Mention]
    n_words: int


def read(text: str) -> Reading:
    """Find the values of the lexicon, longest first, on word boundaries, letter case as in the lexicon.

    A run of name parts (`Lumo Air 3`, but `Lumo` alone too) is one name; `$` and digits are one price.

    >>> read("Meet the Lumo Air 3, a green mug.").tokens
    ['Meet', 'the', '{name}', ',', 'a', '{colour}', '{category}', '.']
    """
    words = _TOKEN.findall(text)
    phrases = _phrases()
    tokens: list[str] = []
    mentions: list[Mention] = []
    n_words = sentence = i = 0
    while i < len(words):
        word, slot, size = words[i], "", 1
        if word in phrases:
            for phrase, its_slot in phrases[word]:
                if words[i : i + len(phrase)] == phrase:
                    slot, size = its_slot, len(phrase)
                    break
        elif word in _NAME_PARTS:
            slot = "name"
            while i + size < len(words) and (words[i + size] in _NAME_PARTS or words[i + size].isdecimal()):
                size += 1
        elif word[0] == "$" and len(word) > 1:
            slot = "price"
        if slot:
            mentions.append(Mention(slot, " ".join(words[i : i + size]), sentence))
            tokens.append(f"{{{slot}}}")
            n_words += size
        else:
            tokens.append(word)
            n_words += word.isalnum() or "'" in word[1:]
            sentence += word in _ENDS
        i += size
    return Reading(tokens, mentions, n_words)


def accuracy(reading: Reading, product: Mapping[str, str]) -> float:
    """Return the F1 of the slots, `2c / (m + 7)`.

    `m` is the number of distinct (slot, value) pairs that the text mentions, `c` how many of them are
    the product's. Precision is `c / m`, recall `c / 7`: a missing slot costs recall, any wrong value of
    the lexicon costs precision. A price or a name counts only as a whole.
    """
    said = {(m.slot, m.value) for m in reading.mentions if m.slot != "benefit"}
    correct = sum(product[slot] == value for slot, value in said)
    return 2 * correct / (len(said) + len(english.SLOTS))


def clarity(reading: Reading, whole: bool) -> float:
    """Return `grammar² · length · sentence · fresh² · end`, each factor in [0, 1].

    - `grammar`: share of tokens that may follow the token before them in the same sentence (or begin a
      sentence) by the grammar of the corpus, values standing as their slots. Careless writers' hype and
      ramblings are not part of that grammar.
    - `length`: `min(1, w / 20, (60 − w) / 20)`, not below 0, for `w` words: 20 to 40 words are right.
    - `sentence`: `min(1, 16 / t)` for `t` tokens in the longest sentence.
    - `fresh`: one minus the share of token trigrams that stood before. Every mention of a slot beyond its
      second counts as such a trigram.
    - `end`: halved if the text did not end by itself, and halved if the text ends without `.`, `!` or `?`.
    """
    tokens, mentions, n_words = reading
    legal = _legal_bigrams()
    n_legal = longest = size = 0
    before = _NO_TOKEN
    for token in tokens:
        n_legal += (before, token) in legal
        size += 1
        longest = max(longest, size)
        before = token
        if token in _ENDS:
            before, size = _NO_TOKEN, 0
    length = max(0.0, min(1.0, n_words / 20, (60 - n_words) / 20))
    if length == 0.0:
        return 0.0
    n_trigrams = max(1, len(tokens) - 2)
    repeats = len(tokens) - 2 - len(set(zip(tokens, tokens[1:], tokens[2:], strict=False)))
    slots = [m.slot for m in mentions]
    repeats = max(0, repeats) + sum(max(0, slots.count(s) - 2) for s in set(slots))
    fresh = max(0.0, 1 - repeats / n_trigrams)
    end = (1.0 if whole else 0.5) * (1.0 if tokens[-1] in _ENDS else 0.5)
    return (n_legal / len(tokens)) ** 2 * length * min(1.0, 16 / longest) * fresh**2 * end


def persuasiveness(reading: Reading, product: Mapping[str, str]) -> float:
    """Return `(hook + benefit + call) / 3 · max(0, 1 − pressure / 4)`.

    - `hook`: 1 if the text begins with "Meet the {name}", "Say hello to", "Discover the {name}" or
      "Looking for a".
    - `benefit`: the best over all benefits in the text; one half for being a benefit of the product's
      audience, one half for standing in a sentence that names this audience.
    - `call`: 1 if the last sentence is a call to action ("Order yours", "Get yours", …), one half if only
      an earlier one is.
    - `pressure`: number of superlatives and exclamation marks, of verbs of calls to action beyond the
      first, and of the word "you" and its forms beyond the second.
    """
    tokens, mentions, _ = reading
    audience = product["audience"]
    own = english.BENEFITS.get(audience, ())
    addressed = {m.sentence for m in mentions if m.slot == "audience" and m.value == audience}
    benefits = [m for m in mentions if m.slot == "benefit"]
    benefit = max((((m.value in own) + (m.sentence in addressed)) / 2 for m in benefits), default=0.0)
    hook = tuple(tokens[:3]) in _HOOKS
    starts = [0] + [i + 1 for i, token in enumerate(tokens[:-1]) if token in _ENDS]
    calls = [tuple(tokens[i : i + 2]) in _CALLS for i in starts]
    call = 1.0 if calls[-1] else 0.5 * any(calls)
    lower = [token.lower() for token in tokens]
    hype = sum(token in _HYPE for token in lower)
    pushes = sum(token in _CALL_VERBS for token in lower)
    yous = sum(token in _YOU for token in lower)
    pressure = hype + max(0, pushes - 1) + max(0, yous - 2)
    return (hook + benefit + call) / 3 * max(0.0, 1 - pressure / 4)


class ProductsReward(RewardSource):
    """The gold reward: the mean of `accuracy`, `clarity` and `persuasiveness`, in [0, 1].

    The three are terms, and so is `perfect`: 1 where all of them are 1, else 0.
    Prompts need the columns of `SLOTS`.
    """

    name = "products"

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        """Score each episode by its text, its prompt's columns and its finish reason."""
        rows = np.array([self._score_one(e) for e in episodes]).reshape(-1, 3)
        terms = {
            "accuracy": rows[:, 0],
            "clarity": rows[:, 1],
            "persuasiveness": rows[:, 2],
            "perfect": (rows == 1.0).all(axis=1).astype(np.float64),
        }
        return Rewards((rows[:, 0] + rows[:, 1] + rows[:, 2]) / 3, terms=terms)

    def _score_one(self, episode: Episode) -> tuple[float, float, float]:
        product = episode.prompt.columns
        missing = [slot for slot in english.SLOTS if slot not in product]
        if missing:
            raise RewardError(
                f"reward {self.name!r} needs the columns {', '.join(english.SLOTS)}; "
                f"prompt {episode.prompt.id!r} lacks {', '.join(missing)}"
            )
        reading = read(episode.completion)
        return (
            accuracy(reading, product),
            clarity(reading, episode.whole),
            persuasiveness(reading, product),
        )


def products(
    n_train: int = N_TRAIN, n_held_out: int = N_HELD_OUT, seed: int = 0, max_tokens: int = 64
) -> Task:
    """Make the task `products`: product information → description.

    Args:
        n_train: Prompts to learn on.
        n_held_out: Prompts to judge on; no name and no combination of the other attributes is on both
            sides. With the same seed they stay the same whatever `n_train` is.
        seed: Another seed gives other products.
        max_tokens: Token limit of a description, EOS included.
    """
    prompts = english.make_products(n_held_out + n_train, seed)
    return Task(
        name="products",
        prompts=prompts[n_held_out:],
        held_out=prompts[:n_held_out],
        tokenizer=PretrainedTokenizer.from_pretrained(POLICY),
        reward=ProductsReward(),
        max_tokens=max_tokens,
        policy=POLICY,
        corpus=partial(_corpora, prompts[:n_held_out]),
        optimum=1.0,
        golden=careful_description,
    )


def corpus(n: int = 16 * N_TRAIN, seed: int = 0) -> list[tuple[Prompt, str]]:
    """Write supervised pairs of prompt and description, with mean gold about 0.73 and a quarter perfect.

    Args:
        n: How many pairs; prompts come again, with other texts, after `N_TRAIN`.
        seed: Seed of the texts; the products are those of `products()`.
    """
    return english.write_corpus(english.make_products(N_HELD_OUT + N_TRAIN)[N_HELD_OUT:], n, seed)


def careful_description(product: Prompt) -> str:
    """Write the description that a careful writer would, always the same one for a product."""
    return english.describe_product(product, random.Random(product.id), careless=0.0)


def _corpora(held_out: Sequence[Prompt]) -> tuple[Pairs, Pairs]:
    return corpus(), english.write_corpus(held_out, 2 * len(held_out), seed=1)


def make_tokenizer(vocab_size: int = 1024) -> PretrainedTokenizer:
    """Train the task's tokenizer on the corpus; `make_tokenizer().save(POLICY)` writes the shipped one."""
    return PretrainedTokenizer.train((part for p, text in corpus() for part in (p.text, text)), vocab_size)


@cache
def _phrases() -> dict[str, list[tuple[list[str], str]]]:
    """Index the lexicon's phrases by first word, longest first, with their slots."""
    found: dict[str, list[tuple[list[str], str]]] = {}
    for slot, values in english.lexicon().items():
        if slot != "price":
            for phrase in (value.split() for value in values):
                found.setdefault(phrase[0], []).append((phrase, slot))
    for options in found.values():
        options.sort(key=lambda option: -len(option[0]))
    return found


@cache
def _legal_bigrams() -> frozenset[tuple[str, str]]:
    """List the neighbouring words the grammar can produce in a sentence, with values replaced by slots."""
    pairs = set()
    for template in english.GRAMMAR:
        for text in english.expansions(template):
            before = _NO_TOKEN
            for token in _TEMPLATE_TOKEN.findall(text):
                pairs.add((before, token))
                before = _NO_TOKEN if token in _ENDS else token
    return frozenset(pairs)
