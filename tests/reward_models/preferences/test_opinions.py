from __future__ import annotations

import math

import pytest

from text_gym import Prompt
from text_gym.errors import ConfigError, DataError
from text_gym.reward_models import PreferencePair, Rating, StepLabels
from text_gym.reward_models.preferences.opinions import (
    Like,
    likes_from_pairs,
    pairs_from_likes,
    pairs_from_ratings,
    split_opinions,
    split_within,
)

P, Q = Prompt("Say hi:"), Prompt("Say bye:")


@pytest.mark.parametrize("margin", [math.nan, math.inf, -1.0])
def test_bad_margins_are_refused(margin: float) -> None:
    with pytest.raises(DataError, match="'Say hi:' must be a finite number"):
        PreferencePair(P, "hi", "ho", margin)


@pytest.mark.parametrize("weight", [math.nan, math.inf, -0.5])
def test_bad_weights_are_refused(weight: float) -> None:
    for make in (
        lambda: PreferencePair(P, "hi", "ho", weight=weight),
        lambda: Rating(P, "hi", {"score": 1.0}, weight=weight),
        lambda: Like(P, "hi", True, weight=weight),
    ):
        with pytest.raises(DataError, match="weight"):
            make()


@pytest.mark.parametrize("mark", [math.nan, -math.inf, True, "5", None])
def test_bad_marks_are_refused(mark: float) -> None:
    with pytest.raises(DataError, match=r"score of prompt 'Say hi:' is .*not a finite number"):
        Rating(P, "hi", {"score": mark})


def test_a_prompt_that_is_a_text_is_refused() -> None:
    with pytest.raises(DataError, match=r"the prompt is str 'Hi'; pass Prompt\(text\)"):
        PreferencePair("Hi", "a", "b")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="the prompt is str"):
        Rating("Hi", "a", {"quality": 1.0})  # type: ignore[arg-type]


def test_a_tie_has_no_margin_and_a_rating_has_a_mark() -> None:
    with pytest.raises(DataError, match="a tie has no margin"):
        PreferencePair(P, "hi", "ho", margin=1.0, tie=True)
    with pytest.raises(DataError, match="has no mark"):
        Rating(P, "hi", {})


def test_pairs_of_ratings_compare_within_prompt_and_rater() -> None:
    ratings = [
        Rating(P, "a", {"score": 1.0}, 4.0, "ann"),
        Rating(P, "b", {"score": 3.0}, 1.0, "ann"),
        Rating(P, "c", {"score": 3.0}, 1.0, "ann"),
        Rating(P, "d", {"other": 9.0}, 1.0, "ann"),
        Rating(P, "e", {"score": 9.0}, 1.0, "bob"),
        Rating(Q, "f", {"score": 9.0}, 1.0, "ann"),
    ]
    found = [
        (p.chosen, p.rejected, p.margin, p.tie, p.weight)
        for p in pairs_from_ratings(ratings, "score", ties=True)
    ]
    assert found == [("b", "a", 2.0, False, 2.0), ("c", "a", 2.0, False, 2.0), ("b", "c", 0.0, True, 1.0)]
    assert len(pairs_from_ratings(ratings, "score")) == 2


def test_likes_and_pairs() -> None:
    pairs = [PreferencePair(P, "a", "b", rater="ann"), PreferencePair(P, "c", "d", tie=True, rater="ann")]
    likes = likes_from_pairs(pairs)
    assert [(o.completion, o.label) for o in likes] == [("a", True), ("b", False)]
    again = pairs_from_likes([*likes, Like(P, "x", True, rater="ann"), Like(Q, "y", False, rater="ann")])
    assert [(p.chosen, p.rejected) for p in again] == [("a", "b"), ("x", "b")]


def test_no_prompt_is_on_both_sides() -> None:
    ratings = [Rating(Prompt(f"p{i % 20}"), f"t{i}", {"score": 1.0}) for i in range(100)]
    train, held_out = split_opinions(ratings, 0.3, seed=1)
    assert len(train) + len(held_out) == 100
    assert held_out
    assert not {r.prompt.id for r in train} & {r.prompt.id for r in held_out}
    assert split_opinions(ratings, 0.3, seed=1)[1] == held_out
    assert split_opinions(ratings, 0.3, seed=2)[1] != held_out
    kept, judged = split_within(train, 0.3, seed=1)  # the same seed, and still a fair share
    assert 0.1 < len({r.prompt.id for r in judged}) / len({r.prompt.id for r in train}) < 0.6
    assert len(kept) + len(judged) == len(train)
    with pytest.raises(DataError, match="fewer than two prompts"):
        split_opinions(ratings[:1])
    with pytest.raises(ConfigError, match="between 0 and 1"):
        split_opinions(ratings, 1.0)


@pytest.mark.parametrize(
    ("steps", "labels", "said"),
    [
        (("a", "b"), (1.0,), "2 steps and 1 labels"),
        ((), (), "0 steps"),
        (("a", " \n"), (1.0, 0.0), "step 2 .* is blank"),
        (("a", "b"), (1.0, 1.5), r"label 2 .* is 1.5"),
        (("a",), (float("nan"),), "label 1"),
    ],
)
def test_labels_of_steps_that_make_no_sense_are_refused(
    steps: tuple[str, ...], labels: tuple[float, ...], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        StepLabels(Prompt("ask:"), steps, labels)
