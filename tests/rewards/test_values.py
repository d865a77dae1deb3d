from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.reward_tools import Says, of
from text_gym import Rewards, as_reward_source
from text_gym.errors import RewardError

# What may be a reward


@pytest.mark.parametrize(
    "value", [0, -3, 2.5, True, np.int8(3), np.float16(0.5), np.array(1.5), Fraction(1, 4), 3.4e38]
)
def test_numbers_of_every_type_are_taken(value: Any) -> None:
    assert Says([value, 1.0])(of("a", "b")).values.tolist() == [float(value), 1.0]


BAD = st.sampled_from(
    [
        math.nan,
        math.inf,
        -math.inf,
        None,
        1e39,
        -1e300,
        10**400,
        "1.0",
        b"1",
        1j,
        [1.0],
        {},
        object(),
        np.float64("nan"),
        np.complex64(1),
        np.array([1.0]),
        np.datetime64("2020"),
        Decimal("NaN"),
    ]
) | st.text(max_size=3)


@settings(max_examples=200)
@given(BAD, st.integers(0, 3))
def test_a_bad_reward_is_refused_with_its_place_or_dropped(value: Any, at: int) -> None:
    scores: list[Any] = [0.5, 1.0, -1.0]
    scores.insert(at, value)
    source = Says(scores, name="taste")
    episodes = of("text 0", "text 1", "text 2", "text 3")
    with pytest.raises(RewardError, match=rf"'taste': episode {at} .*'prompt {at}'.*'text {at}'"):
        source(episodes)
    dropped = source(episodes, "drop")
    assert dropped.abstained.tolist() == [i == at for i in range(4)]
    assert dropped.values[at] == 0
    assert np.delete(dropped.values, at).tolist() == [0.5, 1.0, -1.0]


@pytest.mark.nightly
@settings(max_examples=10_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(BAD | st.floats(), min_size=1, max_size=5))
def test_ten_thousand_lists_of_rewards(tried: Callable[..., None], scores: list[Any]) -> None:
    tried(
        "a reward that is NaN, infinite or no number is refused, with its place", 10_000, "lists of rewards"
    )
    episodes = of(*["t"] * len(scores))
    largest = float(np.finfo(np.float32).max)
    good = [type(s) is float and abs(s) <= largest for s in scores]
    if all(good):
        assert Says(scores)(episodes).values.tolist() == scores
    else:
        with pytest.raises(RewardError):
            Says(scores)(episodes)
    assert Says(scores)(episodes, "drop").abstained.tolist() == [not g for g in good]


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    assert Says(torch.tensor([1.0, 2.0]))(of("a", "b")).values.tolist() == [1.0, 2.0]
    assert Says([torch.tensor(1.0), 2])(of("a", "b")).values.tolist() == [1.0, 2.0]
    for wrong in (torch.ones(2, requires_grad=True), [torch.ones((), requires_grad=True), 0.0]):
        with pytest.raises(RewardError, match="tensor with gradient"):
            Says(wrong)(of("a", "b"))
    with pytest.raises(RewardError, match="is nan"):
        Says(torch.tensor([1.0, math.nan]))(of("a", "b"))


@pytest.mark.parametrize("n", range(7))
def test_another_number_of_rewards_is_refused_with_both_numbers(n: int) -> None:
    for scores in ([1.0] * n, np.ones(n), Rewards(np.ones(n))):
        if n == 3:
            assert len(Says(scores)(of("a", "b", "c"))) == 3
            continue
        with pytest.raises(RewardError, match=rf"{n} rewards for 3 episodes"):
            Says(scores)(of("a", "b", "c"))


@pytest.mark.parametrize(
    "scores",
    [
        1.0,
        None,
        "abc",
        b"abc",
        {0: 1, 1: 2, 2: 3},
        {1, 2, 3},
        np.float64(1),
        iter([1, 2, 3]),
        np.ones((3, 1)),
    ],
)
def test_what_is_no_list_of_rewards(scores: Any) -> None:
    with pytest.raises(RewardError, match="reward 'reward'"):
        Says(scores)(of("a", "b", "c"))


def test_no_episodes_no_call() -> None:
    assert len(as_reward_source(lambda completion: 1 / 0)([])) == 0


# Abstaining


def test_none_and_nan_are_no_opinion_if_the_source_says_so() -> None:
    rewards = Says([None, math.nan, np.nan, 0.5], abstains=True)(of(*"abcd"))
    assert rewards.abstained.tolist() == [True, True, True, False]
    assert rewards.values.tolist() == [0, 0, 0, 0.5]
    with pytest.raises(RewardError, match="is inf"):
        Says([math.inf], abstains=True)(of("a"))


def test_a_function_that_returns_none_is_told_how_to_have_no_opinion() -> None:
    with pytest.raises(RewardError, match=r"episode 0 is None, not a number; .*abstains=True"):
        as_reward_source(lambda completion: None)(of("a"))


def test_a_source_may_abstain_by_itself() -> None:
    rewards = Says(Rewards(np.array([9.0, 1.0]), abstained=np.array([True, False])))(of("a", "b"))
    assert rewards.values.tolist() == [0.0, 1.0]


# Per-token rewards and terms


def test_totals_are_values_and_per_token_rewards_together() -> None:
    scored = Says(Rewards(np.array([1.0, 2.0]), (np.array([0.5, 0.25]), np.zeros(3))))(of("a", "bc"))
    assert scored.totals.tolist() == [1.75, 2.0]


@pytest.mark.parametrize(
    ("per_token", "says"),
    [
        ((np.zeros(2),), "1 of 2 episodes"),
        ((np.zeros(2), np.zeros(2)), r"episode 1 has per-token shape \(2,\), not \(3,\)"),
        ((np.zeros(2), np.zeros((3, 1))), "per-token shape"),
        ((np.array([0.0, math.nan]), np.zeros(3)), "episode 0 .*not a finite"),
        ((np.zeros(2), np.array([0.0, 1e39, 0.0])), "episode 1 .*not a finite"),
    ],
)
def test_bad_per_token_rewards(per_token: tuple[Any, ...], says: str) -> None:
    with pytest.raises(RewardError, match=says):
        Says(Rewards(np.zeros(2), per_token))(of("a", "bc"))


def test_bad_per_token_rewards_are_dropped_with_their_episode() -> None:
    bad = Rewards(np.ones(2), (np.array([math.nan, 1.0]), np.ones(3)))
    scored = Says(bad)(of("a", "bc"), "drop")
    assert scored.abstained.tolist() == [True, False]
    assert scored.totals.tolist() == [0.0, 4.0]


def test_a_term_of_another_length_is_named() -> None:
    with pytest.raises(RewardError, match=r"term 'grammar' has shape \(3,\), expected \(2,\)"):
        Says(Rewards(np.zeros(2), terms={"grammar": np.zeros(3)}))(of("a", "b"))


def test_no_opinion_is_nan_in_a_column_and_pays_nothing() -> None:
    made = Rewards.from_scores(np.array([0.5, math.nan, 0.0]), {"style": np.ones(3)})
    assert made.abstained.tolist() == [False, True, False]
    assert made.values.tolist() == [0.5, 0.0, 0.0]
    assert list(made.terms) == ["style"]
    paid = Rewards(np.array([1.0, 0.0]), (np.array([2.0]), np.zeros(1)), abstained=np.array([False, True]))
    assert paid.totals_or_nan.tolist() == [3.0, pytest.approx(math.nan, nan_ok=True)]
