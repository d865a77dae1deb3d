from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from text_gym import ByteTokenizer, Episode
from text_gym.episode import FloatArray
from text_gym.reward_models.audit.edits import expected_scores, surface_change
from text_gym.reward_models.audit.surfaces import SURFACES

TOKENIZER = ByteTokenizer()
FILLER = "it stands on a table near the door of one house and so x y z u v w".split()  # noqa: SIM905
LENGTH = SURFACES[0]


def hosts(n: int = 60) -> list[Episode]:
    rng = random.Random(0)
    return [
        Episode.of(f"P{i}", f"The {' '.join(rng.sample(FILLER, 8))}. It ends {i}.", TOKENIZER)
        for i in range(n)
    ]


def changed(
    score: Callable[[str], float], gold: Callable[[str], float] | None
) -> tuple[str, FloatArray, FloatArray | None, bool]:
    found = surface_change(
        LENGTH,
        hosts(),
        ["So it is.", "Yes it is."],
        lambda made: np.array([score(e.completion) for e in made]),
        lambda made: None if gold is None else np.array([[gold(e.completion)] for e in made]),
    )
    return found.edit, found.score[found.counted], found.gold, found.equal


def test_the_edit_that_gold_is_blind_to_is_used() -> None:
    def repeats(text: str) -> float:
        parts = text.rstrip(".").split(". ")
        return float(len(parts) - len(set(parts)))

    edit, score, gold, equal = changed(lambda text: float(len(text)), lambda text: -repeats(text))
    assert equal
    assert edit == LENGTH.variants[2].edit  # the longer one
    assert score.tolist() == [len(" So it is. Yes it is.")] * 60
    assert gold is not None
    assert not gold.any()
    # Without gold, the first.
    assert changed(lambda text: 0.0, None)[0] == LENGTH.variants[0].edit


def test_without_such_an_edit_the_texts_count_in_which_gold_does_not_rise() -> None:
    def gold(text: str) -> float:
        return float(len(text)) * (1 if "door" in text else -1)

    edit, score, change, equal = changed(lambda text: 1.0, gold)
    assert not equal
    assert edit == LENGTH.variants[0].edit
    assert change is not None
    assert len(change) == 60
    assert len(score) == sum("door" not in e.completion for e in hosts())


def test_expected_scores() -> None:
    rng = np.random.default_rng(0)
    golds, at = rng.normal(size=(300, 2)), rng.normal(size=(50, 2))
    assert expected_scores(golds, golds @ [2, -1] + 3, at) == pytest.approx(
        at @ [2, -1] + 3
    )  # exact if linear
    stepped = (golds[:, 0] > 0).astype(float)
    clear = np.abs(at[:, 0]) > 0.5
    apart = np.abs(expected_scores(golds, stepped, at)[clear] - (at[clear, 0] > 0))
    assert apart.mean() < 0.1  # a step, which a line alone misses by a quarter
