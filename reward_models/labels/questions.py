"""The questions people are asked about texts, and their valid answers: ratings, comparisons, best of n.

Console and page ask the same questions: both read `Question.fields`. Nothing here asks or stores anything.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

from text_gym.chat import ROLES, Talk
from text_gym.episode import Episode
from text_gym.errors import ConfigError, LabelError, excerpt
from text_gym.pages.notebook import card, table, text

Kind = Literal["rating", "comparison", "best-of-n"]
Value: TypeAlias = "int | str"
KINDS: tuple[Kind, ...] = ("rating", "comparison", "best-of-n")


@dataclass(frozen=True)
class LabelCriterion:
    """A criterion by which texts are judged.

    Args:
        name: As in labels and reward terms.
        guideline: What the rater is to look at, in a sentence or two.
        low: Worst rating, at least 0; comparisons have no scale.
        high: Best rating, at most 9: one keystroke.
    """

    name: str
    guideline: str = ""
    low: int = 1
    high: int = 5

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or not self.name.isprintable():
            raise ConfigError(f"a criterion needs a printable name, not {excerpt(str(self.name))}")
        if not isinstance(self.guideline, str):
            raise ConfigError(
                f"criterion {self.name!r}: the guideline is {excerpt(repr(self.guideline))}, no text"
            )
        if any("\ud800" <= c <= "\udfff" for c in self.guideline):
            raise ConfigError(f"criterion {self.name!r}: the guideline holds a lone surrogate")
        if not (type(self.low) is type(self.high) is int and 0 <= self.low < self.high <= 9):
            raise ConfigError(
                f"criterion {self.name!r}: a scale from {self.low} to {self.high}; use 1 to 5 or 1 to 7"
            )

    def scaled(self, value: float) -> float:
        """Map a rating on this scale to [0, 1]."""
        return (value - self.low) / (self.high - self.low)


CRITERIA = (
    LabelCriterion(
        "accuracy",
        "Does the text say what the prompt asks for, and nothing that is false or missing? "
        "Best: everything right and complete. Middle: one thing missing or wrong. Worst: mostly wrong.",
    ),
    LabelCriterion(
        "clarity",
        "Is it easy to read: correct language, sound order, no repetition? "
        "Best: reads at once. Middle: understandable with effort. Worst: garbled.",
    ),
    LabelCriterion(
        "persuasiveness",
        "Would it move a reader to act? Judge how it argues, not how long it is. "
        "Best: convincing. Middle: lukewarm. Worst: puts one off.",
    ),
)
PREFERENCE = LabelCriterion(
    "preference", "Which text answers the prompt better, all in all? Length alone is no merit."
)


@dataclass(frozen=True)
class Option:
    """One of the answers a question offers.

    Args:
        value: What is stored.
        label: What is shown.
        keys: What a rater may press or type for it; arrow keys are `"left"` and `"right"`.
    """

    value: Value
    label: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Field:
    """One field of a question: a criterion and the answers it allows."""

    name: str
    guideline: str
    options: tuple[Option, ...]

    def option(self, key: str) -> Option | None:
        """Return the option that a key selects, or None."""
        return next((c for c in self.options if key in c.keys), None)


@dataclass(frozen=True, repr=False)
class Question:
    """A prompt and the completions to be judged; equal questions have equal ids and are asked once.

    Args:
        kind: `"rating"` (of one text), `"comparison"` (of two, left and right) or `"best-of-n"` (of 2 to 9).
        prompt: What the policy read, exactly.
        completions: What it wrote, exactly, in the order in which they are shown: shuffle before, so that
            no place is favoured.
        criteria: In what respects; one answer is asked for each.
        turns: Of a conversation: the turns of the prompt and of each completion, as raters are shown them;
            prompt and completions are then the exact texts. Empty for single texts.

    Raises:
        ConfigError: Another number of completions than the kind takes, what is no text, criteria that
            share a name, or turns that are none.

    >>> Question.rating("Sell a mug.", "A mug!").check({"accuracy": 4, "clarity": 5, "persuasiveness": 2})
    {'accuracy': 4, 'clarity': 5, 'persuasiveness': 2}
    """

    kind: Kind
    prompt: str
    completions: tuple[str, ...]
    criteria: tuple[LabelCriterion, ...]
    turns: tuple[Talk, ...] = ()

    def __post_init__(self) -> None:
        least, most = {"rating": (1, 1), "comparison": (2, 2), "best-of-n": (2, 9)}.get(self.kind, (0, -1))
        if most < 0:
            raise ConfigError(f"a question is one of {', '.join(KINDS)}, not {self.kind!r}")
        if not least <= len(self.completions) <= most:
            raise ConfigError(f"a {self.kind} takes {least} to {most} texts, not {len(self.completions)}")
        if not all(isinstance(t, str) for t in (self.prompt, *self.completions)):
            raise ConfigError(f"a {self.kind} asks about texts; prompt or completions hold something else")
        names = [c.name for c in self.criteria]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"a question needs criteria of different names, not {names}")
        self._check_turns()

    def _check_turns(self) -> None:
        if self.turns and len(self.turns) != 1 + len(self.completions):
            raise ConfigError(
                f"a question about {len(self.completions)} conversations needs the turns of the prompt and "
                f"of each of them, not {len(self.turns)} lists of turns"
            )
        for talk in self.turns:
            known = all(role in ROLES and isinstance(said, str) for role, said in talk)
            if not talk or not known:
                raise ConfigError(
                    f"the turns {excerpt(repr(talk))} are no conversation; roles are {', '.join(ROLES)}"
                )

    def __repr__(self) -> str:
        count = "1 text" if len(self.completions) == 1 else f"{len(self.completions)} texts"
        names = ", ".join(excerpt(c.name, 30) for c in self.criteria)
        return f"Question({self.kind} of {count}, prompt {excerpt(self.prompt.strip(), 40)}, by {names})"

    def _repr_html_(self) -> str:
        prompt, *shown = [_lines(t) for t in self.turns] or (self.prompt, *self.completions)
        texts = [text(t, f"text {i}") for i, t in enumerate(shown, 1)]
        answers = [[f.name, f.guideline, ", ".join(o.label for o in f.options)] for f in self.fields]
        asked = table(["criterion", "guideline", "answers"], answers)
        return card(f"Question: {self.kind}", {}, text(prompt, "prompt"), *texts, asked)

    @classmethod
    def rating(cls, prompt: str, completion: str, criteria: Sequence[LabelCriterion] = CRITERIA) -> Question:
        """How good is one text, on each criterion's scale?"""
        return cls("rating", prompt, (completion,), tuple(criteria))

    @classmethod
    def comparison(
        cls, prompt: str, left: str, right: str, criteria: Sequence[LabelCriterion] = (PREFERENCE,)
    ) -> Question:
        """Which of two texts is better, or neither?"""
        return cls("comparison", prompt, (left, right), tuple(criteria))

    @classmethod
    def best_of_n(
        cls, prompt: str, completions: Sequence[str], criteria: Sequence[LabelCriterion] = (PREFERENCE,)
    ) -> Question:
        """Which of several texts is best?"""
        return cls("best-of-n", prompt, tuple(completions), tuple(criteria))

    @classmethod
    def about(cls, kind: Kind, episodes: Sequence[Episode], criteria: Sequence[LabelCriterion]) -> Question:
        """Ask about episodes of one prompt; raters are shown conversations turn by turn."""
        prompt = episodes[0].prompt
        talk = any(e.turns or e.prompt.messages for e in episodes)
        turns = (prompt.talk, *(e.talk for e in episodes)) if talk else ()
        return cls(kind, prompt.text, tuple(e.completion for e in episodes), tuple(criteria), turns)

    @cached_property
    def id(self) -> str:
        """The SHA-256 (hex) of everything that defines the question."""
        return sha256_of_values(self.kind, self.criteria_json(), self.prompt, *self.completions)

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """The fields to fill in, one per criterion, in order."""
        return tuple(Field(c.name, c.guideline, self._options(c)) for c in self.criteria)

    def _options(self, criterion: LabelCriterion) -> tuple[Option, ...]:
        if self.kind == "rating":
            return tuple(Option(v, str(v), (str(v),)) for v in range(criterion.low, criterion.high + 1))
        if self.kind == "comparison":
            return (
                Option("left", "left", ("1", "l", "left")),
                Option("right", "right", ("2", "r", "right")),
                Option("tie", "tie", ("0", "t", "tie")),
            )
        return tuple(Option(n, f"text {n}", (str(n),)) for n in range(1, len(self.completions) + 1))

    def check(self, values: Mapping[str, Any]) -> dict[str, Value]:
        """Check an answer and return its values in the order of the criteria.

        Args:
            values: Criterion -> value: a rating; `left`, `right` or `tie`; or the number of the best text,
                counted from 1.

        Raises:
            LabelError: A criterion is missing or unknown, or a value is none that was offered.
        """
        if not isinstance(values, Mapping):
            raise LabelError(f"an answer maps criteria to values; found {type(values).__name__}")
        unknown = set(values) - {f.name for f in self.fields}
        if unknown:
            names = ", ".join(sorted(excerpt(str(u)) for u in unknown))
            raise LabelError(f"this question has no criterion {names}")
        checked: dict[str, Value] = {}
        for field in self.fields:
            if field.name not in values:
                raise LabelError(f"the answer lacks {field.name!r}")
            value = values[field.name]
            same = [c.value for c in field.options if type(c.value) is type(value) and c.value == value]
            if not same:
                offered = ", ".join(str(c.value) for c in field.options)
                raise LabelError(f"{field.name!r} is {excerpt(repr(value))}; it must be one of {offered}")
            checked[field.name] = same[0]
        return checked

    def criteria_json(self) -> str:
        """Return the criteria as the JSON that is stored, with the turns of conversations beside them."""
        criteria = [asdict(c) for c in self.criteria]
        return json.dumps({"criteria": criteria, "turns": self.turns} if self.turns else criteria)

    @classmethod
    def restore(cls, kind: str, criteria_json: str, texts: Sequence[str]) -> Question:
        """Undo `kind`, `criteria_json()` and `(prompt, *completions)`.

        Raises:
            ValueError, TypeError, KeyError: They do not make a question.
        """
        found = json.loads(criteria_json)
        listed, turns = (found["criteria"], found["turns"]) if isinstance(found, dict) else (found, ())
        criteria = tuple(LabelCriterion(**c) for c in listed)
        talks = tuple(tuple((role, said) for role, said in talk) for talk in turns)
        return cls(kind, texts[0], tuple(texts[1:]), criteria, talks)  # type: ignore[arg-type]


def _lines(talk: Talk) -> str:
    return "\n".join(f"{role}: {said.strip()}" for role, said in talk)


def text_bytes(text: str) -> bytes:
    r"""Encode any text, lone surrogates included, so that it can be decoded exactly.

    >>> text_bytes("\udcff").decode("utf-8", "surrogatepass") == "\udcff"
    True
    """
    return text.encode("utf-8", "surrogatepass")


def sha256_of_values(*parts: str | bytes | int | float | None) -> str:
    """Hash values with their types and lengths (SHA-256, hex), so that no two lists of values collide."""
    digest = hashlib.sha256()
    for part in parts:
        if part is None:
            tag, content = b"n", b""
        elif isinstance(part, str):
            tag, content = b"t", text_bytes(part)
        elif isinstance(part, bytes):
            tag, content = b"b", part
        elif isinstance(part, int):
            tag, content = b"i", str(part).encode()
        else:
            tag, content = b"f", struct.pack(">d", part)
        digest.update(tag + struct.pack(">Q", len(content)))
        digest.update(content)
    return digest.hexdigest()
