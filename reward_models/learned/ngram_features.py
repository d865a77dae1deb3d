"""Text features for linear rewards: word n-grams, templates, and what the text takes from its prompt."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from text_gym.errors import DataError

from .configs import NgramConfig

_TOKEN = re.compile(r"\w+|[^\w\s]")
# `slot[value]`, `slot='value'`, `slot=value` or `slot: value`: common ways to write what a text should say.
_FIELD = re.compile(
    r"(?P<slot>\w[\w ]{0,40}?)\s{0,4}"
    r"(?:\[(?P<a>[^\]]*)\]|[=:]\s*(?:'(?P<b>[^']*)'|\"(?P<c>[^\"]*)\"|(?P<d>[^,;()\n]*)))"
)
_FROM_PROMPT, _START, _END = "<prompt>", "<s>", "</s>"


def features(prompt: str, completion: str, config: NgramConfig) -> list[Counter[str]]:
    """Count a text's features, with one counter per group.

    >>> found = features("name[Aldo], area[city]", "Aldo is cheap.", NgramConfig(groups=("fields",)))
    >>> sorted(found[0])
    ['missing 1', 'missing area', 'missing area=city', 'said', 'said name']
    """
    asked, words = _TOKEN.findall(prompt.lower()), _TOKEN.findall(completion.lower())
    groups = []
    for group in config.groups:
        if group == "words":
            groups.append(Counter(_ngrams([_START, *words, _END], config.order)))
        elif group == "template":
            known = {word for word in asked if word.isalnum()}
            groups.append(Counter(f"t {g}" for g in _ngrams(_template(words, known), config.order + 1)))
        else:
            groups.append(_fields(prompt, words))
    return groups


def _ngrams(words: Sequence[str], order: int) -> Iterator[str]:
    for n in range(1, order + 1):
        for i in range(len(words) - n + 1):
            yield " ".join(words[i : i + n])


def _template(words: Sequence[str], known: set[str]) -> list[str]:
    result = [_START]
    for word in words:
        shown = _FROM_PROMPT if word in known else word
        if shown != _FROM_PROMPT or result[-1] != _FROM_PROMPT:
            result.append(shown)
    return [*result, _END]


def _fields(prompt: str, words: Sequence[str]) -> Counter[str]:
    text, found, missing = f" {' '.join(words)} ", Counter[str](), 0
    for match in _FIELD.finditer(prompt.lower()):
        slot = " ".join(match["slot"].split())
        value = " ".join(_TOKEN.findall(match["a"] or match["b"] or match["c"] or match["d"] or ""))
        if value and f" {value} " in text:
            found.update((f"said {slot}", "said"))
        else:
            found.update((f"missing {slot}", f"missing {slot}={value}"))
            missing += 1
    found[f"missing {missing}"] += 1
    return found


def matrix(counts: Sequence[Sequence[Counter[str]]], index: dict[str, int]) -> Any:
    """Build the sparse `(n, features)` matrix, in which each of G groups has Euclidean length 1/√G."""
    from scipy.sparse import csr_array

    data: list[float] = []
    columns: list[int] = []
    starts = [0]
    for groups in counts:
        for counter in groups:
            kept = [(index[f], math.log1p(c)) for f, c in counter.items() if f in index]
            size = math.sqrt(sum(v * v for _, v in kept) * len(groups))
            columns += [i for i, _ in kept]
            data += [v / size for _, v in kept]
        starts.append(len(columns))
    return csr_array((np.array(data), columns, starts), shape=(len(counts), len(index)))


def vocabulary_of(counts: Sequence[Sequence[Counter[str]]], config: NgramConfig) -> dict[str, int]:
    """Number the features found in enough texts, by frequency and then by name."""
    seen = Counter(f for groups in counts for counter in groups for f in counter)
    kept = [f for f, c in seen.items() if c >= config.min_count]
    kept.sort(key=lambda f: (-seen[f], f))
    if not kept:
        raise DataError(
            f"no feature is in {config.min_count} texts; there are too few opinions to learn from"
        )
    return {f: i for i, f in enumerate(kept[: config.max_features])}
