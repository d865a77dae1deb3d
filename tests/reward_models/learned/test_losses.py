from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reward_model_tools import pairs, ratings, small_reward_model
from text_gym import Prompt
from text_gym.errors import ConfigError, DataError
from text_gym.reward_models import PreferencePair, Rating
from text_gym.reward_models.learned.losses import Marks, Pairs, bradley_terry_loss, marks_of

REAL = st.floats(-20, 20)


@settings(deadline=None)
@given(ahead=REAL, margin=st.floats(0, 5), tie=st.booleans())
def test_bradley_terry_and_its_gradient_in_closed_form(ahead: float, margin: float, tie: bool) -> None:
    d = torch.tensor([ahead], dtype=torch.float64, requires_grad=True)
    loss = bradley_terry_loss(d, torch.tensor([tie]), torch.tensor([margin], dtype=torch.float64))
    loss.backward()
    margin = 0.0 if tie else margin  # neither of two equals should be ahead
    p = 1 / (1 + math.exp(margin - ahead))
    expected = math.log1p(math.exp(margin - ahead))  # −log p
    slope = p - 1
    if tie:
        expected, slope = expected + 0.5 * ahead, p - 0.5  # −log(1 − p) = −log p + ahead
    assert loss.item() == pytest.approx(expected, abs=1e-9)
    assert d.grad is not None
    assert d.grad.item() == pytest.approx(slope, abs=1e-9)


def test_weights_count_like_copies() -> None:
    d = torch.tensor([0.3, -1.0, 2.0])
    weighted = bradley_terry_loss(d, weight=torch.tensor([3.0, 1.0, 0.0]))  # not 3 in all, as rows are
    assert weighted.item() == pytest.approx(bradley_terry_loss(d[[0, 0, 0, 1]]).item())
    assert bradley_terry_loss(d, weight=torch.zeros(3)).item() == 0


def test_the_loss_of_pairs_is_that_of_their_scores() -> None:
    model = small_reward_model()
    opinions = [
        PreferencePair(Prompt("Write:"), "a good text", "cats", 0.5, weight=2.0),
        PreferencePair(Prompt("Write:"), "dogs", "birds and cats", tie=True),
    ]
    raw = model.raw_scores([("Write:", t) for t in ("a good text", "cats", "dogs", "birds and cats")])[:, 0]
    one = math.log1p(math.exp(0.5 - (raw[0] - raw[1])))
    p = 1 / (1 + math.exp(raw[3] - raw[2]))
    two = -0.5 * math.log(p) - 0.5 * math.log(1 - p)
    found = Pairs(model, opinions)
    assert found.loss([0, 1]).item() == pytest.approx((2 * one + two) / 3, abs=1e-5)
    assert found.weight([0, 1]) == 3


def test_the_squared_loss_is_on_standardised_marks_that_are_there() -> None:
    model = small_reward_model("style", "facts")
    given_ratings = [
        Rating(Prompt("p:"), "cats", {"style": 1.0}),
        Rating(Prompt("p:"), "dogs", {"style": 3.0, "facts": 7.0}, weight=2.0),
    ]
    raw = model.raw_scores([("p:", "cats"), ("p:", "dogs")])
    # style has mean 2 and standard deviation 1, facts one value only
    losses = [(raw[0, 0] + 1) ** 2, 2 * (raw[1, 0] - 1) ** 2, 2 * raw[1, 1] ** 2]
    marks = Marks(model, given_ratings, "squared")
    assert marks.loss([0, 1]).item() == pytest.approx(sum(losses) / 5, rel=1e-4)
    scales = marks.scales()
    assert (scales.factor, scales.offset) == ((1.0, 1.0), (2.0, 7.0))


def test_the_ordinal_loss_by_hand() -> None:
    model = small_reward_model("style")
    given_ratings = [
        Rating(Prompt(f"p{i}:"), "cats", {"style": mark}) for i, mark in enumerate((1.0, 2.0, 4.0, 4.0))
    ]
    marks = Marks(model, given_ratings, "ordinal")
    thresholds = [math.log(0.25 / 0.75), math.log(0.5 / 0.5)]
    assert marks.thresholds[0].tolist() == pytest.approx(thresholds)
    output = model.raw_scores([("p1:", "cats")])[0, 0]
    above = [1 / (1 + math.exp(t - output)) for t in thresholds]
    assert marks.loss([1]).item() == pytest.approx(-math.log(above[0]) - math.log(1 - above[1]), rel=1e-4)


def test_scales_of_the_ordinal_loss_are_the_least_squares_line() -> None:
    model = small_reward_model("style", "brevity")
    found = Marks(model, ratings(4), "ordinal").scales()
    raw = model.raw_scores([(r.prompt.text, r.completion) for r in ratings(4)])
    for c, name in enumerate(("style", "brevity")):
        slope, offset = np.polyfit(raw[:, c], [r.values[name] for r in ratings(4)], 1)
        if slope > 0:
            assert (found.factor[c], found.offset[c]) == pytest.approx((slope, offset), rel=1e-3)
        else:
            assert found.factor[c] == 1  # a larger output never means a lower mark


def test_faults_have_names() -> None:
    with pytest.raises(ConfigError, match="2 criteria"):
        Pairs(small_reward_model("a", "b"), pairs())
    with pytest.raises(DataError, match="no rating has a mark for 'facts'"):
        marks_of(ratings(), ("style", "facts"))


def test_marks_to_judge_by_are_on_the_scale_of_those_to_learn_from() -> None:
    model = small_reward_model("style")
    learnt = Marks(model, [Rating(Prompt("p:"), "cats", {"style": m}) for m in (1.0, 3.0)], "squared")
    judged = Marks(
        model, [Rating(Prompt("q:"), "cats", {"style": m}) for m in (5.0, 6.0)], "squared", like=learnt
    )
    assert judged.targets.tolist() == [[3.0], [4.0]]  # mean 2 and standard deviation 1
    assert judged.levels[0].tolist() == [1.0, 3.0]
