"""Measures of texts that need no reward: length, pairs of tokens, and what they share with good texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from text_gym.episode import Episode, FloatArray

Pair = tuple[int, int]
MEASURES = ("length", "repetition", "copying", "novelty", "sameness", "cut")


def measure_texts(episodes: Sequence[Episode], seen: Mapping[Pair, int], least: int) -> dict[str, FloatArray]:
    """Measure texts by what needs no reward: `(n,)` float64 each.

    Args:
        episodes: `n` texts of one policy.
        seen: Pair of neighbouring tokens -> in how many of the starting texts it stands.
        least: In how many a pair has to stand to be no news: 1, and 2 for one of those texts themselves.

    Returns:
        `length`, tokens; `repetition`, the share of a text's pairs that stood in it before; `copying`, the
        share of its pairs that stand in its prompt; `novelty`, the share that no starting text has;
        `sameness`, 1 if another prompt got the same text; `cut`, 1 if the token limit cut it.
    """
    prompts_of: dict[bytes, set[str]] = {}
    for e in episodes:
        prompts_of.setdefault(e.agent_ids.tobytes(), set()).add(e.prompt.text)
    rows = []
    for e in episodes:
        pairs, asked = pairs_of(e), set(pairwise(e.prompt_ids.tolist()))
        count = max(1, len(pairs))
        rows.append(
            {
                "length": len(e.agent_ids),
                "repetition": (len(pairs) - len(set(pairs))) / count,
                "copying": sum(pair in asked for pair in pairs) / count,
                "novelty": sum(seen.get(pair, 0) < least for pair in pairs) / count,
                "sameness": len(prompts_of[e.agent_ids.tobytes()]) > 1,
                "cut": e.finish_reason == "length",
            }
        )
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in MEASURES}


def pairs_of(episode: Episode) -> list[Pair]:
    """Return the pairs of neighbouring tokens that the agent wrote."""
    return list(pairwise(episode.agent_ids.tolist()))


def overlap(mine: list[int], wanted: list[int]) -> float:
    """Return the F1 of single ids and of pairs of neighbours that two texts share, the mean of both.

    >>> overlap([1, 2, 3], [1, 2, 3]), overlap([1], [2])
    (1.0, 0.0)
    """
    found = []
    for n in (1, 2):
        a, b = (Counter(zip(*(ids[i:] for i in range(n)), strict=False)) for ids in (mine, wanted))
        if a and b:
            found.append(2 * sum((a & b).values()) / (sum(a.values()) + sum(b.values())))
        elif n == 1:
            found.append(float(a == b))
    return float(np.mean(found))
