"""Worlds for `validate_faults.py`: tasks of made-up words with a clean reward, everything drawn by a seed.

Nothing of `text_gym.validation` is imported, so that the tricks it knows are no part of what is planted.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from text_gym import ByteTokenizer, FunctionReward, Prompt, RewardSource, Task, WordTokenizer
from text_gym.reward_models import PreferencePair, Rating

Quality = Callable[[str, Mapping[str, Any]], float]  # text and columns -> in [0, 1]
_ONSETS = "b d f g k l m n p r s t v z bl dr fl gr kl pr st tr".split()  # noqa: SIM905
_RIMES = "a e i o u ab ek im on up ar el ost ind unk".split()  # noqa: SIM905


@dataclass
class World:
    """A task of one kind, with its golden texts, its writers, and a reward that is right."""

    kind: str
    rng: random.Random
    words: list[str]
    prompts: list[Prompt]
    golden: dict[str, str]
    quality: Quality
    limit: int  # words
    held_out: list[Prompt] = field(default_factory=list)
    corpus: bool = True

    def honest(self, prompts: Sequence[Prompt], n: int, slips: float = 0.35) -> list[tuple[Prompt, str]]:
        """Texts of writers who make a mistake at times."""
        found = []
        for k in range(n):
            prompt = prompts[k % len(prompts)]
            words = self.golden[prompt.text].split()
            while self.rng.random() < slips:
                spoil(words, self.words, self.rng)
            found.append((prompt, " ".join(words)))
        return found

    def task(self, reward: RewardSource, closed: bool, maximum: float | None) -> Task:
        """The task, in bytes or in a closed vocabulary of words."""
        train, held_out = self.prompts, self.held_out
        learn, judge = self.honest(train, 4 * len(train)), self.honest(held_out, 64)
        longest = max(len(text) for text in self.golden.values())
        return Task(
            name=self.kind,
            prompts=train,
            held_out=held_out,
            tokenizer=WordTokenizer(self.words) if closed else ByteTokenizer(),
            reward=reward,
            max_tokens=self.limit if closed else 6 * longest + 40,
            corpus=(lambda: (learn, judge)) if self.corpus else None,
            optimum=maximum,
            golden=partial(_golden, self.golden),
        )

    def ratings(self, opinion: Quality, n: int = 48) -> list[Rating]:
        """Marks of people who see quality, and are unsure at times."""
        texts = self.honest(self.held_out, n, slips=0.6)
        return [
            Rating(p, text, {"rating": opinion(text, p.columns) + self.rng.gauss(0, 0.15)})
            for p, text in texts
        ]

    def pairs(self, opinion: Quality, n: int = 40) -> list[PreferencePair]:
        """Pairs of people who are wrong one time in ten."""
        found: list[PreferencePair] = []
        while len(found) < n:
            prompt = self.rng.choice(self.held_out)
            a, b = (text for _, text in self.honest([prompt], 2, slips=0.6))
            gap = opinion(a, prompt.columns) - opinion(b, prompt.columns)
            if abs(gap) < 1e-9:
                continue
            better = gap > 0 if self.rng.random() < 0.9 else gap < 0
            found.append(PreferencePair(prompt, *((a, b) if better else (b, a))))
        return found


def _golden(texts: Mapping[str, str], prompt: Prompt) -> str:
    return texts[prompt.text]


def spoil(words: list[str], lexicon: Sequence[str], rng: random.Random) -> None:
    """Make one mistake: a word left out, another word, two words in the wrong order, one too many."""
    i = rng.randrange(len(words)) if words else 0
    slip = rng.choice(("drop", "other", "swap", "more"))
    if slip == "drop" and len(words) > 1:
        del words[i]
    elif slip == "swap" and len(words) > 1:
        j = rng.randrange(len(words))
        words[i], words[j] = words[j], words[i]
    elif slip == "more" or not words:
        words.insert(i, rng.choice(lexicon))
    else:
        words[i] = rng.choice(lexicon)


def made_up(rng: random.Random, n: int) -> list[str]:
    """Distinct words that mean nothing."""
    found: dict[str, None] = {}
    while len(found) < n:
        found["".join(rng.choice(_ONSETS) + rng.choice(_RIMES) for _ in range(rng.randint(1, 3)))] = None
    return [w for w in found if len(w) > 2][:n] if min(map(len, found)) > 2 else made_up(rng, n)


def in_place(text: str, wanted: str) -> float:
    """Share of the places that hold the right word, of the longer of both texts."""
    a, b = text.split(), wanted.split()
    return sum(x == y for x, y in zip(a, b, strict=False)) / max(len(a), len(b), 1)


def multiset_f1(text: str, wanted: str) -> float:
    """F1 of the words, each as often as it comes."""
    a, b = Counter(text.split()), Counter(wanted.split())
    return 2 * sum((a & b).values()) / max(1, sum(a.values()) + sum(b.values()))


# Kinds of worlds: each draws its words, prompts, golden texts and a quality.


def translation(rng: random.Random) -> World:
    """Every word has a counterpart in another language."""
    n = rng.randint(6, 9)
    words = made_up(rng, 2 * n)
    table = dict(zip(words[:n], words[n:], strict=True))
    size = rng.randint(3, 4)
    texts = [" ".join(rng.sample(words[:n], size)) for _ in range(400)]
    return _world(
        "translation", rng, words, {t: " ".join(table[w] for w in t.split()) for t in texts}, in_place
    )


def backwards(rng: random.Random) -> World:
    """The prompt's words from the last to the first."""
    words = made_up(rng, rng.randint(8, 14))
    texts = [" ".join(rng.sample(words, 5)) for _ in range(400)]
    return _world("backwards", rng, words, {t: " ".join(t.split()[::-1]) for t in texts}, in_place)


def description(rng: random.Random) -> World:
    """Slots of a record in a sentence of the kind's own; all but its words count against it."""
    slots = [made_up(rng, 3) for _ in range(3)]
    names, frame = made_up(rng, 3), made_up(rng, 3)
    order = rng.sample(range(3), 3)

    def ask(values: Sequence[str]) -> str:
        return " ".join(f"{n} {v}" for n, v in zip(names, values, strict=True))

    def answer(values: Sequence[str]) -> str:
        said = [values[i] for i in order]
        return f"{frame[0]} {said[0]} {frame[1]} {said[1]} {said[2]} {frame[2]}"

    records = [tuple(rng.choice(s) for s in slots) for _ in range(400)]
    words = [*dict.fromkeys([*itertools.chain(*slots), *names, *frame])]
    # The frame alone is worth little: what it shares with every text is taken off.
    share = len(frame) / 6

    def quality(text: str, wanted: str) -> float:
        return max(0.0, in_place(text, wanted) - share) / (1 - share)

    return _world("description", rng, words, {ask(r): answer(r) for r in records}, quality)


def tagged(rng: random.Random) -> World:
    """An answer between two tags, without which it is worth nothing."""
    words = made_up(rng, rng.randint(8, 12))
    tag = made_up(rng, 1)[0]
    size = rng.randint(2, 3)
    texts = [" ".join(rng.sample(words, size + 1)) for _ in range(400)]
    table = dict(zip(words, words[1:] + words[:1], strict=True))

    def answer(text: str) -> str:
        return f"<{tag}> {' '.join(table[w] for w in text.split()[:size])} </{tag}>"

    def quality(text: str, wanted: str) -> float:
        said, right = text.split(), wanted.split()
        if len(said) < 2 or said[0] != right[0] or said[-1] != right[-1]:
            return 0.0
        return 0.1 + 0.9 * in_place(" ".join(said[1:-1]), " ".join(right[1:-1]))

    lexicon = [*words, f"<{tag}>", f"</{tag}>"]
    return _world("tagged", rng, lexicon, {t: answer(t) for t in texts}, quality)


def counting(rng: random.Random) -> World:
    """A word, as often as is asked for."""
    words = made_up(rng, rng.randint(5, 8))
    numbers = made_up(rng, 4)
    texts = {f"{w} {numbers[k]}": " ".join([w] * (k + 2)) for w in words for k in range(4)}

    def quality(text: str, wanted: str) -> float:
        said, right = text.split(), wanted.split()
        same = said.count(right[0])
        return max(0.0, 1 - (abs(same - len(right)) + len(said) - same) / len(right)) if same else 0.0

    return _world("counting", rng, [*words, *numbers], texts, quality)


def classes(rng: random.Random) -> World:
    """The class of a word, one of five to eight."""
    n = rng.randint(5, 8)
    words = made_up(rng, 40 + n)
    labels, items = words[:n], words[n:]
    home = {item: rng.choice(labels) for item in items}
    texts = {f"{a} {b}": f"{home[a]} {home[b]}" for a in items for b in rng.sample(items, 4)}
    return _world("classes", rng, words, texts, lambda text, wanted: float(text == wanted))


def selection(rng: random.Random) -> World:
    """Those of the prompt's words that belong to a set, in any order; each other word counts against it."""
    words = made_up(rng, rng.randint(12, 16))
    chosen = set(rng.sample(words, len(words) // 2))
    texts: dict[str, str] = {}
    while len(texts) < 300:
        asked = rng.sample(words, 6)
        right = [w for w in asked if w in chosen]
        if 2 <= len(right) <= 4:
            texts[" ".join(asked)] = " ".join(right)

    def quality(text: str, wanted: str) -> float:
        return multiset_f1(text, wanted) ** rng_power

    rng_power = rng.choice((2, 3))
    return _world("selection", rng, words, texts, quality)


def sums(rng: random.Random) -> World:
    """A sum of two numbers in words; partly paid, digit by digit."""
    digits = made_up(rng, 6)
    plus = made_up(rng, 1)[0]

    def written(n: int) -> str:
        return f"{digits[n // 36]} {digits[n // 6 % 6]} {digits[n % 6]}"

    pairs = [(rng.randrange(36), rng.randrange(36)) for _ in range(400)]
    texts = {f"{written(a)} {plus} {written(b)}": written(a + b) for a, b in pairs}

    def quality(text: str, wanted: str) -> float:
        return in_place(text, wanted) if len(text.split()) == 3 else 0.0

    return _world("sums", rng, [*digits, plus], texts, lambda t, w: quality(t, w) ** 2)


KINDS = (translation, backwards, description, tagged, counting, classes, selection, sums)


def _world(
    kind: str,
    rng: random.Random,
    words: Sequence[str],
    golden: Mapping[str, str],
    quality: Callable[[str, str], float],
) -> World:
    own = dict(golden)
    prompts = [Prompt(text, {"wanted": answer}) for text, answer in own.items()]
    rng.shuffle(prompts)
    cut = max(12, len(prompts) // 5)
    limit = max(len(text.split()) for text in own.values()) + 3

    def judge(text: str, columns: Mapping[str, Any]) -> float:
        return quality(" ".join(text.split()), columns["wanted"])

    return World(
        kind, rng, list(dict.fromkeys(words)), prompts[cut:], own, judge, limit, held_out=prompts[:cut]
    )


def as_source(quality: Quality, rng: random.Random, scale: float = 1.0, offset: float = 0.0) -> RewardSource:
    """The same reward by one of the forms that a reward may have."""
    form = rng.choice(("one", "batch", "episode", "source"))

    def one(completion: str, wanted: str) -> float:
        return offset + scale * quality(completion, {"wanted": wanted})

    if form == "one":
        return FunctionReward(one, name="made")
    if form == "batch":

        def batch(prompts: list[str], completions: list[str], wanted: list[str]) -> list[float]:
            return [one(c, w) for c, w in zip(completions, wanted, strict=True)]

        return FunctionReward(batch, name="made")
    if form == "episode":
        return FunctionReward(
            lambda episode: one(episode.completion, episode.prompt.columns["wanted"]), name="made"
        )

    class Own(RewardSource):
        name = "made"

        def score(self, episodes: Any) -> list[float]:
            return [one(e.completion, e.prompt.columns["wanted"]) for e in episodes]

    return Own()
