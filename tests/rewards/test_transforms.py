from __future__ import annotations

import dataclasses
import json
import math
import pickle
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.rewards.test_compose import Fixed, PerToken, episodes, nan_equal, per_token
from text_gym import Episode, Rewards, RewardSource
from text_gym.errors import ConfigError, UnknownNameError
from text_gym.rewards.transforms import Clip, LengthControl, Penalty, RunningStandardize, Standardize, Term

scores = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=10)


def test_clip_limits_the_total_and_pays_the_rest_at_the_end() -> None:
    rewards = Clip(PerToken(4), 0, 5)(episodes(1))
    assert per_token(rewards) == [[1, 2]]
    assert rewards.values.tolist() == [2]
    assert rewards.totals.tolist() == [5]
    assert rewards.terms["raw"].tolist() == [7]


@given(scores, st.floats(-10, 0), st.floats(0, 10))
def test_clip_bounds(values: list[float], low: float, high: float) -> None:
    totals = Clip(Fixed(values), low, high)(episodes(len(values))).totals
    for found, value in zip(totals.tolist(), values, strict=True):
        assert low <= found <= high
        assert found == value or value < low or value > high


@given(scores)
def test_standardize_gives_mean_0_and_std_1_on_the_reference(values: list[float]) -> None:
    assume(np.ptp(values) > 1e-3)
    batch = episodes(len(values))
    totals = Standardize.fit(Fixed(values), batch)(batch).totals
    assert totals.mean() == pytest.approx(0, abs=1e-6)
    assert totals.std() == pytest.approx(1, rel=1e-6)


def test_standardize_by_hand() -> None:
    source = Standardize(PerToken(1), mean=2, std=2)
    rewards = source(episodes(1))
    assert per_token(rewards) == [[0.5, 1]]
    assert rewards.totals.tolist() == [1]  # (4 - 2) / 2
    assert source.causal
    fitted = Standardize.fit(Fixed([1, 3, None]), episodes(3))
    assert (fitted.mean, fitted.std) == (2, 1)
    assert fitted(episodes(3)).values.tolist() == [-1, 1, 0]
    assert fitted(episodes(3)).abstained.tolist() == [False, False, True]


def test_standardize_refuses_constant_references() -> None:
    with pytest.raises(ConfigError, match="all of one reward"):
        Standardize.fit(Fixed([1, 1]), episodes(2))
    with pytest.raises(ConfigError, match="std > 0"):
        Standardize(Fixed([1]), 0, 0)


@given(scores, st.integers(1, 9))
def test_running_statistics_are_those_of_all_seen(values: list[float], cut: int) -> None:
    source = RunningStandardize(Fixed(values))
    batch = episodes(len(values))
    source(batch[:cut])
    last = source(batch[cut:]) if batch[cut:] else None
    assert source.count == len(values)
    assert source.mean == pytest.approx(np.mean(values), abs=1e-6)
    assert source.std == pytest.approx(np.std(values), abs=1e-5)
    if last is not None and np.std(values) > 1e-3:
        expected = (np.array(values[cut:]) - np.mean(values)) / np.std(values)
        np.testing.assert_allclose(last.values, expected, atol=1e-5)


def test_running_standardize_declares_itself() -> None:
    source = RunningStandardize(Fixed([4, None]))
    assert not source.deterministic
    assert not RunningStandardize(PerToken()).causal
    assert source(episodes(2)).values.tolist() == [0, 0]
    assert source.count == 1


def test_running_statistics_go_on_where_they_were_saved() -> None:
    values = [4.0, -2.0, 7.0, 1.5]
    first, other = RunningStandardize(Fixed(values)), RunningStandardize(Fixed(values))
    batch = episodes(4)
    first(batch[:3])
    other.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert (other.count, other.mean, other.std) == (3, first.mean, first.std)
    assert other(batch[3:]).values.tolist() == first(batch[3:]).values.tolist()
    assert other.std == pytest.approx(np.std(values))


def test_penalty_maps_scores_to_rewards_and_penalties() -> None:
    source = Penalty(Fixed([5, 3, 1, None]), threshold=3, slope=2)
    rewards = source(episodes(4))
    assert rewards.values.tolist() == [2, 0, -4, 0]
    assert nan_equal(rewards.terms["penalised"].tolist(), [0, 0, 1, math.nan])
    assert Penalty(Fixed([5, 2.9, 1]), 3, fixed=1)(episodes(3)).values.tolist() == [2, -1, -1]
    assert Penalty(PerToken(), 10)(episodes(1)).totals.tolist() == [-7]


def test_length_control_by_hand() -> None:
    # "10" is 3 tokens with EOS, 2 characters, 1 word
    for unit, low, high, penalty in [
        ("tokens", 0, 1, 2), ("characters", 4, 9, 2), ("words", 0, 1, 0), ("tokens", 3, 3, 0),
    ]:  # fmt: skip
        source = LengthControl(Fixed([1] * 11), low=low, high=high, slope=0.25, unit=unit)  # type: ignore[arg-type]
        rewards = source([episodes(11)[10]])
        assert rewards.values.tolist() == [1 - 0.25 * penalty]
        assert rewards.terms["length_penalty"].tolist() == [0.25 * penalty]


def test_a_length_counts_the_tokens_of_the_agent_alone() -> None:
    (own,) = episodes(1)  # a digit and EOS
    shared = dataclasses.replace(own, agent_mask=np.array([False, True]))
    for episode, length in ((own, 2), (shared, 1)):
        rewards = LengthControl(Fixed([1.0]), high=0, slope=1.0)([episode])
        assert rewards.terms["length"].tolist() == [length]
        assert rewards.values.tolist() == [1 - length]


def test_an_unknown_term_is_no_opinion() -> None:
    class Partly(RewardSource):
        def score(self, episodes: Sequence[Episode]) -> Rewards:
            return Rewards(np.ones(2), terms={"grammar": np.array([0.5, math.nan])})

    rewards = Term(Partly(), "grammar")(episodes(2))
    assert rewards.values.tolist() == [0.5, 0]
    assert rewards.abstained.tolist() == [False, True]


def test_term_pays_a_named_term() -> None:
    source = Term(Fixed([1, None]), "twice")
    rewards = source(episodes(2))
    assert source.name == "twice"
    assert rewards.values.tolist() == [2, 0]
    assert rewards.abstained.tolist() == [False, True]
    with pytest.raises(UnknownNameError, match="did you mean 'twice'"):
        Term(Fixed([1]), "twise")(episodes(1))


def test_the_innermost_raw_score_is_kept() -> None:
    rewards = Clip(Penalty(Fixed([5]), 3), 0, 1)(episodes(1))
    assert rewards.values.tolist() == [1]
    assert rewards.terms["raw"].tolist() == [5]


TRANSFORMS: list[Callable[[RewardSource], RewardSource]] = [
    lambda s: Clip(s, -1, 1),
    lambda s: Standardize(s, 1, 2),
    lambda s: Penalty(s, 0.5, slope=3),
    lambda s: LengthControl(s, high=1),
]


@pytest.mark.parametrize("make", TRANSFORMS)
def test_transforms_keep_abstentions_and_pickle_and_do_not_mind_the_order(
    make: Callable[[RewardSource], RewardSource],
) -> None:
    source = make(Fixed([3, None, -2, 0.25]))
    batch = episodes(4)
    rewards = source(batch)
    assert rewards.abstained.tolist() == [False, True, False, False]
    assert rewards.values[1] == 0
    assert source(batch[::-1]).totals.tolist() == rewards.totals[::-1].tolist()
    assert pickle.loads(pickle.dumps(source))(batch).totals.tolist() == rewards.totals.tolist()


def test_bad_options_are_refused() -> None:
    for make in (
        lambda: Clip(Fixed([1]), 2, 1),
        lambda: Clip(Fixed([1]), math.nan, 1),
        lambda: Penalty(Fixed([1]), 0, slope=-1),
        lambda: Penalty(Fixed([1]), 0, fixed=-1),
        lambda: LengthControl(Fixed([1]), low=2, high=1),
        lambda: LengthControl(Fixed([1]), unit="pages"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError):
            make()
