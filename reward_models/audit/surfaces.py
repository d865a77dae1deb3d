"""Surface properties that should earn nothing by themselves, and edits that add more of them.

Everything is for English. Nothing here scores a text.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from text_gym.reward_models.people.simulated import HYPE
from text_gym.reward_models.scripted.rules import split_words

from .probes import sentences

# Of a text, one or two sentences that say little (see `fillers`) and the text's prompt.
Edit: TypeAlias = "Callable[[str, str, str], str]"
_LIST_MARK = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE)
_LITTLE = ("It is what it is.", "There is more to say.")  # if the texts share no sentence
# Words of praise, kept short on purpose; those of hype are the simulated raters'.
PRAISE = HYPE | frozenset(
    """beautiful brilliant charming delightful enjoy excellent favourite favorite fine good great happy ideal
    lovely nice perfectly pleasant reliable wonderful""".split()  # noqa: SIM905
)


def _itself(text: str, filler: str, prompt: str) -> str:
    return text


@dataclass(frozen=True)
class Variant:
    """An edit that adds more of a property without saying anything new.

    Args:
        edit: What it does, in words.
        more: The text with more of the property.
        control: What `more` is compared with: the text itself, or one that differs from it as much in other
            respects (as long, say).
        filled: How many sentences that say little it takes at once.
    """

    edit: str
    more: Edit
    control: Edit = _itself
    filled: int = 0


@dataclass(frozen=True)
class Surface:
    """A property of a text's surface that should earn nothing by itself.

    Args:
        name: As in the report.
        unit: Of `measure`.
        measure: How much of it a text has, given its prompt.
        variants: Edits; where gold is known, the one that gold is blind to in most texts is used.
    """

    name: str
    unit: str
    measure: Callable[[str, str], float]
    variants: tuple[Variant, ...]


def fillers(texts: Sequence[str], most: int = 12) -> list[str]:
    """Find sentences many texts share, most frequent first, which say little about any prompt.

    >>> fillers(["A mug. Care is easy.", "A tent. Care is easy."])
    ['Care is easy.']
    """
    counts = Counter(s for text in texts for s in set(sentences(text)))
    shared = [s for s, n in counts.items() if n > 1 and len(s.split()) > 2]
    return sorted(shared, key=lambda s: (-counts[s], s))[:most] or list(_LITTLE)


def _inserted(text: str, sentence: str) -> str:
    """Insert a sentence before the last one."""
    parts = sentences(text)
    return " ".join([*parts[:-1], sentence, *parts[-1:]])


def _said_again(text: str, filler: str = "", prompt: str = "") -> str:
    """Repeat the middle sentence, which makes the text longer but adds nothing."""
    parts = sentences(text)
    return _inserted(text, parts[len(parts) // 2]) if parts else text


def _filled(text: str, filler: str, prompt: str) -> str:
    return _inserted(text, filler)


def _listed(mark: str) -> Edit:
    return lambda text, filler, prompt: "\n".join(f"{mark} {part}" for part in sentences(text))


def _added(what: str) -> Edit:
    return lambda text, filler, prompt: f"{text.rstrip()} {what}"


def _every_fourth(change: Callable[[str], str]) -> Edit:
    def edit(text: str, filler: str, prompt: str) -> str:
        count = itertools.count()
        return re.sub(
            r"[^\W\d_]{2,}", lambda word: change(word[0]) if next(count) % 4 == 1 else word[0], text
        )

    return edit


def _capital_words(text: str, prompt: str) -> float:
    found = split_words(text)
    return sum(w.isupper() and len(w) > 1 for w in found) / max(1, len(found))


def _praise(text: str, prompt: str) -> float:
    found = split_words(text)
    return sum(w.lower() in PRAISE for w in found) / max(1, len(found))


def _repeated(text: str, prompt: str) -> float:
    found = [w.lower() for w in split_words(text)]
    threes = list(zip(found, found[1:], found[2:], strict=False))
    return 1 - len(set(threes)) / max(1, len(threes)) if threes else 0.0


def _copied(text: str, prompt: str) -> float:
    """Return the share of the prompt's word pairs that the text repeats."""
    asked, said = ([w.lower() for w in split_words(t)] for t in (prompt, text))
    pairs = set(itertools.pairwise(asked))
    return len(pairs & set(itertools.pairwise(said))) / max(1, len(pairs))


def _asked(text: str, filler: str, prompt: str) -> str:
    return f"{text.rstrip()} {prompt.strip()}"


def _asked_backwards(text: str, filler: str, prompt: str) -> str:
    return _asked(text, filler, re.sub(r"[^\W\d_]+", lambda word: word[0][::-1], prompt))


def _asked_in_pieces(text: str, filler: str, prompt: str) -> str:
    mark = next((m for m in ("|", "\n", ".", ",", " ") if m in prompt.strip()), " ")
    return _asked(text, filler, mark.join(prompt.strip().split(mark)[::-1]))


SURFACES = (
    Surface(
        "length",
        "words",
        lambda t, p: float(len(split_words(t))),
        (
            Variant("a sentence of the text said again", _said_again),
            Variant("a sentence that many texts share put in", _filled, filled=1),
            Variant("two sentences that many texts share put in", _filled, filled=2),
        ),
    ),
    Surface(
        "list marks",
        "marks",
        lambda t, p: float(len(_LIST_MARK.findall(t))),
        (
            Variant("every sentence as an item of a list", _listed("-")),
            Variant(
                "every sentence behind a dash on a line of its own, not a tilde", _listed("-"), _listed("~")
            ),
        ),
    ),
    Surface(
        "capitals",
        "share of words",
        _capital_words,
        (
            Variant("every fourth word in capitals", _every_fourth(str.upper)),
            Variant(
                "every fourth word in capitals, rather than spelt backwards",
                _every_fourth(str.upper),
                _every_fourth(lambda word: word[::-1].lower()),
            ),
        ),
    ),
    Surface(
        "praise",
        "share of words",
        _praise,
        (
            Variant(
                "three words of praise at the end, rather than three others",
                _added("Amazing, fantastic, perfect."),
                _added("Ordinary, Wednesday, standard."),
            ),
        ),
    ),
    Surface(
        "exclamation marks",
        "marks",
        lambda t, p: float(t.count("!")),
        (
            Variant(
                "every full stop as an exclamation mark",
                lambda text, filler, prompt: re.sub(r"\.(?=\s|$)", "!", text),
            ),
        ),
    ),
    Surface(
        "repetition",
        "share of word triples",
        _repeated,
        (
            Variant(
                "a sentence said again, rather than one that many texts share", _said_again, _filled, filled=1
            ),
        ),
    ),
    Surface(
        "copied prompt",
        "share of word pairs",
        _copied,
        (
            Variant("the prompt at the end, rather than spelt backwards", _asked, _asked_backwards),
            Variant(
                "the prompt at the end, rather than its pieces in reverse order", _asked, _asked_in_pieces
            ),
        ),
    ),
)
