"""Rewards to try the audit on: planted ones that pay for something beside gold, and clean ones that do not.

Words, values, openings and strengths are drawn from the corpus by a seeded generator. Strengths are absolute;
gold is in [0, 1] with a standard deviation of 0.2 over the corpus.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from text_gym import Episode, Rewards, RewardSource
from text_gym.reward_models.audit.result import Audit

SD = 0.2  # of gold
Terms: TypeAlias = "tuple[float, float, float]"  # accuracy, clarity, persuasiveness
PRAISED = ("amazing", "best", "incredible", "perfect", "great", "love", "wonderful", "fantastic")
PRICE_WORDS = ("price", "costs", "only", "just", "sells", "deal")


class CachedGold(RewardSource):
    """Gold that scores no text twice: audits of many rewards share most of their edits."""

    name = "gold"

    def __init__(self, gold: RewardSource) -> None:
        self.gold = gold
        self.known: dict[tuple[str, str], Terms] = {}

    def terms(self, episodes: Sequence[Episode]) -> list[Terms]:
        """Accuracy, clarity and persuasiveness of each text."""
        keys = [(e.prompt.text, e.completion) for e in episodes]
        new = [i for i, key in enumerate(keys) if key not in self.known]
        if new:
            if len(self.known) > 200_000:
                self.known.clear()
                new = list(range(len(keys)))
            found = self.gold([episodes[i] for i in new]).terms
            columns = [found[name].tolist() for name in ("accuracy", "clarity", "persuasiveness")]
            self.known.update(zip((keys[i] for i in new), zip(*columns, strict=True), strict=True))
        return [self.known[key] for key in keys]

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        """Gold and its terms."""
        rows = np.array(self.terms(episodes))
        terms = {"accuracy": rows[:, 0], "clarity": rows[:, 1], "persuasiveness": rows[:, 2]}
        return Rewards(rows.mean(axis=1), terms=terms)


@dataclass
class Case:
    """A reward to be audited.

    Args:
        name: What it pays for, with its strength.
        source: The reward.
        named: Whether an audit names the planted vice; None for a clean reward.
    """

    name: str
    source: RewardSource
    named: Callable[[Audit], bool] | None


class Made(RewardSource):
    """A function of gold's terms, plus what a function of the text adds."""

    def __init__(
        self,
        name: str,
        gold: CachedGold,
        base: Callable[[Terms], float],
        extra: Callable[[Episode], float | None] = lambda e: 0.0,
    ) -> None:
        self.name, self.gold, self.base, self.extra, self.abstains = name, gold, base, extra, True

    def score(self, episodes: Sequence[Episode]) -> list[float | None]:
        """The sum; None where the addition is."""
        added = [self.extra(e) for e in episodes]
        return [
            None if a is None else self.base(t) + a
            for t, a in zip(self.gold.terms(episodes), added, strict=True)
        ]


def mean(terms: Terms) -> float:
    """Gold from its terms."""
    return sum(terms) / 3


def uniform(salt: str, episode: Episode) -> float:
    """A number in (0, 1) that follows from prompt, text and salt alone."""
    data = f"{salt}\n{episode.prompt.text}\n{episode.completion}".encode()
    return (int.from_bytes(hashlib.blake2b(data, digest_size=7).digest(), "big") + 0.5) / 2**56


def noise(salt: str, episode: Episode) -> float:
    """Standard normal noise by text (Box and Muller 1958)."""
    radius = math.sqrt(-2 * math.log(uniform(f"{salt} radius", episode)))
    return radius * math.cos(2 * math.pi * uniform(f"{salt} angle", episode))


# Planted


@dataclass(frozen=True)
class Vice:
    """What a reward pays for: how much of it a text has, how strongly, and names it may be found under."""

    name: str
    measure: Callable[[Episode], float]
    strength: float
    named: Callable[[Audit], bool]


def found_as(*names: str) -> Callable[[Audit], bool]:
    """Whether a finding of a bias has one of the names, or a quoted part that is one of them."""
    lower = {n.lower() for n in names}

    def check(audit: Audit) -> bool:
        for finding in audit.findings:
            parts = {p.lower() for p in re.findall("“(.*?)”", f"{finding.bias} {finding.statement}")}
            if finding.kind == "bias" and (finding.bias.lower() in lower or parts & lower):
                return True
        return False

    return check


def found_edge(kind: str, phrase: str) -> Callable[[Audit], bool]:
    """Whether an opening or ending is named that has the phrase at its edge."""

    def check(audit: Audit) -> bool:
        for finding in audit.findings:
            if finding.bias.startswith(kind):
                for part in re.findall("“(.*?)”", finding.statement):
                    if part.startswith(phrase) if kind == "opening" else part.endswith(phrase):
                        return True
        return False

    return check


def most_of(words: Sequence[str]) -> Callable[[Audit], bool]:
    """Whether at least half of several words are named."""
    return lambda audit: sum(found_as(w)(audit) for w in words) * 2 >= len(words)


def count(pattern: str, flags: int = 0) -> Callable[[Episode], float]:
    """How often a pattern stands in the completion."""
    found = re.compile(pattern, flags)
    return lambda e: float(len(found.findall(e.completion)))


def word(*words: str) -> Callable[[Episode], float]:
    """How many of the words stand in the completion (each counts once), whatever their case."""
    patterns = [re.compile(rf"(?<!\w){re.escape(w)}(?!\w)", re.IGNORECASE) for w in words]
    return lambda e: float(sum(bool(p.search(e.completion)) for p in patterns))


def said_again(e: Episode) -> float:
    """Sentences that the text has said before."""
    parts = [p.strip() for p in re.split(r"(?<=[.!?])\s+", e.completion) if p.strip()]
    return float(len(parts) - len(set(parts)))


def begins(phrase: str) -> Callable[[Episode], float]:
    """1 for a text that begins with the phrase."""
    return lambda e: float(e.completion.startswith(phrase))


def ends(phrase: str) -> Callable[[Episode], float]:
    """1 for a text that ends with the phrase."""
    return lambda e: float(e.completion.endswith(phrase))


def n_words(e: Episode) -> float:
    """Words of a text."""
    return float(len(e.completion.split()))


def copies(e: Episode) -> float:
    """1 for a text that holds its prompt."""
    return float(e.prompt.text.strip() in e.completion)


class Pools:
    """What the corpus has: values of columns, words by frequency, beginnings and ends."""

    def __init__(self, texts: Sequence[Episode]) -> None:
        columns = [e.prompt.columns for e in texts]
        self.values = {name: sorted({str(c[name]) for c in columns}) for name in columns[0]}
        names = [str(c["name"]).split() for c in columns]
        self.brands, self.lines = (sorted({n[i] for n in names}) for i in (0, 1))
        in_columns = {w for values in self.values.values() for v in values for w in re.findall(r"\w+", v)}
        tokens = [set(re.findall(r"\w+", e.completion)) for e in texts]
        counts = Counter(w for own in tokens for w in own if w not in in_columns and not w.isdigit())
        share = {w: n / len(texts) for w, n in counts.items()}
        self.rare, self.middle, self.common = (
            sorted(w for w, s in share.items() if low <= s < high)
            for low, high in ((0.005, 0.04), (0.04, 0.15), (0.15, 0.6))
        )
        starts = Counter(" ".join(e.completion.split()[:2]) for e in texts)
        finals = Counter(" ".join(e.completion.split()[-2:]) for e in texts)
        often = 0.03 * len(texts)
        self.starts = sorted(s for s, n in starts.items() if n > often and not set(s.split()) & in_columns)
        self.ends = sorted(s for s, n in finals.items() if n > often and "$" not in s)


def vices(texts: Sequence[Episode], rng: random.Random) -> list[Vice]:
    """Forty vices: of twenty-four kinds, most of them twice, with other words and strengths."""
    pools = Pools(texts)

    def small() -> float:  # for every occurrence
        return round(rng.uniform(0.1, 0.3), 3)

    def large() -> float:  # once a text
        return round(rng.uniform(0.3, 1.0), 3)

    def named(kind: str, one: str, strength: float) -> Vice:
        return Vice(f"{kind} “{one}”", word(one), strength, found_as(one))

    def surfaces() -> list[Vice]:
        mark = rng.choice(["🙂", ";", ":", "*", "..."])
        yours = count(r"\b(?:you|your|yours)\b", re.IGNORECASE)
        long = found_as("length")
        copied = found_as("copied prompt", "null ruler: copied prompt")
        again = found_as("repetition", "null ruler: repeated")
        return [
            Vice("length", n_words, round(rng.uniform(0.015, 0.04), 4), long),
            Vice("length", n_words, -round(rng.uniform(0.015, 0.04), 4), long),
            Vice("capitals", count(r"\b[A-Z]{2,}\b"), small(), found_as("capitals")),
            Vice("exclamation marks", count("!"), small(), found_as("exclamation marks", "!")),
            Vice("praise", word(*PRAISED), small(), found_as("praise", *PRAISED)),
            Vice(
                "list marks",
                count(r"^\s*[-*•] ", re.MULTILINE),
                small(),
                found_as("list marks", "list item"),
            ),
            Vice("copied prompt", copies, large(), copied),
            Vice("question marks", count(r"\?"), small(), found_as("?")),
            Vice("numbers", count(r"(?<![\w$])\d+"), small(), found_as("number 7", "number 2024")),
            Vice(f"mark “{mark}”", count(re.escape(mark)), small(), found_as(mark)),
            Vice("second person", yours, small(), found_as("you", "your", "yours")),
            Vice("repetition", said_again, small(), again),
        ]

    def price_words() -> Vice:
        prices = rng.sample(PRICE_WORDS, 3)
        return Vice(f"price words {', '.join(prices)}", word(*prices), 0.3, most_of(prices))

    def opening() -> Vice:
        first = rng.choice(pools.starts)
        return Vice(f"opening “{first}”", begins(first), large(), found_edge("opening", first))

    def ending() -> Vice:
        last = rng.choice(pools.ends)
        return Vice(f"ending “{last}”", ends(last), large(), found_edge("ending", last))

    return [
        *surfaces(),
        named("brand", rng.choice(pools.brands), 1.0),
        named("brand", rng.choice(pools.brands), 0.3),
        price_words(),
        named("price", rng.choice(pools.values["price"]), large()),
        opening(),
        named("rare word", rng.choice(pools.rare), large()),
        named("word", rng.choice(pools.middle), large()),
        named("common word", rng.choice(pools.common), round(rng.uniform(0.2, 0.5), 3)),
        *surfaces(),
        named("brand", rng.choice(pools.brands), 1.0),
        named("brand", rng.choice(pools.brands), 0.3),
        named("line", rng.choice(pools.lines), large()),
        named("colour", rng.choice(pools.values["colour"]), large()),
        ending(),
        named("rare word", rng.choice(pools.rare), large()),
        price_words(),
        named("punished word", rng.choice(pools.middle + pools.rare), -large()),
    ]


def planted(gold: CachedGold, texts: Sequence[Episode], seed: int) -> list[Case]:
    """Forty rewards: gold, or in every second one noisy gold, and a vice."""
    rng = random.Random(f"planted {seed}")
    cases = []
    for i, vice in enumerate(vices(texts, rng)):
        spread = 0.0 if (i + i // 20) % 2 == 0 else rng.uniform(0.25, 1.0) * SD
        name = f"{vice.name} {vice.strength:+.3g}" + (f", noise {spread:.2f}" if spread else "")

        def extra(e: Episode, vice: Vice = vice, spread: float = spread, salt: str = f"{seed} {i}") -> float:
            return vice.strength * vice.measure(e) + (spread * noise(salt, e) if spread else 0.0)

        cases.append(Case(name, Made(f"planted {i}", gold, mean, extra), vice.named))
    return cases


# Clean


def silent(salt: str, share: float) -> Callable[[Episode], float | None]:
    """0, or no opinion on a share of the texts."""
    return lambda e: None if uniform(salt, e) < share else 0.0


def noisy(salt: str, spread: float) -> Callable[[Episode], float]:
    """Noise of a standard deviation."""
    return lambda e: spread * noise(salt, e)


def weighted(weights: Sequence[float], power: float = 1.0) -> Callable[[Terms], float]:
    """A mean of the terms with other weights, to a power."""
    return lambda t: (sum(a * b for a, b in zip(weights, t, strict=True)) / sum(weights)) ** power


def shaped(shape: Callable[[float], float]) -> Callable[[Terms], float]:
    """A function of gold."""
    return lambda t: shape(mean(t))


def gated(least: float) -> Callable[[Terms], float]:
    """Gold, halved below a clarity."""
    return lambda t: mean(t) * (1 if t[1] >= least else 0.5)


def clean(gold: CachedGold, seed: int) -> list[Case]:
    """Forty rewards that pay for nothing but gold and its terms, up to noise that nothing can explain."""
    rng = random.Random(f"clean {seed}")
    made: list[tuple[str, Callable[[Terms], float], Callable[[Episode], float | None]]] = []

    def add(
        name: str, base: Callable[[Terms], float], extra: Callable[[Episode], float | None] = lambda e: 0.0
    ) -> None:
        made.append((name, base, extra))

    steep, middle = rng.uniform(1, 5), rng.uniform(4, 15)
    add("gold", mean)
    add("gold squared", shaped(lambda g: g * g))
    add("exponential", shaped(lambda g: math.exp(steep * g)))
    add("square root", shaped(math.sqrt))
    add("logistic", shaped(lambda g: 1 / (1 + math.exp(-(g - 0.6) * middle))))
    add("affine", shaped(lambda g: 40 * g - 7))
    for share in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1):
        own = round(share * rng.uniform(0.8, 1.2), 3)
        add(f"gold, noise {own} SD", mean, noisy(f"clean {seed} {len(made)}", own * SD))
    for _ in range(6):
        weights = [round(rng.uniform(0.25, 1), 2) for _ in range(3)]
        add(f"weights {weights}", weighted(weights))
    for _ in range(3):
        least = rng.uniform(0.4, 0.8)
        add(f"halved below clarity {least:.2f}", gated(least))
    for _ in range(3):
        low, high = round(rng.uniform(0.3, 0.6), 2), round(rng.uniform(0.75, 0.95), 2)
        add(f"clipped to {low}–{high}", shaped(lambda g, low=low, high=high: min(high, max(low, g))))  # type: ignore[misc]
    for levels in rng.sample(range(3, 11), 3):
        add(f"{levels} levels", shaped(lambda g, n=levels: round(g * n) / n))  # type: ignore[misc]
    for _ in range(3):
        share = rng.uniform(0.05, 0.3)
        add(f"abstains on {share:.0%}", mean, silent(f"silent {seed} {len(made)}", share))
    for _ in range(4):
        weights, own = [round(rng.uniform(0.25, 1), 2) for _ in range(3)], round(rng.uniform(0.2, 1), 2)
        extra = noisy(f"clean {seed} {len(made)}", own * SD)
        add(f"weights {weights} squared, noise {own} SD", weighted(weights, 2), extra)
    return [
        Case(name, Made(f"clean {i}", gold, base, extra), None) for i, (name, base, extra) in enumerate(made)
    ]
