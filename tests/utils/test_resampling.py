from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm, spearmanr

from text_gym.utils.interval import mean_interval, rank_correlation


def test_means_and_their_intervals() -> None:
    values = np.random.default_rng(0).normal(3, 2, size=400)
    found = mean_interval(np.append(values, np.nan))
    half = norm.ppf(0.975) * values.std() / 20  # the central limit
    assert found.n == 400
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)
    assert mean_interval(values, seed=1) != mean_interval(values, seed=2)
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert mean_interval(np.array([np.nan])).n == 0


def test_correlations_against_scipy() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, size=300).astype(float)  # with ties
    y = x + rng.normal(0, 3, size=300)
    found = rank_correlation(x, y)
    expected = spearmanr(x, y).statistic
    assert found.value == pytest.approx(expected)
    # Fisher's approximation, with the variance of Bonett and Wright (2000).
    half = norm.ppf(0.975) * math.sqrt((1 + expected**2 / 2) / 297)
    ends = np.tanh([np.arctanh(expected) - half, np.arctanh(expected) + half])
    assert (found.low, found.high) == pytest.approx(tuple(ends), abs=0.03)


def test_partial_correlations_against_the_first_order_formula() -> None:
    rng = np.random.default_rng(0)
    gold = rng.normal(size=300)
    x, y = gold + 0.5 * rng.normal(size=300), gold + 0.5 * rng.normal(size=300)
    # (r_xy - r_xz r_yz) / sqrt((1 - r_xz²)(1 - r_yz²))
    xy, xz, yz = (spearmanr(a, b).statistic for a, b in ((x, y), (x, gold), (y, gold)))
    expected = (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))
    for controls in (gold[:, None], np.stack([gold, 2 * gold, gold**3], axis=1)):  # all of the same ranks
        found = rank_correlation(x, y, controls)
        assert found.value == pytest.approx(expected)
        assert found.low < 0 < found.high
    assert rank_correlation(x, y).low > 0.5


def test_partial_correlations_against_residuals() -> None:
    rng = np.random.default_rng(1)
    data = rng.normal(size=(200, 4)) @ rng.normal(size=(4, 4))
    ranks = data.argsort(axis=0).argsort(axis=0).astype(float)
    ranks -= ranks.mean(axis=0)
    left = [
        ranks[:, i] - ranks[:, 2:] @ np.linalg.lstsq(ranks[:, 2:], ranks[:, i], rcond=None)[0] for i in (0, 1)
    ]
    found = rank_correlation(data[:, 0], data[:, 1], data[:, 2:])
    assert found.value == pytest.approx(np.corrcoef(*left)[0, 1])


def test_what_has_no_correlation() -> None:
    x, one = np.arange(20.0), np.ones(20)
    assert math.isnan(rank_correlation(x, one).value)
    assert math.isnan(rank_correlation(one, one).low)
    assert math.isnan(rank_correlation(x, x**2, x[:, None]).value)  # explained altogether
