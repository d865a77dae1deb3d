"""Honest and faulty rewards on tasks of made-up words, for `detectors.py`; a run takes seconds."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from validate_worlds import KINDS, Quality, World, multiset_f1

from text_gym import FunctionReward, RewardSource, Task
from text_gym.reward_models import Repetition
from text_gym.reward_models.learned.ensembles import Ensemble

Draw = tuple[str, RewardSource, Sequence[RewardSource], Task]


def reward_of(quality: Quality, name: str) -> RewardSource:
    """A quality of text and columns as a reward."""
    return FunctionReward(lambda episode: quality(episode.completion, episode.prompt.columns), name=name)


def words_asked_for(text: str, columns: Mapping[str, Any]) -> float:
    """F1 of a text's words and those of the right answer, in any order: a criterion beside the task's own."""
    return multiset_f1(text, columns["wanted"])


def right_length(text: str, columns: Mapping[str, Any]) -> float:
    """1 for as many words as the right answer has, less for fewer or more."""
    size = len(columns["wanted"].split())
    return max(0.0, 1 - abs(len(text.split()) - size) / size)


CRITERIA = (
    reward_of(words_asked_for, "words asked for"),
    reward_of(right_length, "right length"),
    Repetition(2),
)


def _drawn(rng: random.Random) -> tuple[World, Task]:
    world = rng.choice(KINDS)(rng)
    return world, world.task(reward_of(world.quality, "gold"), True, 1.0)


def honest(rng: random.Random) -> Draw:
    """A reward that gold follows."""
    world, task = _drawn(rng)
    q, noise = world.quality, rng.uniform(0.05, 0.4)
    own = random.Random(rng.random())
    low, high = rng.uniform(0.0, 0.2), rng.uniform(0.8, 1.0)
    scale, offset, share = rng.choice((0.1, 1.0, 10.0)), rng.choice((-1.0, 0.0, 2.0)), rng.uniform(0.1, 0.4)

    def off(text: str, columns: Mapping[str, Any]) -> float:
        return q(text, columns) + own.gauss(0, noise)

    kinds: dict[str, Quality] = {
        "gold": q,
        "noisy gold": off,
        "clipped gold": lambda t, c: min(high, max(low, q(t, c))),
        "scaled gold": lambda t, c: offset + scale * q(t, c),
        "gold and length": lambda t, c: (1 - share) * q(t, c) + share * right_length(t, c),
        "gold and words": lambda t, c: (1 - share) * q(t, c) + share * words_asked_for(t, c),
        "steep gold": lambda t, c: q(t, c) ** 2,
    }
    name = rng.choice([*kinds, "ensemble"])
    if name == "ensemble":
        source: RewardSource = Ensemble([reward_of(off, f"member {i}") for i in range(3)], k=0.5)
    else:
        source = reward_of(kinds[name], "made")
    if name.startswith("noisy"):
        source.deterministic = False
    return f"{world.kind}: {name}", source, CRITERIA, task


def faulty(rng: random.Random) -> Draw:
    """A reward that pays something beside what is meant, or only a part of that."""
    world, task = _drawn(rng)
    q, words, most = world.quality, world.words, world.limit - 1
    word, few = rng.choice(words), rng.sample(words, max(2, len(words) // 4))
    share, enough = rng.uniform(0.65, 0.95), rng.randint(2, most)
    likes = {w: rng.choice((-1, 1)) for w in words}
    tricks: dict[str, Callable[[str], float]] = {
        "one word": lambda t: min(1.0, t.split().count(word) / enough),
        "keywords": lambda t: min(1.0, sum(w in few for w in t.split()) / enough),
        "sentiment": lambda t: sum(likes.get(w, 0) for w in t.split()) / most,
        "length": lambda t: min(1.0, len(t.split()) / most),
        "brevity": lambda t: 1 - min(1.0, len(t.split()) / most),
        "opening": lambda t: float(t.split()[:1] == [word]),
        "variety": lambda t: min(1.0, len(set(t.split())) / most),
        "repeats": lambda t: min(1.0, (len(t.split()) - len(set(t.split()))) / enough),
    }
    name = rng.choice([*tricks, "words in any order"])
    if name == "words in any order":
        return f"{world.kind}: {name}", CRITERIA[0], CRITERIA[1:], task

    def made(text: str, columns: Mapping[str, Any]) -> float:
        return (1 - share) * q(text, columns) + share * tricks[name](text)

    return f"{world.kind}: {name} {share:.2f}", reward_of(made, "made"), CRITERIA, task
