from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from text_gym.bench.analysis.statistics import (
    Estimate,
    aggregate,
    best_within,
    contrast,
    coverage,
    episodes_until,
    improvement,
    iqm,
    mean,
    mean_of_strata,
    resampled_contrast,
    slope,
)
from text_gym.utils.interval import Interval

FEW = st.lists(st.floats(-10, 10), min_size=2, max_size=6)
NAN = math.nan


def apart(*strata: Sequence[float]) -> list[dict[Any, float]]:
    """Runs of strata that have no seed in common."""
    return [{(k, i): v for i, v in enumerate(own)} for k, own in enumerate(strata)]


def alike(*strata: Sequence[float]) -> list[dict[Any, float]]:
    """Runs of strata that have the seeds 0, 1, … in common; None has no run."""
    return [{i: v for i, v in enumerate(own) if v is not None} for own in strata]


def pair(a: Sequence[float], b: Sequence[float]) -> tuple[dict[Any, float], dict[Any, float]]:
    """Two strata that have no seed in common."""
    first, second = apart(a, b)
    return first, second


def array(*values: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array(values, dtype=np.float64)


# Interquartile mean


def test_iqm_is_the_mean_of_the_middle_half() -> None:
    assert iqm([9.0, 1.0, 3.0, 100.0, -50.0, 2.0, 4.0, 0.0]) == (1 + 2 + 3 + 4) / 4
    assert iqm([0.0, 3.0, 99.0]) == 34.0  # of three, none can be left out
    assert iqm([[0.0, 1.0, 2.0, 9.0], [1.0, 1.0, 5.0, 7.0]]).tolist() == [1.5, 3.0]
    assert iqm([NAN, 0.0, 9.0, 1.0, NAN, 2.0]) == 1.5


@pytest.mark.parametrize("n", range(1, 14))
def test_iqm_is_scipys_trimmed_mean(n: int) -> None:
    values = np.random.default_rng(n).normal(size=(3, n))
    padded = np.concatenate([np.full((3, 2), NAN), values], axis=1)
    assert iqm(padded) == pytest.approx(scipy.stats.trim_mean(values, 0.25, axis=1))


@given(FEW)
def test_iqm_lies_between_the_quartiles_neighbours(values: list[float]) -> None:
    assert min(values) - 1e-9 <= float(iqm(values)) <= max(values) + 1e-9


# Bootstrap


def by_enumeration(strata: list[list[float]], statistic: object) -> list[float]:
    """The statistic of every set of resamples, one by one."""
    assert callable(statistic)
    choices = [list(itertools.product(s, repeat=len(s))) for s in strata]
    return sorted(float(statistic(np.concatenate(c))) for c in itertools.product(*choices))


def ends_of(drawn: list[float]) -> tuple[float, float]:
    """The smallest values with at least 2.5 % and 97.5 % of all at or below them."""
    low, high = (drawn[math.ceil(q * len(drawn)) - 1] for q in (0.025, 0.975))
    return low, high


@pytest.mark.parametrize(
    "strata",
    [
        [[1.0, 2.0, 4.0]],
        [[0.0, 1.0], [5.0, 9.0, 2.0]],
        [[1.0, 1.0, 3.0, 8.0]],
        [[0.0, 1.0], [2.0, 5.0], [7.0, 7.0]],
    ],
)
def test_few_runs_are_resampled_in_every_way_once(strata: list[list[float]]) -> None:
    found = aggregate(apart(*strata), mean)
    assert (found.low, found.high) == pytest.approx(ends_of(by_enumeration(strata, np.mean)))
    assert found.value == pytest.approx(np.mean([v for s in strata for v in s]))
    assert found.n == sum(map(len, strata))


@pytest.mark.parametrize("n", [2, 3])
def test_over_two_or_three_runs_the_interval_is_their_range(n: int) -> None:
    runs = [3.0, 1.0, 2.5][:n]
    found = aggregate(apart(runs))
    assert (found.low, found.high) == (min(runs), max(runs))


def test_many_runs_have_the_interval_of_the_normal_law() -> None:
    runs = np.random.default_rng(0).normal(5, 2, size=400)
    found = aggregate(apart(runs.tolist()), mean)
    half = 1.96 * runs.std() / math.sqrt(len(runs))
    assert found.low == pytest.approx(runs.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(runs.mean() + half, abs=0.1 * half)


def test_strata_are_fixed() -> None:
    """Runs differ between strata only: nothing is left to chance within them, whatever lies between."""
    found = aggregate(alike([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]), mean)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    pooled = aggregate(apart([0.0, 0.0, 0.0, 1.0, 1.0, 1.0]), mean)
    assert pooled.high - pooled.low > 0.5


def test_a_single_run_has_no_interval() -> None:
    found = aggregate(alike([1.0], [2.0, 3.0]))
    assert found.value == 2.0
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert aggregate(alike([NAN])).n == 0
    assert aggregate(alike([1.0, NAN, 3.0])) == Interval(2.0, 1.0, 3.0, 2)


def test_intervals_are_deterministic_and_depend_on_the_seed() -> None:
    runs = np.random.default_rng(1).normal(size=30)
    own = apart(runs.tolist())
    assert aggregate(own) == aggregate(own)
    assert aggregate(own, seed=0) != aggregate(own, seed=1)


def test_coverage_of_the_range_by_drawing() -> None:
    drawn = np.random.default_rng(0).exponential(size=(200_000, 3))
    inside = (drawn.min(axis=1) <= math.log(2)) & (drawn.max(axis=1) >= math.log(2))  # the median
    assert inside.mean() == pytest.approx(coverage(3), abs=0.005)


# Contrasts


@given(FEW, FEW)
def test_two_samples_have_welchs_interval(a: list[float], b: list[float]) -> None:
    if min(np.var(a), np.var(b)) < 1e-6:  # SciPy does not answer
        return
    found = contrast(apart(a, b), [-1.0, 1.0])
    low, high = scipy.stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6, abs=1e-6)
    assert found.value == pytest.approx(np.mean(b) - np.mean(a))


def test_one_sample_has_students_interval() -> None:
    found = mean_of_strata(apart([1.0, 2.0, 6.0]))
    low, high = scipy.stats.ttest_1samp([1.0, 2.0, 6.0], 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))


def test_strata_of_equal_spread_have_their_degrees_of_freedom_together() -> None:
    found = mean_of_strata(apart([0.0, 1.0, 2.0], [10.0, 11.0, 12.0], [NAN], []))
    half = scipy.stats.t.ppf(0.975, 4) * math.sqrt(2 * (1 / 3) / 4)  # variance 1 each, 3 runs each, K = 2
    assert (found.value, found.n) == (6.0, 6)
    assert (found.low, found.high) == pytest.approx((6 - half, 6 + half))


def test_samples_that_share_some_seeds_have_the_freedom_of_the_smallest() -> None:
    found = contrast([{0: 1.0, 1: 2.0, 2: 4.0, 3: 3.0}, {0: 1.0, 1: 5.0}], [-1.0, 1.0])
    assert found.freedom == pytest.approx(1)  # two seeds, less one


def test_contrasts_of_too_little() -> None:
    assert math.isnan(contrast(apart([1.0]), [1.0]).low)
    assert math.isnan(contrast(apart([1.0]), [1.0]).p)
    assert contrast(apart([1.0, 1.0]), [2.0]) == Estimate(2.0, 2.0, 2.0, 2, math.inf, 0.0)
    assert math.isnan(mean_of_strata([]).value)


def test_a_resampled_contrast_by_enumeration() -> None:
    a, b = [1.0, 3.0], [4.0, 5.0, 9.0]
    drawn = sorted(
        float(np.mean(y)) - float(np.mean(x))
        for x in itertools.product(a, repeat=2)
        for y in itertools.product(b, repeat=3)
    )
    found = resampled_contrast(apart(a, b), [-1.0, 1.0])
    assert (found.low, found.high) == pytest.approx(ends_of(drawn))
    assert found.value == 4.0


# Probability of improvement


@given(FEW, FEW)
@settings(deadline=None, max_examples=30)
def test_improvement_is_the_mann_whitney_statistic(a: list[float], b: list[float]) -> None:
    u = scipy.stats.mannwhitneyu(
        b, a, method="exact" if len({*a, *b}) == len(a + b) else "asymptotic"
    ).statistic
    assert improvement([pair(a, b)], resamples=100).value == pytest.approx(u / (len(a) * len(b)))


def test_improvement_is_the_mean_over_strata() -> None:
    always, never, half = pair([0, 1], [2, 3]), pair([2, 3], [0, 1]), pair([1, 1], [1, 1])
    assert improvement([always]).value == 1
    assert improvement([always, never, half]) == Interval(0.5, 0.5, 0.5, 12)
    assert improvement([pair([], [1.0])]).n == 0


def test_the_interval_of_improvement_by_enumeration() -> None:
    a, b = [1.0, 3.0], [2.0, 4.0]
    drawn = sorted(
        float(np.mean([(y > x) + 0.5 * (y == x) for x in xs for y in ys]))
        for xs in itertools.product(a, repeat=2)
        for ys in itertools.product(b, repeat=2)
    )
    found = improvement([pair(a, b)])
    assert found.value == 0.75
    assert (found.low, found.high) == ends_of(drawn)


def test_seeds_of_both_sides_are_drawn_together() -> None:
    a, b = [1.0, 3.0, 5.0], [2.0, 4.0, 4.5]
    drawn = sorted(
        float(np.mean([b[j] > a[i] for i in rows for j in rows]))
        for rows in itertools.product(range(3), repeat=3)
    )
    first, second = alike(a, b)
    found = improvement([(first, second)])
    assert (found.low, found.high) == ends_of(drawn)


# Seeds as clusters


def test_seeds_are_drawn_in_all_strata_together() -> None:
    table = np.array([[1.0, 4.0, 2.0], [0.0, 9.0, 3.0], [2.0, 5.0, 8.0]])  # seeds, strata
    drawn = [table[list(rows)].ravel() for rows in itertools.product(range(3), repeat=3)]
    found = aggregate(alike(*table.T.tolist()), mean)
    assert (found.low, found.high) == pytest.approx(ends_of(sorted(float(np.mean(d)) for d in drawn)))
    found = aggregate(alike(*table.T.tolist()))
    trimmed = sorted(float(scipy.stats.trim_mean(d, 0.25)) for d in drawn)
    assert (found.low, found.high) == pytest.approx(ends_of(trimmed))
    assert found.value == pytest.approx(scipy.stats.trim_mean(table, 0.25, axis=None))


def test_a_missing_run_is_left_out_of_resamples() -> None:
    a, b = [1.0, 4.0, 2.0], [0.0, 9.0, None]
    drawn = []
    for rows in itertools.product(range(3), repeat=3):
        first, second = [a[i] for i in rows], [v for i in rows if (v := b[i]) is not None]
        if second:  # nothing is known of the second stratum otherwise
            drawn.append(float(np.mean(second) - np.mean(first)))
    found = resampled_contrast([{0: 1.0, 1: 4.0, 2: 2.0}, {0: 0.0, 1: 9.0}], [-1.0, 1.0])
    assert (found.low, found.high) == pytest.approx(ends_of(sorted(drawn)))


@given(st.integers(2, 6), st.integers(2, 5), st.integers(0, 10**6))
@settings(deadline=None, max_examples=30)
def test_students_interval_is_that_of_the_seeds_means(seeds: int, strata: int, key: int) -> None:
    table = np.random.default_rng(key).normal(size=(seeds, strata))
    found = mean_of_strata(alike(*table.T.tolist()))
    test = scipy.stats.ttest_1samp(table.mean(axis=1), 0.0)
    low, high = test.confidence_interval(0.95)
    assert (found.low, found.high, found.p) == pytest.approx((low, high, test.pvalue))
    assert found.freedom == pytest.approx(seeds - 1)
    assert found.n == seeds * strata


def test_rows_that_are_repeated_within_seeds_tell_nothing_new() -> None:
    runs = [0.9, 0.4, 0.8, 0.95]
    once, often = apart(runs), alike(runs, runs, runs, runs, runs)
    often = [{(0, s): v for s, v in own.items()} for own in often]
    for measure in (mean_of_strata, lambda own: aggregate(own, mean)):
        a, b = measure(once), measure(often)
        assert (b.value, b.low, b.high) == pytest.approx((a.value, a.low, a.high))
    apparent = mean_of_strata(apart(*[runs] * 5))  # as if there were twenty seeds
    assert apparent.high - apparent.low < 0.5 * (mean_of_strata(once).high - mean_of_strata(once).low)


def test_coverage_by_drawing() -> None:
    """Seeds share an effect: means of seeds are normal, so Student's interval over seeds is exact.

    As if runs were independent, it covers as often as |t| with S - 1 degrees of freedom is below the naive
    bound: the naive variance of the mean is a K-th (or so) of the right one where rows of a seed are equal.
    """
    rng, seeds, strata, rounds = np.random.default_rng(0), 4, 3, 1000
    right = naive = 0
    for shared in rng.normal(size=(rounds, seeds)):
        values = [shared.tolist()] * strata
        own, apparent = mean_of_strata(alike(*values)), mean_of_strata(apart(*values))
        right += own.low <= 0 <= own.high
        naive += apparent.low <= 0 <= apparent.high
    assert right / rounds == pytest.approx(0.95, abs=0.025)
    bound = scipy.stats.t.ppf(0.975, strata * (seeds - 1)) / math.sqrt(strata)
    expected = 1 - 2 * scipy.stats.t.sf(bound, seeds - 1)
    assert expected < 0.75
    assert naive / rounds == pytest.approx(expected, abs=0.05)


def test_independent_runs_of_shared_seeds_are_covered_too() -> None:
    rng, rounds = np.random.default_rng(1), 1000
    inside = 0
    for table in rng.normal(size=(rounds, 2, 4)):
        found = contrast(alike(*table.tolist()), [-1.0, 1.0])
        inside += found.low <= 0 <= found.high
    assert inside / rounds == pytest.approx(0.95, abs=0.025)


# Curves


@given(st.integers(1, 4), st.integers(1, 5), st.floats(0, 20), st.randoms(use_true_random=False))
def test_best_within_by_looking_at_every_point(runs: int, points: int, budget: float, rng: object) -> None:
    assert hasattr(rng, "uniform")
    kl = np.array([[rng.uniform(0, 20) for _ in range(points)] for _ in range(runs)])
    gold = np.array([[rng.uniform(0, 1) for _ in range(points)] for _ in range(runs)])
    allowed = [i for i in range(points) if sum(kl[:, i]) / runs <= budget]
    found = best_within(kl, gold, budget)
    if not allowed:
        assert found is None
    else:
        assert found in allowed
        assert sum(gold[:, found]) >= max(sum(gold[:, i]) for i in allowed) - 1e-12


def test_episodes_until() -> None:
    assert episodes_until([0, 64, 128, 192], [0.5, 0.4, 0.6, 0.9], 0.55) == pytest.approx(64 + 0.75 * 64)
    assert episodes_until([0, 64], [0.5, 0.6], 0.5) == 0
    assert math.isnan(episodes_until([0, 64], [0.5, 0.6], 0.61))


def test_slope() -> None:
    assert slope([0, 1, 2, 3], [1.0, 3.0, 5.0, 7.0]) == pytest.approx(2)
    assert slope([0, 1, 2], [0.0, NAN, 6.0]) == pytest.approx(3)
    assert math.isnan(slope([1, 1], [0.0, 1.0]))
