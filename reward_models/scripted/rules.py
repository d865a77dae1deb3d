"""Scripted rewards: rules that need no model, each with its formula, its range and how it gets hacked.

`hack` is a bad text that the rule likes; the tests hold every rule to it. No rule here knows whether a text
is true or pleasant: compose several, and watch the one that you do not optimise.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from text_gym.episode import Episode
from text_gym.errors import ConfigError, DataError, excerpt
from text_gym.rewards.source import Composite, RewardSource
from text_gym.rewards.transforms import LengthUnit, lengths
from text_gym.rewards.values import OnBadReward, Rewards, known, nested

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


class TextRule(RewardSource):
    """A rule that judges one text at a time; subclasses write `measure`.

    Attributes:
        hack: A bad text that scores high.
    """

    hack: ClassVar[str]

    @abstractmethod
    def measure(self, episode: Episode) -> Mapping[str, float]:
        """Return the terms of one episode, with the reward itself first."""

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        """Return the first term as the reward and the others as terms."""
        rows = [self.measure(episode) for episode in episodes]
        first, *others = rows[0]
        terms = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in others}
        return Rewards(np.array([row[first] for row in rows], dtype=np.float64), terms=terms)


class Length(RewardSource):
    """1 for a length `n` in `[low, high]`, else `n / low` below and `max(0, 2 - n / high)` above; in [0, 1].

    Term: `length`. How it is hacked: any words will do.

    Args:
        low: Shortest length that is right.
        high: Longest length that is right; twice as much is worth 0.
        unit: `"words"`, `"tokens"` or `"characters"`.
    """

    name = "length"
    hack: ClassVar[str] = "the " * 30

    def __init__(self, low: float = 10, high: float = 40, unit: LengthUnit = "words") -> None:
        if not 0 <= low <= high or high <= 0 or unit not in ("words", "tokens", "characters"):
            raise ConfigError(
                f"Length needs 0 <= low <= high, unit words, tokens or characters, not {low}, {high}, {unit}"
            )
        self.low, self.high, self.unit = low, high, unit

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        """Score the length by a trapezoid."""
        n = lengths(episodes, self.unit)
        below = n / self.low if self.low else np.ones(len(n))
        values = np.clip(np.minimum(below, 2 - n / self.high), 0, 1)
        return Rewards(values, terms={"length": n})


class Format(TextRule):
    r"""1 if the text matches a regular expression, else 0.

    How it is hacked: the form without the content. Patterns with nested repeats can take exponential time on
    adversarial text: wrap the source in `Timeout`.

    Args:
        pattern: The expression; `re.DOTALL` is set, white space around the text is ignored.
        whole: The whole text must match, not a part of it.

    >>> from text_gym import ByteTokenizer
    >>> source = Format(r"<answer>.*</answer>")
    >>> source([Episode.of("2+2=", text, ByteTokenizer()) for text in ("4", "<answer>4</answer>")]).values
    array([0., 1.])
    """

    name = "format"
    hack: ClassVar[str] = "<answer></answer>"

    def __init__(self, pattern: str = r"<answer>.*</answer>", *, whole: bool = True) -> None:
        try:
            self.pattern = re.compile(pattern, re.DOTALL)
        except re.error as error:
            raise ConfigError(f"Format: {pattern!r} is not a regular expression: {error}") from error
        self.whole = whole

    def measure(self, episode: Episode) -> Mapping[str, float]:
        """Return 1 for a match, else 0."""
        text = episode.completion.strip()
        match = self.pattern.fullmatch(text) if self.whole else self.pattern.search(text)
        return {"value": float(match is not None)}


class Keywords(TextRule):
    """Share of the required words in the text, minus the share of the forbidden ones; in [-1, 1].

    Each counts once, however often it comes, as a whole word (or phrase) in any case.
    Terms: `required` and `forbidden`, the two shares. How it is hacked: by the bare list of words.

    Args:
        required: Words the text should have.
        forbidden: Words it should not have.
        column: Prompt column with further required words (a list, or one string split at commas).
    """

    name = "keywords"
    hack: ClassVar[str] = "price quality you"

    def __init__(
        self, required: Iterable[str] = (), forbidden: Iterable[str] = (), column: str | None = None
    ) -> None:
        if isinstance(required, str) or isinstance(forbidden, str):
            raise ConfigError("Keywords takes lists of words, not one string")
        self.required, self.forbidden, self.column = tuple(required), tuple(forbidden), column
        if not (self.required or self.forbidden or column):
            raise ConfigError("Keywords needs required or forbidden words, or a column that holds them")

    def measure(self, episode: Episode) -> Mapping[str, float]:
        """Return both shares and their difference."""
        required = self.required
        if self.column is not None:
            more = column_of(episode, self.column, self.name)
            required += tuple(w.strip() for w in more.split(",")) if isinstance(more, str) else tuple(more)
        found, bad = (
            self._share(required, episode.completion),
            self._share(self.forbidden, episode.completion),
        )
        return {"value": found - bad, "required": found, "forbidden": bad}

    @staticmethod
    def _share(words: Sequence[str], text: str) -> float:
        text = text.casefold()
        hits = sum(re.search(rf"(?<!\w){re.escape(w.casefold())}(?!\w)", text) is not None for w in words)
        return hits / len(words) if words else 0.0


class Repetition(TextRule):
    """Minus the share of word n-grams that occurred before in the text; in (-1, 0].

    How it is hacked: by synonyms, by change of a word in n, and by texts shorter than n words.

    Args:
        n: Words in an n-gram.
    """

    name = "repetition"
    hack: ClassVar[str] = "Buy now. Purchase now. Order now. Get it now. Take it now. Acquire it today."

    def __init__(self, n: int = 3) -> None:
        self.n = positive("n", n)

    def measure(self, episode: Episode) -> Mapping[str, float]:
        """Compare word n-grams regardless of case and punctuation."""
        found = split_words(episode.completion.casefold())
        grams = [tuple(found[i : i + self.n]) for i in range(len(found) - self.n + 1)]
        return {"value": -(len(grams) - len(set(grams))) / len(grams) if grams else 0.0}


class TokenRepetition(RewardSource):
    """`-penalty` on every token that completes an n-gram of tokens seen before in the completion; per token.

    Causal: the reward of a token depends on those before it alone, so an environment can pay it at once.
    Tokens that the environment wrote cost nothing, but count as seen. Term: `repeated`, the number of tokens
    punished. How it is hacked: by any gibberish that never repeats itself.

    Args:
        n: Tokens in an n-gram.
        penalty: What a repeated token costs, >= 0.
    """

    name = "token_repetition"
    causal = True
    hack: ClassVar[str] = "Quartz mold by jug, vexing wisp of thatch."

    def __init__(self, n: int = 4, penalty: float = 0.1) -> None:
        self.n, self.penalty = positive("n", n), penalty
        if not 0 <= penalty < np.inf:
            raise ConfigError(f"TokenRepetition needs a finite penalty >= 0, not {penalty}")

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        """Pay everything per token; `values` are 0."""
        masks = [self._repeated(episode) for episode in episodes]
        repeated = np.array([mask.sum() for mask in masks], dtype=np.float64)
        per_token = tuple(-self.penalty * mask for mask in masks)
        return Rewards(np.zeros(len(episodes)), per_token, {"repeated": repeated})

    def _repeated(self, episode: Episode) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        ids = episode.completion_ids.tolist()
        mask = np.zeros(len(ids))
        seen: set[tuple[int, ...]] = set()
        for end in range(self.n, len(ids) + 1):
            gram = tuple(ids[end - self.n : end])
            mask[end - 1] = gram in seen and (episode.agent_mask is None or episode.agent_mask[end - 1])
            seen.add(gram)
        return mask


class Readability(TextRule):
    """Flesch reading ease over 100, clipped to [0, 1]: short words in short sentences.

    `206.835 - 1.015 · words / sentences - 84.6 · syllables / words` (Flesch 1948). A sentence ends at `.`,
    `!` or `?`. A word has as many syllables as groups of the letters aeiouy, less one for a final silent e
    ("-le" after a consonant is not silent), and at least one: a rule of thumb, for English only.
    Term: `flesch`, unclipped. An empty text is worth 0. How it is hacked: by babble in words of one syllable.
    """

    name = "readability"
    hack: ClassVar[str] = "It is so. We do it. Go to it. He is me."

    def measure(self, episode: Episode) -> Mapping[str, float]:
        """Compute the Flesch reading ease."""
        found = split_words(episode.completion)
        if not found:
            return {"value": 0.0, "flesch": 0.0}
        sentences = sum(1 for part in re.split(r"[.!?]+", episode.completion) if split_words(part))
        per_word = sum(map(syllables, found)) / len(found)
        flesch = 206.835 - 1.015 * len(found) / sentences - 84.6 * per_word
        return {"value": min(max(flesch / 100, 0.0), 1.0), "flesch": flesch}


class Rubric(Composite):
    """Weighted mean of criteria, `Σ weight · clip(score, 0, 1) / Σ weight`; in [0, 1].

    A criterion that abstains is left out of the mean; the rubric abstains where all do. Terms: each
    criterion's clipped score under its name, its own terms under `name/term`. How it is hacked: by way of the
    cheapest criterion, so keep no weight on what nobody wants for itself.

    Args:
        criteria: Name -> `(source or function, weight)`, or a source alone for weight 1; weights > 0.

    >>> from text_gym import ByteTokenizer
    >>> rubric = Rubric({"polite": (Keywords(["please"]), 3), "brief": Length(1, 5)})
    >>> rubric([Episode.of("Ask:", "Give me that at once or I shall go", ByteTokenizer())]).values
    array([0.05])
    """

    name = "rubric"

    def __init__(
        self,
        criteria: Mapping[
            str, RewardSource | Callable[..., Any] | tuple[RewardSource | Callable[..., Any], float]
        ],
    ) -> None:
        pairs = {name: c if isinstance(c, tuple) else (c, 1.0) for name, c in criteria.items()}
        super().__init__({name: source for name, (source, _) in pairs.items()}, "rubric")
        self.causal = False
        self.weights = {name: float(weight) for name, (_, weight) in pairs.items()}
        if not all(0 < w < np.inf for w in self.weights.values()):
            raise ConfigError(f"Rubric needs finite weights > 0, not {self.weights}")

    def evaluate(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """Average the criteria that did not abstain."""
        total, weight_sum = np.zeros((2, len(episodes)))
        terms: dict[str, Any] = {}
        for name, source in self.parts.items():
            rewards = source(episodes, on_bad_reward)
            scores = np.clip(rewards.totals, 0, 1)
            weights = self.weights[name] * ~rewards.abstained
            total, weight_sum = total + weights * scores, weight_sum + weights
            terms |= nested(name, rewards) | {name: known(rewards, scores)}
        values = np.divide(total, weight_sum, out=np.zeros(len(episodes)), where=weight_sum > 0)
        return Rewards(values, terms=terms, abstained=weight_sum == 0)

    def label(self) -> str:
        """The criteria with their weights."""
        weights = ", ".join(f"{name} {weight:g}" for name, weight in self.weights.items())
        return f"rubric: weighted mean ({weights})"


def split_words(text: str) -> list[str]:
    """Split a text into words: runs of letters and digits, with apostrophes inside."""
    return _WORD.findall(text)


def syllables(word: str) -> int:
    """Count the syllables of an English word by the rule stated in `Readability`.

    >>> [syllables(word) for word in ("make", "table", "beautiful", "the", "rhythm")]
    [1, 2, 3, 1, 1]
    """
    word = word.lower()
    count = len(re.findall(r"[aeiouy]+", word))
    if re.search(r"[^aeiouy]e$", word) and not re.search(r"[^aeiouy]le$", word):
        count -= 1
    return max(count, 1)


def column_of(episode: Episode, column: str, reward: str) -> Any:
    """Return the value of a prompt's column.

    Raises:
        DataError: The prompt has no such column; the columns that it has are named.
    """
    columns = episode.prompt.columns
    if column not in columns:
        raise DataError(
            f"reward {reward!r} reads column {column!r}, but prompt {excerpt(episode.prompt.id)} has only "
            f"{', '.join(sorted(columns)) or '(none)'}"
        )
    return columns[column]


def positive(name: str, value: int) -> int:
    """Check that an option is a whole number of at least 1, or raise `ConfigError`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be a whole number >= 1, not {value!r}")
    return value
