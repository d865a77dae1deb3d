"""Sequential tests of a run: gauges of measures, and whether the reward selects for the criteria."""

from __future__ import annotations

import math
from statistics import variance

import numpy as np
import pytest

from text_gym.agents.training.gauges import (
    LIMIT,
    SLACK,
    Gauge,
    SelectionTest,
    centred_products,
    mean_of_groups,
)


def test_the_error_of_a_mean_counts_prompts_and_not_texts() -> None:
    values = np.array([0.1, 0.7, 0.4, 0.9])
    mean, error = mean_of_groups(values, np.arange(4))
    assert mean == pytest.approx(0.525)
    assert error == pytest.approx(variance(values.tolist()) / 4)
    assert mean_of_groups(np.repeat(values, 3), np.repeat(np.arange(4), 3)) == pytest.approx((mean, error))
    assert mean_of_groups(values, np.zeros(4, dtype=np.int64))[1] == pytest.approx(error)


def test_a_constant_drift_is_told_when_its_sum_passes_the_limit() -> None:
    values = np.array([1.0, -1.0] * 32)
    error = math.sqrt(1 / 64 + 64 / 63 / 64)  # of the start, and of a batch
    gauge, drift = Gauge(values, -1, least=0.2), 0.3
    each = drift / error - SLACK
    expected = math.floor(LIMIT / each) + 1
    told = [gauge.out for i in range(expected) if gauge.add(values - drift, np.arange(64), i + 1) < 0]
    assert told == [False] * (expected - 1) + [True]
    assert gauge.since == 1


def test_the_wrong_side_and_small_drifts_are_no_alarm() -> None:
    values, groups = np.array([1.0, -1.0] * 512), np.arange(1024)
    for sign, shift in ((-1, 0.5), (1, -0.5), (-1, -0.15), (0, 0.15)):
        gauge = Gauge(values, sign, least=0.2)
        for i in range(30):
            gauge.add(values + shift, groups, i + 1)
        assert not gauge.out, (sign, shift)


def test_what_went_the_other_way_before_is_no_evidence() -> None:
    gauge = Gauge(np.array([1.0, -1.0] * 64), -1, least=0.2)
    values, groups = np.array([1.0, -1.0] * 32), np.arange(64)
    for shift in (0.5, 0.5, 0.5, -0.25, -0.25, -0.25):
        gauge.add(values + shift, groups, 1)
    assert gauge.off == pytest.approx(-0.25, rel=0.01)
    assert not gauge.out


def test_one_odd_text_is_no_drift() -> None:
    """A criterion that nearly all texts meet has no spread; a single failure in a batch says little."""
    gauge, values = Gauge(np.zeros(200), -1, least=0.2), np.zeros(50)
    values[7] = -1.0
    gauge.add(values, np.arange(50), 1)
    assert gauge.recent[0] == pytest.approx(-0.02 / math.sqrt(0.02 * 0.98 / 2))
    assert not gauge.out


def test_noise_alone_raises_few_alarms() -> None:
    """Of runs of 40 batches that stay as they began about one in 27 raises one, as more simulation says."""
    rng, alarms = np.random.default_rng(5), 0
    groups = np.arange(64)
    for _ in range(120):
        gauge = Gauge(rng.standard_normal(256), -1, least=0.2)
        seen = False
        for i in range(40):
            gauge.add(rng.standard_normal(64), groups, i + 1)
            seen |= gauge.out
        alarms += seen
    assert alarms <= 0.08 * 120


def test_what_moves_towards_golden_texts_has_not_left_its_range() -> None:
    values, groups = np.array([1.0, -1.0] * 512), np.arange(1024)
    for shift, out in ((0.9, False), (1.6, True), (-0.6, True)):
        gauge = Gauge(values, 0, least=0.2, good=1.0)
        for i in range(5):
            drift = gauge.add(values + shift, groups, i + 1)
        assert gauge.out is out, shift
        assert drift == pytest.approx({0.9: 0.0, 1.6: 0.6, -0.6: -0.6}[shift])


# Selection


def test_products_are_those_of_deviations_within_prompts() -> None:
    values, rewards = np.array([1.0, 2.0, 3.0, 6.0]), np.array([2.0, 1.0, 4.0, 5.0])
    assert centred_products(values, rewards, np.arange(4)).tolist() == [2.0, 2.0, 0.0, 6.0]  # of all
    # Of two prompts: within them the first is selected against, and the second for.
    assert centred_products(values, rewards, np.array([0, 0, 1, 1])).tolist() == [-0.5, 1.5]


def test_the_winnings_of_one_batch_are_the_formula() -> None:
    x = np.array([-3.0, 1.0, -2.0])
    test = SelectionTest(0.2)
    test.add(x)
    t = (-4.0 - 0.2 * 6.0) / math.sqrt(14.0)
    paid = [math.exp(-stake * t - stake**2 / 2) for stake in (0.5, 1.0, 2.0, 4.0)]
    assert test.winnings == pytest.approx(0.5 * sum(paid) / 4 + 0.5)  # one half waits for later batches


def test_nobody_gets_rich_where_the_reward_selects_for_the_criterion() -> None:
    """At the border itself at most one run in twenty is ever accused, whatever the sizes of the products."""
    rng, accused, kappa = np.random.default_rng(3), 0, 0.3
    for _ in range(200):
        test = SelectionTest(kappa)
        for _ in range(40):
            signs = np.where(rng.random(24) < (1 + kappa) / 2, 1.0, -1.0)
            test.add(signs * rng.standard_cauchy(24) ** 2)
            if test.winnings >= 20:
                accused += 1
                break
    assert accused <= 0.05 * 200


def test_a_change_is_told_in_a_few_batches_however_late_it_comes() -> None:
    rng = np.random.default_rng(4)
    for late in (0, 30):
        test, batches = SelectionTest(0.0), 0
        for _ in range(late):
            test.add(np.abs(rng.standard_normal(48)))
        while test.winnings < 20:
            test.add(rng.standard_normal(48) - 0.6)
            batches += 1
        assert batches <= 4, late


def test_a_batch_in_which_nothing_is_selected_is_no_evidence() -> None:
    test = SelectionTest(0.3)
    test.add(np.array([-1.0, -2.0]))
    before = test.state_dict()
    test.add(np.zeros(2))
    assert test.state_dict() == before
