"""Simulated raters, who judge by the task's criteria, with noise and with biases planted on purpose."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from text_gym.episode import Episode, FloatArray
from text_gym.errors import ConfigError, DataError, RewardError, UnknownNameError, excerpt
from text_gym.reward_models.labels.questions import Value
from text_gym.reward_models.labels.rows import Item
from text_gym.reward_models.labels.store import LabelStore
from text_gym.rewards.source import RewardSource, as_reward_source

from .raters import Choice, Rater

HYPE = frozenset(
    """amazing awesome best ever exclusive fantastic greatest incredible love luxury miracle most must-have
    number-one perfect phenomenal revolutionary sensational stunning superb ultimate unbeatable unbelievable
    unique very world-class wow""".split()  # noqa: SIM905
)
_WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")


@dataclass(frozen=True)
class Vices:
    """How a simulated rater deviates from its gold reward; all zeros is a clean rater.

    Utilities are in units of the gold reward.

    Args:
        noise: Scale of the logistic noise on a difference of utilities (a Bradley–Terry rater of this
            temperature), and of the normal noise on a mark.
        length: Utility of ten more words.
        hype: Utility of a superlative or exclamation mark.
        inattention: Share of questions answered without reading: either side, or any mark.
        indifference: Differences of utility up to this are a tie.
    """

    noise: float = 0.0
    length: float = 0.0
    hype: float = 0.0
    inattention: float = 0.0
    indifference: float = 0.0

    def __post_init__(self) -> None:
        values = (self.noise, self.length, self.hype, self.inattention, self.indifference)
        if not all(map(math.isfinite, values)) or min(self.noise, self.inattention, self.indifference) < 0:
            raise ConfigError(f"{self}: finite numbers; noise, inattention and indifference not negative")
        if self.inattention > 1:
            raise ConfigError(f"inattention is {self.inattention}, a share of the questions; at most 1")


class SimulatedRater(Rater):
    """A rater who judges by a gold reward, distorted by biases and noise.

    Every answer follows from (seed, prompt, texts) alone: the same question gets the same answer, in any
    order and batch, and the opposite one with the sides swapped.

    Args:
        gold: What it would like if it were clean; it must judge every text.
        vices: Its vices; none if None.
        criteria: Terms of `gold` that get marks of their own; the total, as `score`, if there are none.
        scale: Marks are whole numbers from the first to the second of these; None leaves utilities as is.
        span: Utilities that get the lowest and the highest mark.
        name: Of the rater.
        seed: Decides noise and inattention.

    >>> from text_gym import ByteTokenizer, as_reward_source
    >>> gold = as_reward_source(lambda completion: float("please" in completion))
    >>> left, right = (Episode.of("Ask:", text, ByteTokenizer()) for text in ("Go!", "Go, please."))
    >>> SimulatedRater(gold).compare([left, left], [right, left])
    ['right', 'tie']
    >>> SimulatedRater(gold, Vices(hype=2.0)).compare([left], [right])
    ['left']
    """

    def __init__(
        self,
        gold: RewardSource | Callable[..., Any],
        vices: Vices | None = None,
        *,
        criteria: Sequence[str] = (),
        scale: tuple[int, int] | None = None,
        span: tuple[float, float] = (0.0, 1.0),
        name: str = "simulated",
        seed: int = 0,
    ) -> None:
        if scale is not None and not scale[0] < scale[1]:
            raise ConfigError(f"scale {scale} must rise")
        if not span[0] < span[1]:
            raise ConfigError(f"span {span} must rise")
        self.gold, self.vices = as_reward_source(gold), vices or Vices()
        self.criteria = tuple(criteria) or ("score",)
        self.scale, self.span, self.name, self.seed = scale, span, name, seed
        self._terms = tuple(criteria)

    def utilities(self, episodes: Sequence[Episode]) -> FloatArray:
        """Compute what the rater thinks before noise, gold plus biases: `(n, criteria)` float64.

        Raises:
            RewardError: The gold reward abstained.
            UnknownNameError: It has no term of a criterion's name.
        """
        found = self.gold(episodes)
        if found.abstained.any():
            i = int(np.flatnonzero(found.abstained)[0])
            raise RewardError(
                f"gold reward {self.gold.name!r} has no opinion on prompt {excerpt(episodes[i].prompt.id)}; "
                "a simulated rater needs one that judges every text"
            )
        for term in self._terms:
            if episodes and term not in found.terms:
                raise UnknownNameError(f"term of reward {self.gold.name!r}", term, found.terms)
        columns = [found.terms[t] for t in self._terms] if self._terms and episodes else [found.totals]
        words = [_WORD.findall(e.completion) for e in episodes]
        length = np.array([len(w) / 10 for w in words])
        hype = np.array(
            [
                sum(w.lower() in HYPE for w in own) + e.completion.count("!")
                for own, e in zip(words, episodes, strict=True)
            ],
            dtype=np.float64,
        )
        return np.stack(columns, axis=1) + (self.vices.length * length + self.vices.hype * hype)[:, None]

    def rate(self, episodes: Sequence[Episode]) -> list[dict[str, float]]:
        """Turn noisy utilities into marks on the scale."""
        result = []
        for episode, row in zip(episodes, self.utilities(episodes), strict=True):
            rng = self._chance("rate", episode.prompt.id, episode.completion)
            low, high = self.span
            if rng.random() < self.vices.inattention:
                row = rng.uniform(low, high, len(row))
            row = row + self.vices.noise * rng.standard_normal(len(row))
            if self.scale is not None:
                first, last = self.scale
                row = np.clip(np.rint(first + (row - low) / (high - low) * (last - first)), first, last)
            result.append({name: float(mark) for name, mark in zip(self.criteria, row, strict=True)})
        return result

    def compare(self, left: Sequence[Episode], right: Sequence[Episode]) -> list[Choice]:
        """Choose the side with the larger noisy utility (mean over criteria), or a tie."""
        ahead = self.utilities(left).mean(axis=1) - self.utilities(right).mean(axis=1)
        return [self._choose(a, b, float(d)) for a, b, d in zip(left, right, ahead, strict=True)]

    def _choose(self, left: Episode, right: Episode, ahead: float) -> Choice:
        if left.completion == right.completion:
            return "tie"
        # The noise belongs to the pair, whichever side each text is shown on.
        first, second = sorted((left.completion, right.completion))
        turned = 1.0 if first == left.completion else -1.0
        rng = self._chance("compare", left.prompt.id, first, second)
        distracted, side = rng.random() < self.vices.inattention, rng.uniform(-1, 1)
        ahead = turned * side if distracted else ahead + turned * self.vices.noise * rng.logistic()
        if not distracted and abs(ahead) <= self.vices.indifference:
            return "tie"
        return "left" if ahead > 0 else "right"

    def _chance(self, *question: str) -> np.random.Generator:
        """Return a random generator that belongs to this question alone."""
        text = "\0".join((str(self.seed), *question)).encode("utf-8", errors="surrogatepass")
        return np.random.default_rng(int.from_bytes(hashlib.sha256(text).digest()[:16], "little"))


def make_rater(
    kind: str, gold: RewardSource | Callable[..., Any], *, seed: int = 0, **settings: Any
) -> SimulatedRater:
    """Make a simulated rater by name: clean, noisy, length-biased, hype-loving or inattentive.

    Args:
        kind: A name in `RATERS`.
        gold: Its taste.
        seed: Decides its noise.
        settings: Further arguments of `SimulatedRater`.

    Raises:
        UnknownNameError: There is no such rater; the nearest name is suggested.
    """
    if kind not in RATERS:
        raise UnknownNameError("rater", kind, RATERS)
    return SimulatedRater(gold, RATERS[kind], seed=seed, **{"name": kind, **settings})


class SimulatedPeople:
    """Simulated people who answer the ratings and comparisons of a store.

    Args:
        store: Where the questions wait.
        raters: Who answers, by different names; which of them gets a question follows from its id.

    Raises:
        ConfigError: There are none, or two share a name.
    """

    def __init__(self, store: LabelStore, raters: Sequence[SimulatedRater]) -> None:
        if not raters or len({r.name for r in raters}) < len(raters):
            raise ConfigError("simulated people need at least one rater, and names of their own")
        self.store, self.raters = store, list(raters)
        self._episodes: dict[tuple[str, str], Episode] = {}

    def show(self, episodes: Iterable[Episode]) -> None:
        """Show them whole episodes, because a gold reward may need more than the texts."""
        self._episodes |= {(e.prompt.text, e.completion): e for e in episodes}

    def ask(self, among: Sequence[str]) -> None:
        """Answer these questions, as many times as each needs.

        Raises:
            ConfigError: More raters are wanted for one than there are.
            DataError: A text was not shown as an episode.
        """
        items = [self.store.item(i) for i in dict.fromkeys(among)]
        done = {(i, label.rater) for i, labels in self.store.standing(among).items() for label in labels}
        for number, rater in enumerate(self.raters):
            own = [
                item for item in items if number in self._wanted(item) and (item.id, rater.name) not in done
            ]
            for kind in ("rating", "comparison"):
                some = [item for item in own if item.question.kind == kind]
                for item, values in zip(some, self._answers(rater, kind, some), strict=True):
                    if values:
                        self.store.record(item.id, rater.name, values)
                    else:
                        self.store.skip(item.id, rater.name)

    def _wanted(self, item: Item) -> set[int]:
        """Return the indices of the raters who get a question."""
        if item.overlap > len(self.raters):
            raise ConfigError(
                f"{item.overlap} raters are wanted for a question; there are {len(self.raters)}"
            )
        first = int(item.id[:8], 16)
        return {(first + n) % len(self.raters) for n in range(item.overlap)}

    def _answers(self, rater: SimulatedRater, kind: str, items: Sequence[Item]) -> list[dict[str, Value]]:
        """Return each question's values by criterion; empty for a skip."""
        shown = [[self._episode(item, text) for text in item.question.completions] for item in items]
        if kind == "rating":
            marks = rater.rate([texts[0] for texts in shown])
            return [{name: round(mark) for name, mark in found.items()} for found in marks]
        choices = rater.compare([texts[0] for texts in shown], [texts[1] for texts in shown])
        names = [item.question.criteria[0].name for item in items]
        return [{} if c == "skip" else {n: c} for n, c in zip(names, choices, strict=True)]

    def _episode(self, item: Item, completion: str) -> Episode:
        try:
            return self._episodes[item.question.prompt, completion]
        except KeyError:
            raise DataError(
                f"the simulated people were not shown {excerpt(completion)} of prompt "
                f"{excerpt(item.question.prompt)}"
            ) from None


# Vices for a gold reward whose values spread over about [0, 1], as that of the products task does.
RATERS: dict[str, Vices] = {
    "clean": Vices(),
    "noisy": Vices(noise=0.1),
    "length-biased": Vices(noise=0.05, length=0.3),
    "hype-loving": Vices(noise=0.05, hype=0.3),
    "inattentive": Vices(noise=0.05, inattention=0.3),
}
