from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import scipy.stats
from scipy.stats import norm, spearmanr

from text_gym.utils.interval import Interval, bootstrap, mean_interval, rank_correlation, spearman


def ends_of(drawn: list[float]) -> tuple[float, float]:
    """The smallest values with at least 2.5 % and 97.5 % of all at or below them."""
    low, high = (sorted(drawn)[math.ceil(q * len(drawn)) - 1] for q in (0.025, 0.975))
    return low, high


def test_an_interval_is_plain_data() -> None:
    assert json.loads(json.dumps(Interval(5.0, 4.5, 6.0, 7).summary())) == {
        "value": 5.0,
        "ci95": [4.5, 6.0],
        "n": 7,
    }


@pytest.mark.parametrize("seed", range(3))
def test_the_bootstrap_is_scipys(seed: int) -> None:
    x = np.random.default_rng(9).normal(size=200)
    found = bootstrap(lambda rows: x[rows].mean(axis=1), 200, seed, resamples=2000)
    expected = scipy.stats.bootstrap(
        (x,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    assert found == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_blocks_of_resamples_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 30))
    whole = mean_interval(x), rank_correlation(x, y)
    monkeypatch.setattr("text_gym.utils.interval._BLOCK", 7 * 30)
    sizes: list[int] = []

    def mean(
        rows: np.ndarray[tuple[int, ...], np.dtype[np.intp]],
    ) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        sizes.append(len(rows))
        return np.asarray(x[rows].mean(axis=1))

    assert bootstrap(mean, 30) == (whole[0].low, whole[0].high)
    assert max(sizes) == 7
    assert sum(sizes) == 1000
    assert rank_correlation(x, y) == whole[1]


def test_few_observations_are_resampled_in_every_way() -> None:
    x = np.array([1.0, 5.0, 6.0, 20.0])
    drawn = [sum(own) / 4 for own in itertools.product(x, repeat=4)]
    assert bootstrap(lambda rows: x[rows].mean(axis=1), 4, resamples=256) == pytest.approx(ends_of(drawn))
    groups = [np.array([0, 2]), np.array([1, 3])]
    apart = [
        (a + b + c + d) / 4
        for a, b in itertools.product(x[[0, 2]], repeat=2)
        for c, d in itertools.product(x[[1, 3]], repeat=2)
    ]
    assert bootstrap(lambda rows: x[rows].mean(axis=1), groups) == pytest.approx(ends_of(apart))


def test_groups_are_drawn_each_by_itself() -> None:
    rows: list[np.ndarray[tuple[int, ...], np.dtype[np.intp]]] = []
    bootstrap(lambda own: rows.append(own) or np.zeros(len(own)), [np.arange(8), np.arange(8, 30)], 1, 500)  # type: ignore[func-returns-value]
    (drawn,) = rows
    assert drawn.shape == (500, 30)
    assert set(drawn[:, :8].ravel()) == set(range(8))
    assert set(drawn[:, 8:].ravel()) == set(range(8, 30))


def test_estimates_that_are_not_finite_are_left_out() -> None:
    x = np.arange(9.0)
    odd = bootstrap(lambda rows: np.where(rows[:, 0] == 0, np.nan, x[rows].mean(axis=1)), 9)
    assert all(map(math.isfinite, odd))
    assert all(map(math.isnan, bootstrap(lambda rows: np.full(len(rows), np.nan), 9)))
    assert all(map(math.isnan, bootstrap(lambda rows: x[rows].mean(axis=1), 0)))


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


def test_the_interval_of_a_rank_correlation_by_enumeration() -> None:
    x, y = [1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0]
    drawn = []
    for rows in itertools.product(range(4), repeat=4):
        a, b = [x[i] for i in rows], [y[i] for i in rows]
        if len(set(rows)) > 1:  # a constant has no rank correlation
            drawn.append(float(spearmanr(a, b).statistic))
    found = rank_correlation(np.array(x), np.array(y))
    assert found.value == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert (found.low, found.high) == pytest.approx(ends_of(drawn))


def test_correlations_of_too_little_or_with_nan() -> None:
    one, two, odd = np.ones(3), np.array([1.0, 2.0]), np.array([1.0, math.nan, 2.0, 3.0])
    assert math.isnan(rank_correlation(two, two).value)
    assert math.isnan(spearman(two, two))
    assert math.isnan(spearman(one, np.arange(3.0)))
    found = rank_correlation(odd, np.array([1.0, 5.0, 3.0, 2.0]))
    assert found.n == 3
    assert found.value == pytest.approx(0.5)  # 1 - 6 * 2 / (3 * 8)
    assert spearman(odd, np.array([1.0, 5.0, 3.0, 2.0])) == pytest.approx(0.5)
