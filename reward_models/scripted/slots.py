"""Slot coverage: does a text say what its meaning representation (`slot[value], slot[value], ...`) asks for?

Values are found as phrases of words; `slot_phrases.py` holds the paraphrases, as data.
Neither grammar nor fluency is judged: pair it with a KL penalty or a source that does.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, ClassVar, NamedTuple

import numpy as np

from text_gym.episode import Episode, Prompt
from text_gym.errors import ConfigError, DataError, excerpt
from text_gym.rewards.source import RewardSource
from text_gym.rewards.values import Rewards

from .slot_phrases import LIGHT_WORDS, NEGATIONS, NO, PARAPHRASES, SPELLINGS, UNFINISHED_WORDS, YES

Paraphrases = Mapping[str, Mapping[str, Sequence[str]]]
# Both only begin where a name can: a search from each character of a long text would take minutes.
_SLOT = re.compile(r"(?<![^\[\],;:\n])([^\[\],;:\n]+)(?:\n\s*)?\[([^\]]*)\]")
_NOTATION = re.compile(r"(?<!\w)\w*\s?\[[^\]]*\]?")
_WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+|[.,;:!?]")
_NOT_ASCII = re.compile(r"[^\x00-\x7f£€]")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[_\W]+")
_BREAKS = frozenset(".,;:!?")
_PLANS_KEPT = 8192


class _Meaning(NamedTuple):
    """The values a phrase expresses; a `vague` phrase can express a value but never contradict one."""

    slot: str
    value: str
    vague: bool


class _Plan(NamedTuple):
    """A parsed meaning representation: slot -> values, and phrases the lexicon lacks."""

    slots: Mapping[str, frozenset[str]]
    phrases: _Phrases | None


class SlotCoverage(RewardSource):
    """The F1 score of the slots of a meaning representation that a text expresses.

    With `n` slots asked for, `r` of them realised, `w` wrong statements and `x` redundant ones:
    recall `= r / n`, precision `= r / (r + w + x)`, and the reward is their harmonic mean, in [0, 1].

    - A slot is *realised* when a phrase for its value stands in the text and nothing contradicts it.
      Case, accents, hyphens and a leading article do not matter; `not`, `no`, `n't` before the phrase do.
    - A statement is *wrong* when it gives a slot a value of the lexicon that was not asked for: another
      area, or any area where none was asked for. Each wrong value counts once.
    - A statement is *redundant* beyond `n + max(2, n // 2)` statements in all: people repeat the name, but
      saying everything twice costs precision.
    - Text in the notation itself (`area[riverside]`) is ignored, so copying the prompt earns nothing.

    Terms: `precision`, `recall`, and `perfect` (1 when precision and recall are 1 and the text is finished:
    it ended by itself, and not on a comma or on a word like "the" or "and").

    How it is hacked: it reads phrases, not sentences, so a bare list of values is perfect (`hack`); and what
    is outside the lexicon (an invented award) costs nothing.

    Args:
        column: Prompt column that holds the meaning representation; None reads the prompt's text.
        lexicon: Slot -> values that may be mentioned wrongly; see `fit`. None takes those of the
            paraphrases, which makes precision blind to wrong names and the like.
        paraphrases: Slot -> value -> phrases, in addition to `PARAPHRASES`. `"(a|b|) c"` stands for
            "a c", "b c" and "c"; a phrase that starts with `~` is too vague to contradict. A value with
            no paraphrases is looked for literally. `priceRange`, `price_range` and `price range`
            are one slot.

    >>> from text_gym import ByteTokenizer
    >>> prompt = "name[The Eagle], area[riverside], familyFriendly[no]"
    >>> source = SlotCoverage.fit([prompt, "name[Cotto], area[city centre]"])
    >>> texts = ["The Eagle by the river is not for kids.", "Cotto is near the river."]
    >>> rewards = source([Episode.of(prompt, text, ByteTokenizer()) for text in texts])
    >>> rewards.values
    array([1. , 0.4])
    >>> rewards.terms["precision"].tolist(), rewards.terms["perfect"].tolist()
    ([1.0, 0.5], [1.0, 0.0])
    """

    name = "slots"
    hack: ClassVar[str] = "riverside cheap pub Eagle"

    def __init__(
        self,
        *,
        column: str | None = None,
        lexicon: Mapping[str, Iterable[str]] | None = None,
        paraphrases: Paraphrases | None = None,
    ) -> None:
        self.column = column
        self._table = {
            _key(slot): {k.lower(): list(v) for k, v in t.items()} for slot, t in PARAPHRASES.items()
        }
        for slot, values in (paraphrases or {}).items():
            known = self._table.setdefault(_key(slot), {})
            for value, phrases in values.items():
                if isinstance(phrases, str):
                    raise ConfigError(f"paraphrases[{slot!r}][{value!r}] is a string; pass a list of phrases")
                known[value.lower()] = [*known.get(value.lower(), [value]), *phrases]
        given: Mapping[str, Iterable[str]] = self._table if lexicon is None else lexicon
        self.lexicon = {_key(slot): frozenset(v.lower() for v in values) for slot, values in given.items()}
        self._phrases = self._index(self.lexicon)
        self._plans: dict[str, _Plan] = {}

    @classmethod
    def fit(cls, prompts: Iterable[Prompt | str], **options: Any) -> SlotCoverage:
        """Make a source whose lexicon holds every slot and value that occurs in the prompts.

        Args:
            prompts: All the prompts there are, held-out ones too (only their inputs are read).
            options: Arguments of the constructor.

        Raises:
            DataError: A prompt holds no `slot[value]`.
        """
        reader = cls(lexicon={}, column=options.get("column"))
        lexicon: dict[str, set[str]] = {}
        for prompt in prompts:
            for slot, value in reader._read(Prompt(prompt) if isinstance(prompt, str) else prompt):
                lexicon.setdefault(slot, set()).add(value)
        return cls(**{"lexicon": lexicon, **options})

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        """Compute the F1 of each episode, with the terms `precision`, `recall` and `perfect`.

        Raises:
            DataError: A prompt holds no `slot[value]`, or lacks the column; the prompt is named.
        """
        recall, precision, perfect = np.zeros((3, len(episodes)))
        for i, episode in enumerate(episodes):
            recall[i], precision[i] = self._recall_precision(self._plan(episode.prompt), episode.completion)
            whole = recall[i] == precision[i] == 1.0
            perfect[i] = whole and episode.finish_reason != "length" and is_finished(episode.completion)
        values = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        return Rewards(values, terms={"precision": precision, "recall": recall, "perfect": perfect})

    def explain(self, prompt: Prompt | str, completion: str) -> dict[str, list[tuple[str, str]]]:
        """Why a text scores as it does: each slot's `(value said, words that say it)`, for people and audits.

        >>> SlotCoverage().explain("area[riverside]", "In the city centre, by the river.")
        {'area': [('city centre', 'city centre'), ('riverside', 'by the river')]}
        """
        plan = self._plan(Prompt(prompt) if isinstance(prompt, str) else prompt)
        said: dict[str, list[tuple[str, str]]] = {}
        for quoted, meanings in self._statements(plan, completion):
            for m in meanings:
                said.setdefault(m.slot, []).append((m.value, quoted))
        return said

    def _recall_precision(self, plan: _Plan, text: str) -> tuple[float, float]:
        right: dict[str, set[str]] = {}
        wrong: set[tuple[str, str]] = set()
        statements = 0
        for _, meanings in self._statements(plan, text):
            supported = [m for m in meanings if m.value in plan.slots.get(m.slot, ())]
            for m in supported:
                right.setdefault(m.slot, set()).add(m.value)
            statements += bool(supported)
            if not supported:
                # One phrase may stand for several values ("cheap", "less than £20"): it is one mistake.
                firm = [m for m in meanings if not m.vague]
                wrong.update((m.slot, m.value) for m in firm[:1])
        contradicted = {slot for slot, _ in wrong}
        realised = sum(len(values) for slot, values in right.items() if slot not in contradicted)
        asked = sum(len(values) for values in plan.slots.values())
        redundant = max(0, statements - asked - max(2, asked // 2))
        return realised / asked, realised / max(1, realised + len(wrong) + redundant)

    def _statements(self, plan: _Plan, text: str) -> Iterator[tuple[str, list[_Meaning]]]:
        """Return the phrases found, leftmost and longest first, with what each says after negation."""
        words = _words(_NOTATION.sub(" ; ", text) if "[" in text else text)
        found: dict[tuple[int, int], list[_Meaning]] = {}
        for phrases in (self._phrases, plan.phrases):
            for start, end, meanings in phrases.find(words) if phrases else ():
                found.setdefault((start, end), []).extend(meanings)
        reach = 0
        for start, end in sorted(found, key=lambda span: (span[0], -span[1])):
            if start < reach:
                continue  # what begins inside another phrase ("Indian" in "Raja Indian Cuisine") says nothing
            reach = end
            said = [m for m in found[start, end] if m.value]
            if _negated(words, start):
                said = [m for m in map(_negation, said) if m is not None]
            if said:
                yield " ".join(words[start:end]), said

    def _plan(self, prompt: Prompt) -> _Plan:
        text = self._source_text(prompt)
        plan = self._plans.get(text)
        if plan is None:
            slots: dict[str, set[str]] = {}
            for slot, value in self._read(prompt):
                slots.setdefault(slot, set()).add(value)
            unknown = {slot: values - self.lexicon.get(slot, frozenset()) for slot, values in slots.items()}
            phrases = self._index(unknown) if any(unknown.values()) else None
            plan = _Plan({slot: frozenset(values) for slot, values in slots.items()}, phrases)
            if len(self._plans) >= _PLANS_KEPT:
                self._plans.clear()
            self._plans[text] = plan
        return plan

    def _source_text(self, prompt: Prompt) -> str:
        if self.column is None:
            return prompt.text
        if self.column not in prompt.columns:
            raise DataError(
                f"reward 'slots' reads column {self.column!r}, but prompt {excerpt(prompt.id)} has only "
                f"{', '.join(sorted(prompt.columns)) or '(none)'}"
            )
        return str(prompt.columns[self.column])

    def _read(self, prompt: Prompt) -> list[tuple[str, str]]:
        text = self._source_text(prompt)
        pairs = [(_key(slot), value.lower()) for slot, value in parse_slots(text) if value]
        if not pairs:
            raise DataError(
                f"prompt {excerpt(prompt.id)} holds no slot[value] to score against"
                + (
                    f" in column {self.column!r}"
                    if self.column
                    else ": 'slots' is for prompts such as name[Alma], food[Thai]; in Python, column= names "
                    "a column that has them"
                )
            )
        return pairs

    def _index(self, values: Mapping[str, Iterable[str]]) -> _Phrases:
        phrases = _Phrases()
        for slot, slot_values in values.items():
            wanted = set(slot_values)
            # Saying the opposite must be noticed even if no prompt asks for it.
            wanted |= {_opposite(value) for value in wanted & (YES | NO)}
            for value in sorted(wanted):
                for phrase in self._phrases_of(slot, value):
                    phrases.add(phrase, slot, value)
            for phrase in self._table.get(slot, {}).get("", ()):
                phrases.add(phrase, slot, "")
        return phrases

    def _phrases_of(self, slot: str, value: str) -> list[str]:
        table = self._table.get(slot, {})
        if value in YES | NO:
            canonical = "yes" if value in YES else "no"
            if canonical in table:
                return table[canonical]
            return [slot] if value in YES else [f"{slot} no"]
        return table.get(value, [value])


class _Phrases:
    """An index of phrases by their first word, so that a search costs only a few look-ups per word."""

    def __init__(self) -> None:
        self._meanings: dict[tuple[str, ...], list[_Meaning]] = {}
        self._lengths: dict[str, list[int]] = {}  # first word -> lengths in words, longest first

    def add(self, phrase: str, slot: str, value: str) -> None:
        vague = phrase.startswith("~")
        for text in expand(phrase.removeprefix("~")):
            words = tuple(_words(text))
            self._add(words, _Meaning(slot, value, vague))
            if words[:1] and words[0] in ("the", "a", "an"):
                self._add(words[1:], _Meaning(slot, value, True))

    def _add(self, words: tuple[str, ...], meaning: _Meaning) -> None:
        if not words:
            return
        meanings = self._meanings.setdefault(words, [])
        if meaning not in meanings:
            meanings.append(meaning)
        lengths = self._lengths.setdefault(words[0], [])
        if len(words) not in lengths:
            lengths.append(len(words))
            lengths.sort(reverse=True)

    def find(self, words: list[str]) -> Iterator[tuple[int, int, Sequence[_Meaning]]]:
        """Find the longest phrase starting at each word: `words[start:end]` and its meanings."""
        for start, word in enumerate(words):
            for length in self._lengths.get(word, ()):
                meanings = self._meanings.get(tuple(words[start : start + length]))
                if meanings is not None:
                    yield start, start + length, meanings
                    break


def parse_slots(text: str) -> list[tuple[str, str]]:
    """Parse the `(slot, value)` pairs of a meaning representation, in order.

    >>> parse_slots("name[The Eagle], customer rating[5 out of 5]")
    [('name', 'The Eagle'), ('customer rating', '5 out of 5')]
    """
    closed = text[: text.rfind("]") + 1]  # what is opened after it has no value
    return [(slot.strip(), value.strip()) for slot, value in _SLOT.findall(closed)]


def expand(phrase: str) -> list[str]:
    """Expand a phrase with alternatives in parentheses into all its readings.

    >>> expand("(kid|child) friendly")
    ['kid friendly', 'child friendly']
    """
    parts = [part.split("|") for part in re.split(r"[()]", phrase)]
    return ["".join(choice) for choice in product(*parts)]


def is_finished(text: str) -> bool:
    """Return True if a text ends where a sentence can, rather than on a comma, "the", "near" and the like.

    >>> is_finished("It is near the"), is_finished("It is near the river")
    (False, True)
    """
    words = _words(text)
    return bool(words) and words[-1] not in UNFINISHED_WORDS


def _words(text: str) -> list[str]:
    text = text.lower()
    if _NOT_ASCII.search(text):
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return [SPELLINGS.get(w, w) for w in _WORD.findall(text)]


def _negated(words: list[str], start: int) -> bool:
    for word in reversed(words[max(0, start - 6) : start]):
        if word in NEGATIONS:
            return True
        if word not in LIGHT_WORDS:
            return False
    return False


def _negation(meaning: _Meaning) -> _Meaning | None:
    """Turn a denied yes into a no; the denial of any other value says nothing that can be checked."""
    if meaning.value in YES | NO:
        return meaning._replace(value=_opposite(meaning.value))
    return None


def _opposite(value: str) -> str:
    pairs = (("yes", "no"), ("true", "false"))
    return next(b if value == a else a for a, b in pairs if value in (a, b))


def _key(slot: str) -> str:
    """Normalise a slot's name: `familyFriendly`, `family_friendly` and `Family Friendly` are one slot."""
    return " ".join(_CAMEL.split(slot)).strip().lower()
