from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from text_gym.errors import DataError
from text_gym.reward_models.preferences.measures import (
    mark_correlation,
    measure_calibration,
    pair_accuracy,
    probability,
)


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_ece_by_hand() -> None:
    # confidences 0.52, 0.54 (both right), 0.97 (wrong), 0.96, 0.98 (right): two of ten bins are used
    ahead = np.array([logit(0.52), logit(0.54), -logit(0.97), logit(0.96), logit(0.98)])
    found = measure_calibration(ahead)
    assert found.count.tolist() == [2, 3]
    assert found.confidence == pytest.approx([0.53, 0.97])
    assert found.accuracy == pytest.approx([1.0, 2 / 3])
    assert found.ece == pytest.approx((2 * 0.47 + 3 * (0.97 - 2 / 3)) / 5)


def test_bins_are_as_wide_as_a_tenth_of_what_confidences_can_be() -> None:
    # Bins over [0.5, 1] part 0.52 from 0.58; bins over [0, 1] would not, and their errors would cancel.
    found = measure_calibration(np.array([logit(0.52), -logit(0.58)]))
    assert found.count.tolist() == [1, 1]
    assert found.ece == pytest.approx((0.48 + 0.58) / 2)


def test_a_perfectly_calibrated_reward_has_little_error() -> None:
    rng = np.random.default_rng(0)
    ahead = np.abs(rng.normal(size=40_000))
    right = rng.random(40_000) < 1 / (1 + np.exp(-ahead))
    assert measure_calibration(np.where(right, ahead, -ahead)).ece < 0.01
    assert measure_calibration(np.where(right, 5 * ahead, -5 * ahead)).ece > 0.1


def test_agreement_counts_equal_rewards_half() -> None:
    found = pair_accuracy(np.array([1.0, 2.0, 0.0, -1.0]))
    assert (found.value, found.n) == (0.625, 4)
    assert found.low <= 0.625 <= found.high


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=20))
def test_mark_correlation_is_scipys_spearman(points: list[tuple[int, int]]) -> None:
    x, y = np.array(points, dtype=float).T
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert math.isnan(mark_correlation(x, y).value)
        return
    assert mark_correlation(x, y).value == pytest.approx(scipy.stats.spearmanr(x, y)[0], abs=1e-12)


def test_probabilities_without_overflow() -> None:
    assert probability(np.array([-1e4, logit(0.3), 1e4])) == pytest.approx([0, 0.3, 1])


def test_faults_have_names() -> None:
    for bad in ([], [math.nan], [[1.0]]):
        with pytest.raises(DataError, match="finite"):
            pair_accuracy(np.array(bad))
    with pytest.raises(DataError, match="2 rewards for 1 marks"):
        mark_correlation(np.array([1.0, 2.0]), np.array([1.0]))


def test_the_reliability_diagram_is_drawn(tmp_path: Path) -> None:
    measure_calibration(np.array([1.0, -0.2, 3.0])).draw(tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"
