"""Finds what went wrong with a design's texts, by rules over the final texts' measures and samples.

The rules see symptoms, not meaning: a text can be wrong in ways that none of them knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from .measures import said_twice
from .results import CellResult
from .runs import mean_known

ENDS, SHORT, LONG, REPEATED, COPIED, ALIKE, FELL = 0.8, 0.7, 1.3, 0.2, 0.5, 0.6, 0.05
RISE = 0.1  # a share this close to that of the start is no symptom
PROMPTS = 4  # shown per run, plus others with symptoms that these lack
_PHRASE = 12  # words of a repeated phrase that are quoted
_SENTENCE = 40  # words without an end of sentence


class Trouble(NamedTuple):
    """A symptom in the texts and its evidence."""

    name: str
    evidence: str


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


RULES = {
    "never ends": f"fewer than {_percent(ENDS)} of the texts end by themselves",
    "says too little": f"texts have fewer than {SHORT:g} times the words of the start",
    "grows long": f"texts have more than {LONG:g} times the words of the start",
    "repeats itself": f"in at least {_percent(REPEATED)} of the texts a phrase of four words stands twice, "
    "and in more than at the start (where rows lack the column “repetitive”: as large a share of a sample's "
    "three-word sequences came before in it)",
    "copies the prompt": f"at least {_percent(COPIED)} of the four-word sequences of a sample stand in its "
    "prompt, and more than at the start",
    "says the same to all": f"at least {_percent(ALIKE)} of the four-word sequences of a sample stand in "
    "that of another prompt, and more than at the start",
    "lost its sentences": f"most samples repeat a word at once or go on for {_SENTENCE} words without an "
    "end of sentence, and more than at the start",
    "a criterion fell": f"a term of gold is at least {FELL:g} lower than at the start",
}


def troubles(cells: Sequence[CellResult]) -> list[Trouble]:
    """Return the symptoms of one setting's runs, in the order of `RULES`."""
    return [*_of_measures(cells), *_of_samples(cells), *_of_criteria(cells)]


def worst_run(cells: Sequence[CellResult]) -> CellResult:
    """Return the run that ended with the least gold."""
    return min(cells, key=lambda c: c["gold"] if np.isfinite(c["gold"]) else np.inf)


def telling(cell: CellResult) -> list[int]:
    """Choose a run's samples to show: the first ones, and others with symptoms these lack."""
    chosen = list(range(min(PROMPTS, len(cell.samples))))
    seen = {name for i in chosen for name in _seen(cell.samples[i])}
    for i in range(len(chosen), len(cell.samples)):
        if own := set(_seen(cell.samples[i])) - seen:
            chosen.append(i)
            seen |= own
    return chosen


def example(cells: Sequence[CellResult]) -> tuple[str, list[str]]:
    """Return a final text of the worst run and its symptoms; one with symptoms if there is one."""
    samples = worst_run(cells).samples
    ends = [(str(t["text"]), _seen(s)) for s in samples for t in s["texts"] if t["when"] == "end"]
    return max(ends, key=lambda end: bool(end[1]), default=("", []))


def _seen(sample: Mapping[str, Any]) -> list[str]:
    """Return the symptoms a single final text shows."""
    prompt = str(sample["prompt"])
    texts = [t for t in sample["texts"] if t["when"] == "end"]
    rules: list[tuple[str, Callable[[Mapping[str, Any]], bool]]] = [
        ("never ends", lambda t: not t.get("terminated", True)),
        ("repeats itself", lambda t: bool(said_twice(t["text"]))),
        ("copies the prompt", lambda t: shared(_words(t["text"]), _words(prompt)) >= COPIED),
        ("lost its sentences", lambda t: broken(t["text"])),
    ]
    return [name for name, rule in rules if any(rule(t) for t in texts)]


def repeated(words: Sequence[str]) -> float:
    """Return the share of word trigrams that occurred before in the text.

    >>> repeated("to be or to be or to be".split())  # 6 sequences, 3 of them new
    0.5
    """
    found = _sequences(words, 3)
    return 1 - len(set(found)) / len(found) if found else 0.0


def shared(words: Sequence[str], other: Sequence[str]) -> float:
    """Return the share of a text's four-word sequences that occur in another text.

    >>> shared("a b c d e".split(), "x a b c d".split())
    0.5
    """
    found, there = _sequences(words, 4), set(_sequences(other, 4))
    return float(np.mean([s in there for s in found])) if found else 0.0


def broken(text: str) -> bool:
    """Return True for an immediately repeated word or a long run of words without an end of sentence.

    >>> [broken(t) for t in ("A mug. A fine mug!", "you you you", "and so on " * 20)]
    [False, True, True]
    """
    words = _words(text)
    twice = any(a == b for a, b in pairwise(words))
    return twice or any(len(part.split()) > _SENTENCE for part in re.split(r"[.!?]", text))


def _of_measures(cells: Sequence[CellResult]) -> list[Trouble]:
    found = []
    ended, words = mean_known([c["terminated"] for c in cells]), mean_known([c["length"] for c in cells])
    start = mean_known([c["length_start"] for c in cells])
    if ended < ENDS:
        found.append(Trouble("never ends", f"{_percent(ended)} of the texts end by themselves"))
    if words < SHORT * start:
        found.append(Trouble("says too little", f"{words:.0f} words, {start:.0f} at the start"))
    if words > LONG * start:
        found.append(Trouble("grows long", f"{words:.0f} words, {start:.0f} at the start"))
    twice, before = (mean_known([c[k] for c in cells]) for k in ("repetitive", "repetitive_start"))
    if twice >= REPEATED and twice > before + RISE:
        found.append(
            Trouble(
                "repeats itself",
                f"{_percent(twice)} of the texts say a phrase of four words twice, {_percent(before)} at the "
                f"start{_phrase(cells)}",
            )
        )
    return found


def _phrase(cells: Sequence[CellResult]) -> str:
    """Return the longest phrase that a sample says twice, as an example."""
    phrases = [said_twice(text) for _, text in _texts(cells, "end")]
    words = max(phrases, key=len, default="").split()
    ending = " …" if len(words) > _PHRASE else ""
    return f"; e.g. “{' '.join(words[:_PHRASE])}{ending}”" if words else ""


def _of_samples(cells: Sequence[CellResult]) -> list[Trouble]:
    first, last = _texts(cells, "start"), _texts(cells, "end")
    if not last:
        return []
    rules: list[tuple[str, float, Callable[[list[tuple[str, str]]], float], str]] = [
        ("copies the prompt", COPIED, _copying, "{} of four-word sequences stand in the prompt"),
        ("says the same to all", ALIKE, _likeness, "{} of four-word sequences stand in another sample"),
        ("lost its sentences", 0.5, _breaking, "{} of the samples"),
    ]
    if not np.isfinite([c["repetitive"] for c in cells]).any():  # rows older than this column
        evidence = "{} of three-word sequences came before"
        rules = [("repeats itself", REPEATED, _repetition, evidence), *rules]
    found = []
    for name, least, measure, evidence in rules:
        share = measure(last)
        if share >= least and share > measure(first) + RISE:
            found.append(Trouble(name, evidence.format(_percent(share))))
    return found


def _of_criteria(cells: Sequence[CellResult]) -> list[Trouble]:
    """List the columns `gold_X` that have a `gold_X_start`."""
    found = []
    for column in cells[0].row:
        if not column.startswith("gold_") or f"{column}_start" not in cells[0].row:
            continue
        before = mean_known([c[f"{column}_start"] for c in cells])
        after = mean_known([c[column] for c in cells])
        if after <= before - FELL:
            name = column.removeprefix("gold_")
            found.append(Trouble("a criterion fell", f"{name} from {before:.2f} to {after:.2f}"))
    return found


def _texts(cells: Sequence[CellResult], when: str) -> list[tuple[str, str]]:
    """Return the prompts and texts of all runs."""
    return [
        (str(s["prompt"]), str(t["text"]))
        for c in cells
        for s in c.samples
        for t in s["texts"]
        if t["when"] == when
    ]


def _repetition(texts: list[tuple[str, str]]) -> float:
    return _mean([repeated(_words(t)) for _, t in texts])


def _copying(texts: list[tuple[str, str]]) -> float:
    return _mean([shared(_words(t), _words(p)) for p, t in texts])


def _likeness(texts: list[tuple[str, str]]) -> float:
    """Compare a text with the most similar text of another prompt."""
    words = [(p, _words(t)) for p, t in texts]
    likest: list[float] = []
    for prompt, own in words:
        others = [shared(own, other) for q, other in words if q != prompt]
        likest += [max(others)] if others else []
    return _mean(likest)


def _breaking(texts: list[tuple[str, str]]) -> float:
    return _mean([float(broken(t)) for _, t in texts])


def _mean(values: Sequence[Any]) -> float:
    return float(np.mean(values)) if values else 0.0


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:['’]\w+)*", text.lower())


def _sequences(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
