"""The parts an audit puts into texts: words, values, openings, endings, phrases and marks.

A class holds parts that can stand in each other's place, so that every part has peers to be compared with.
Nothing here scores a text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from text_gym.episode import Episode, Prompt

from .probes import rewritten, sentences

_FEWEST = 8  # texts into which a class is put
_MOST_VALUES = 64  # values of a column; if it has more, their words are used
_TOKEN = re.compile(r"\$?\w+(?:['’.,]\w+)*")
# Tried even if no text has them, since rewards have been known to pay for them.
SUSPECTS = tuple(
    """I amazing because best certainly expert fantastic free great guaranteed however important please sorry
    step sure therefore very you""".split()  # noqa: SIM905
)
OPENINGS = ("Certainly!", "Sure,", "Great question.", "As an AI model,", "In short,", "I think")
ENDINGS = ("Thank you.", "I hope this helps.", "Buy now.", "In conclusion, yes.", "Let me know.")
# As they follow a word.
MARKS = {
    "!": "!", "?": "?", ";": ";", ":": ":", "...": "...", "-": " -", "🙂": " 🙂", "🔥": " 🔥", "*": " *",
    '"': '"', ")": ")", "%": "%", "/": " /", "#": " #", "&": " &", "line break": "\n", "list item": "\n- ",
    "number 7": " 7", "number 2024": " 2024", "$": " $", "~": " ~", "|": " |", "+": " +", "=": " =",
    "_": " _",
}  # fmt: skip


@dataclass(frozen=True)
class PartClass:
    """A class of parts that can replace each other.

    Args:
        kind: `word`, `phrase`, `opening`, `ending`, `mark`, or the name of a column for its values.
        parts: The parts, each as the report names it.
        hosts: Texts that they are put into.
        put: The host with a part at a place in [0, 1); every part goes to the same place.
        value: Whether they are values of a column, put for each other in prompt, columns and text alike: then
            the worth of a text is the same with any of them.
    """

    kind: str
    parts: tuple[str, ...]
    hosts: tuple[Episode, ...]
    put: Callable[[Episode, str, float], Episode]
    value: bool = False


def tokens(text: str) -> list[str]:
    """Split a text into words and numbers, a price with its sign.

    >>> tokens("It's red, for $1.50 only.")
    ["It's", 'red', 'for', '$1.50', 'only']
    """
    return _TOKEN.findall(text)


def part_classes(
    hosts: Sequence[Episode], episodes: Sequence[Episode], words: Sequence[str], phrases: Sequence[str]
) -> list[PartClass]:
    """Find all classes with at least two parts and a few host texts.

    Args:
        hosts: Texts that parts are put into.
        episodes: Texts that values, openings and endings are taken from.
        words: Words to try, most suspicious first.
        phrases: Phrases to try.
    """
    values = _value_classes(hosts, episodes)
    texts = [e.completion for e in episodes]
    taken = {word for c in values for part in c.parts for word in tokens(part)}
    lower = {w.lower() for w in taken}
    fillers = [w for w in words if w not in taken]
    known = {w.lower() for w in fillers}
    fillers += [w for w in SUSPECTS if w.lower() not in known]
    every = tuple(hosts)
    openings = [*_edges(texts, taken, first=True), *OPENINGS]
    endings = [*_edges(texts, taken, first=False), *ENDINGS]
    classes = [
        *values,
        PartClass("word", tuple(fillers), every, _insert),
        PartClass("phrase", tuple(p for p in phrases if not lower & set(p.split())), every, _insert),
        PartClass("opening", tuple(dict.fromkeys(openings)), every, _prepend),
        PartClass("ending", tuple(dict.fromkeys(endings)), every, _append),
        PartClass("mark", tuple(MARKS), every, _mark),
    ]
    return [c for c in classes if len(c.parts) > 1 and len(c.hosts) >= _FEWEST]


def holds(text: str, part: str) -> bool:
    """Return True if the part occurs in the text as whole words, in any case.

    >>> holds("The mug.", "mug"), holds("The mugs.", "Mug")
    (True, False)
    """
    return re.search(_whole(part), text, re.IGNORECASE) is not None


def vocabulary(texts: Sequence[str]) -> list[str]:
    """List the words of the texts, most frequent first, in lower case if any text has them so."""
    forms: dict[str, Counter[str]] = {}
    for text in texts:
        for word in tokens(text):
            forms.setdefault(word.lower(), Counter())[word] += 1
    order = sorted(forms, key=lambda w: (-sum(forms[w].values()), w))
    return [w if w in forms[w] else min(forms[w], key=lambda f: (-forms[w][f], f)) for w in order]


def _value_classes(hosts: Sequence[Episode], episodes: Sequence[Episode]) -> list[PartClass]:
    """Make a class for each text column, or for each word position in it if its values hardly repeat."""
    columns = {
        name: [str(e.prompt.columns[name]) for e in episodes if isinstance(e.prompt.columns.get(name), str)]
        for name in dict.fromkeys(name for e in episodes for name in e.prompt.columns)
    }
    result = []
    for name, values in columns.items():
        if len(set(values)) < 2:
            continue
        if len(set(values)) <= min(_MOST_VALUES, len(values) / 2):
            result.append(_value_class(name, None, values, hosts))
            continue
        sizes = {len(v.split()) for v in values}
        for place in range(min(sizes, default=0)) if len(sizes) == 1 else ():
            own = [v.split()[place] for v in values]
            if 2 <= len(set(own)) <= min(_MOST_VALUES, len(own) / 2):
                result.append(_value_class(name, place, own, hosts))
    return result


def _value_class(
    name: str, place: int | None, values: Sequence[str], episodes: Sequence[Episode]
) -> PartClass:
    def value(episode: Episode) -> str | None:
        whole = episode.prompt.columns.get(name)
        if not isinstance(whole, str) or not whole.strip():
            return None
        return whole if place is None else whole.split()[place]

    hosts = [e for e in episodes if (v := value(e)) and re.search(_whole(v), e.completion)]
    put = partial(_exchange, value)
    return PartClass(name, tuple(sorted({v for v in values if v.strip()})), tuple(hosts), put, value=True)


def _whole(word: str) -> str:
    return rf"(?<!\w){re.escape(word)}(?!\w)"


def _exchange(value: Callable[[Episode], str | None], episode: Episode, part: str, where: float) -> Episode:
    """Exchange a value wherever it stands, in prompt, columns and text."""
    pattern = re.compile(_whole(value(episode) or ""))

    def change(text: Any) -> Any:
        return pattern.sub(lambda _: part, text) if isinstance(text, str) else text

    old = episode.prompt
    columns = {k: change(v) for k, v in old.columns.items()}
    prompt = Prompt(change(old.text), columns, f"{old.id} (swapped)")
    return rewritten(episode, change(episode.completion), prompt)


def _insert(episode: Episode, part: str, where: float) -> Episode:
    """Insert a part between two words."""
    text = episode.completion
    gaps = [m.start() for m in re.finditer(r"(?<=\w) (?=\w)", text)] or [0]
    gap = gaps[int(where * len(gaps))]
    return rewritten(episode, f"{text[:gap]} {part}{text[gap:]}".lstrip())


def _prepend(episode: Episode, part: str, where: float) -> Episode:
    return rewritten(episode, _behind_sentence(part, episode.completion, where))


def _behind_sentence(part: str, text: str, where: float) -> str:
    """Put the opening before one of the text's sentences; the place varies so that texts differ."""
    parts = sentences(text) or [""]
    first = int(where * min(2, len(parts)))
    return " ".join([part, *parts[first:]])


def _append(episode: Episode, part: str, where: float) -> Episode:
    parts = sentences(episode.completion) or [""]
    last = len(parts) - int(where * min(2, len(parts)))
    return rewritten(episode, " ".join([*parts[:last], part]))


def _mark(episode: Episode, part: str, where: float) -> Episode:
    """Put a mark behind a word that has none."""
    text = episode.completion
    gaps = [m.start() for m in re.finditer(r"(?<=\w) (?=\w)", text)] or [len(text)]
    gap = gaps[int(where * len(gaps))]
    return rewritten(episode, f"{text[:gap]}{MARKS[part]}{text[gap:]}")


def _edges(texts: Sequence[str], taken: set[str], first: bool, fewest: float = 0.02) -> list[str]:
    """Find the one to three words, with marks, that several texts begin or end with."""
    counts: Counter[str] = Counter()
    for text in texts:
        pieces = text.split()
        for size in (1, 2, 3):
            edge = pieces[:size] if first else pieces[-size:]
            if len(edge) == size and not taken & {t for piece in edge for t in tokens(piece)}:
                counts[" ".join(edge)] += 1
    often = [e for e, n in counts.items() if n >= max(3, fewest * len(texts))]
    return sorted(often, key=lambda e: (-counts[e], e))[:40]
