"""Chooses the texts of an audit, scores them, and describes them for the report."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from text_gym.episode import Episode, FloatArray
from text_gym.errors import RewardError
from text_gym.reward_models.judge.endpoint import EndpointError
from text_gym.rewards.source import RewardSource

from .attribution import named_values
from .probes import rewritten

# Episodes -> scores `(n,)`, NaN where there is none; -> gold and its terms `(n, k)`, None if unknown.
Score: TypeAlias = "Callable[[Sequence[Episode]], FloatArray]"
Golds: TypeAlias = "Callable[[Sequence[Episode]], FloatArray | None]"


def chosen(episodes: Sequence[Episode], count: int, seed: int) -> list[Episode]:
    """Choose texts in random order, one of each prompt before a second of any."""
    order = sorted(range(len(episodes)), key=lambda i: (episodes[i].prompt.text, episodes[i].completion))
    random.Random(f"audit {seed}").shuffle(order)
    seen: dict[str, int] = {}
    turn = {}
    for i in order:
        prompt = episodes[i].prompt.text
        turn[i] = seen[prompt] = seen.get(prompt, -1) + 1
    order.sort(key=lambda i: turn[i])  # stable
    # Scored as finished, since an edited text has no ids at which it could be cut.
    return [rewritten(episodes[i], episodes[i].completion) for i in order[:count]]


def scores(source: RewardSource, episodes: Sequence[Episode]) -> FloatArray:
    """Score made-up texts, `(n,)`, NaN where the source abstains or refuses (as too long, say)."""
    return scores_and_terms(source, episodes, ())[:, 0]


def scores_and_terms(source: RewardSource, episodes: Sequence[Episode], terms: Sequence[str]) -> FloatArray:
    """Score made-up texts with the terms asked for, `(n, 1 + k)`; rows are NaN where the source refuses.

    Args:
        source: The source.
        episodes: The texts.
        terms: Names of `k` terms.
    """
    try:
        found = named_values(source(episodes))
    except EndpointError:  # a judge's budget or key, so there is no point in going on
        raise
    except RewardError:
        if len(episodes) == 1:
            return np.full((1, 1 + len(terms)), np.nan)
        half = len(episodes) // 2
        parts = (episodes[:half], episodes[half:])
        return np.concatenate([scores_and_terms(source, part, terms) for part in parts])
    return np.stack([found[name] for name in ("reward", *terms)], axis=1)


def unit(scores: FloatArray) -> float:
    """Return the standard deviation, or 1 if all values are equal."""
    return float(scores.std()) or 1.0


def by_text(episodes: Sequence[Episode], values: FloatArray) -> FloatArray:
    """Average the values over equal texts, one mean per text."""
    groups: dict[str, list[float]] = {}
    for episode, value in zip(episodes, values.tolist(), strict=True):
        groups.setdefault(episode.completion, []).append(value)
    return np.array([np.mean(group) for group in groups.values()])


def beaten(scores: FloatArray, real: FloatArray) -> FloatArray:
    """Return the share of real scores each score beats, `(n,)`; ties count half, NaN stays NaN."""
    ordered = np.sort(real)
    below, up_to = (np.searchsorted(ordered, scores, side=side) for side in ("left", "right"))
    return np.where(np.isnan(scores), np.nan, (below + up_to) / (2 * len(real)))


def difference(before: str, after: str) -> str:
    """Show the first stretch in which two texts differ, as `old → new`."""
    a, b = before.split(), after.split()
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    end, shorter = 0, min(len(a), len(b))
    while end < shorter - start and a[-1 - end] == b[-1 - end]:
        end += 1
    old, new = (" ".join(words[start : len(words) - end]) for words in (a, b))
    return f"{old[:60]} → {new[:60]}"
