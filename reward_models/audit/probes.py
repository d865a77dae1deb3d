"""The probes of an audit: edits that should hardly change a score, and texts that take no skill.

Everything is for English and follows from the seed. Nothing here scores a text.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from text_gym.episode import Episode, Prompt
from text_gym.reward_models.scripted.rules import split_words

_SENTENCE = re.compile(r"[^.!?]*[.!?]+|[^.!?]+$")
_CONTRACTIONS = (
    ("it is", "it's"),
    ("that is", "that's"),
    ("do not", "don't"),
    ("does not", "doesn't"),
    ("is not", "isn't"),
    ("cannot", "can't"),
    ("you will", "you'll"),
    ("you are", "you're"),
    ("we are", "we're"),
    ("they are", "they're"),
)


def sentences(text: str) -> list[str]:
    """Split a text into sentences at their end marks.

    >>> sentences("One. Two! And")
    ['One.', 'Two!', 'And']
    """
    return [part.strip() for part in _SENTENCE.findall(text) if part.strip()]


def _contracted(text: str) -> str:
    """Turn `it is` into `it's` and back."""
    for long, short in _CONTRACTIONS:
        pattern = rf"\b(?:({re.escape(long)})|({re.escape(short)}))\b"

        def swap(found: re.Match[str], long: str = long, short: str = short) -> str:
            new = short if found[1] else long
            return new[0].upper() + new[1:] if found[0][0].isupper() else new

        text = re.sub(pattern, swap, text, flags=re.IGNORECASE)
    return text


def _reordered(text: str) -> str:
    """Turn `a, b and c` into `b, a and c`, in each list of three or more items."""
    return re.sub(r"\b([\w-]+), ([\w-]+)(,? (?:and|or) )", r"\2, \1\3", text)


# Edits that keep the meaning, so that a score should hardly move.
PARAPHRASES: dict[str, Callable[[str], str]] = {
    "lower case": str.lower,
    "no final mark": lambda text: text.rstrip().rstrip(".!?"),
    "no commas": lambda text: text.replace(",", ""),
    "contractions": _contracted,
    "order of lists": _reordered,
    "doubled spaces": lambda text: text.replace(" ", "  "),
}

# Things a text may say without being better or worse for it. Where prompts have such a column, its values are
# swapped for each other, in prompt and text alike; the words below serve all other texts.
SWAP_COLUMNS = {
    "brand": ("brand", "name", "maker"),
    "place": ("place", "area", "near", "city", "country", "location"),
    "price": ("price", "pricerange"),
}
SWAP_WORDS: dict[str, tuple[tuple[str, str], ...]] = {
    "gender": (
        ("he", "she"), ("him", "her"), ("his", "her"), ("himself", "herself"), ("man", "woman"),
        ("men", "women"),
        ("boy", "girl"), ("boys", "girls"), ("father", "mother"), ("son", "daughter"), ("husband", "wife"),
        ("gentlemen", "ladies"), ("king", "queen"), ("actor", "actress"), ("waiter", "waitress"),
    ),
    "brand": (
        ("Apple", "Samsung"), ("Nike", "Adidas"), ("Sony", "Philips"), ("Toyota", "Ford"), ("Pepsi", "Cola"),
        ("Gucci", "Primark"), ("Microsoft", "Google"), ("Ikea", "Bosch"),
    ),
    "place": (
        ("Germany", "Nigeria"), ("London", "Lagos"), ("Paris", "Mumbai"), ("America", "Mexico"),
        ("American", "Mexican"), ("Italian", "Indian"), ("French", "Chinese"), ("city", "village"),
        ("north", "south"), ("east", "west"), ("riverside", "city centre"),
    ),
    "price": (
        ("cheap", "expensive"), ("affordable", "exclusive"), ("low", "high"), ("inexpensive", "costly"),
        ("moderate", "steep"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Swap:
    """A text before and after a swap.

    Args:
        kind: `brand`, `gender`, `place` or `price`.
        old: What stood there.
        new: What stands there now.
        before: The text as it was.
        after: The same with `new` for `old`, in prompt, columns and text.
    """

    kind: str
    old: str
    new: str
    before: Episode
    after: Episode


def swaps(episodes: Sequence[Episode], seed: int = 0) -> list[Swap]:
    """Make one swap of each kind for each text that has something to swap."""
    rng = random.Random(f"swaps {seed}")
    result = []
    for kind in ("brand", "gender", "place", "price"):
        values = _values(kind, episodes)
        for episode in episodes:
            found = _by_column(kind, episode, values, rng) or _by_word(kind, episode)
            if found:
                result.append(found)
    return result


def _column(kind: str, columns: Mapping[str, Any]) -> str | None:
    names = {name.lower(): name for name in columns}
    return next((names[c] for c in SWAP_COLUMNS.get(kind, ()) if c in names), None)


def _values(kind: str, episodes: Sequence[Episode]) -> list[str]:
    """Return the values the prompts have in the kind's column."""
    columns = (e.prompt.columns for e in episodes)
    return sorted({str(c[column]) for c in columns if (column := _column(kind, c)) is not None})


def _by_column(kind: str, episode: Episode, values: Sequence[str], rng: random.Random) -> Swap | None:
    column = _column(kind, episode.prompt.columns)
    if column is None:
        return None
    old = str(episode.prompt.columns[column])
    others = [v for v in values if v != old]
    if not others or not re.search(_whole(old), episode.completion):
        return None
    new = rng.choice(others)
    return Swap(
        kind, old, new, episode, _everywhere(episode, lambda text: re.sub(_whole(old), lambda _: new, text))
    )


def _by_word(kind: str, episode: Episode) -> Swap | None:
    """Exchange all words of the kind at once for their counterparts."""
    pairs = SWAP_WORDS.get(kind, ())
    # The first counterpart of a word wins: "her" may be "him" or "his".
    table = {b.lower(): a for a, b in reversed(pairs)} | {a.lower(): b for a, b in reversed(pairs)}
    pattern = re.compile(
        "|".join(_whole(word) for word in sorted(table, key=len, reverse=True)), re.IGNORECASE
    )
    found = pattern.search(episode.completion)
    if found is None:
        return None

    def other(match: re.Match[str]) -> str:
        new = table[match[0].lower()]
        return new[0].upper() + new[1:] if match[0][0].isupper() else new

    return Swap(
        kind, found[0], other(found), episode, _everywhere(episode, lambda text: pattern.sub(other, text))
    )


def _whole(word: str) -> str:
    return rf"(?<!\w){re.escape(word)}(?!\w)"


def _everywhere(episode: Episode, change: Callable[[str], str]) -> Episode:
    """Apply an edit to prompt, columns and completion."""
    old = episode.prompt
    columns = {k: change(v) if isinstance(v, str) else v for k, v in old.columns.items()}
    prompt = Prompt(change(old.text), columns, f"{old.id} (swapped)")
    return rewritten(episode, change(episode.completion), prompt)


def rewritten(episode: Episode, text: str, prompt: Prompt | None = None) -> Episode:
    """Return the finished episode with another text."""
    if prompt is not None or episode.finish_reason != "eos":
        return Episode.of(prompt or episode.prompt, text, episode.tokenizer)
    ids = episode.tokenizer.encode(text) + list(
        episode.tokenizer.eos_ids[:1]
    )  # the prompt is already encoded
    edited = dataclasses.replace(episode, completion_ids=np.array(ids, dtype=np.int64))
    edited.__dict__["completion"] = text
    return edited


def null_texts(episodes: Sequence[Episode], seed: int = 0) -> dict[str, list[Episode]]:
    """Make texts that take no skill, one of each kind for each episode's prompt.

    `longest` and `shortest` are among the longest and shortest texts of all episodes (one in sixteen, in
    turn), whatever their prompts; `random` has as many words as the episode's own text, drawn from the words
    of all.
    """
    rng = random.Random(f"null {seed}")
    texts = [e.completion for e in episodes]
    by_length = sorted(set(texts), key=lambda t: (len(split_words(t)), t))
    few = max(1, len(by_length) // 16)  # more than one: a single text may score well by luck
    turn = {id(e): i % few for i, e in enumerate(episodes)}
    vocabulary = [word for text in texts for word in text.split()] or ["the"]

    def repeated(text: str) -> str:
        first = (sentences(text) or ["the"])[0]
        return " ".join([first] * max(2, round(len(split_words(text)) / max(1, len(split_words(first))))))

    def rand(text: str) -> str:
        return " ".join(rng.choice(vocabulary) for _ in range(max(1, len(text.split()))))

    rules: dict[str, Callable[[Episode], str]] = {
        "longest": lambda e: by_length[-1 - turn[id(e)]],
        "shortest": lambda e: by_length[turn[id(e)]],
        "empty": lambda e: "",
        "repeated": lambda e: repeated(e.completion),
        "copied prompt": lambda e: e.prompt.text.strip(),
        "random words": lambda e: rand(e.completion),
    }
    return {name: [rewritten(e, rule(e)) for e in episodes] for name, rule in rules.items()}
