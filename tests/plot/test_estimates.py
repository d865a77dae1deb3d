from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from tests.plot.drawn import ends, legend, named_lines
from text_gym.errors import DataError
from text_gym.plot import agreement, calibration, intervals, spread, to_svg
from text_gym.plot.estimates import wilson
from text_gym.utils.interval import Interval

ROWS = [Interval(0.5, 0.4, 0.6, 9), None, Interval(math.nan, math.nan, math.nan, 0)]


def test_each_estimate_has_its_interval_in_its_row() -> None:
    ax: Any = intervals(["one", "two", "three"], {"mine": ROWS, "gold": [0.2, *ROWS[:2]]}, x_label="effect")
    lines = named_lines(ax)
    np.testing.assert_array_equal(lines["mine"].get_xdata(), [0.5, math.nan, math.nan])
    np.testing.assert_array_equal(lines["gold"].get_xdata(), [0.2, 0.5, math.nan])
    assert [(b[0], b[2]) for b in ends(ax)] == [(0.4, 0.6), (0.4, 0.6)]
    mine, gold = (b[1] for b in ends(ax))
    assert abs(mine - 0) < 0.5  # in the first row …
    assert abs(gold - 1) < 0.5  # … and in the second
    assert [t.get_text() for t in ax.get_yticklabels()] == ["one", "two", "three"]
    assert ax.yaxis_inverted()
    assert legend(ax) == ["mine", "gold"]


def test_the_worst_run_is_a_ring_where_it_is_below() -> None:
    worst = {"": [0.1, 0.9, math.nan]}
    ax: Any = intervals(
        ["a", "b", "c"], {"": [0.5, 0.5, 0.5]}, worst=worst, reference=0.3, reference_name="start"
    )
    (ring,) = [line for line in ax.lines if line.get_fillstyle() == "none"]
    np.testing.assert_array_equal(ring.get_xdata(), [0.1, math.nan, math.nan])
    assert ax.lines[0].get_xdata()[0] == 0.3


def test_krippendorffs_limits_stand_beside_alpha() -> None:
    ax: Any = agreement({"clarity": Interval(-0.2, -0.4, 0.1, 9), "other": 0.9, "unknown": None})
    low, high = ax.get_xlim()
    assert low < -0.4
    assert high > 1
    assert [line.get_xdata()[0] for line in ax.lines[:3]] == [0, 0.667, 0.8]
    assert [(b[0], b[2]) for b in ends(ax)] == [(-0.4, 0.1)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.floats(0, 1))
def test_wilsons_interval_is_scipys(n: int, share: float) -> None:
    k = round(share * n)
    low, high = wilson(np.array([k / n]), np.array([float(n)]))
    known = binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert (low[0], high[0]) == pytest.approx((known.low, known.high), abs=1e-9)


def test_a_reliability_diagram_has_a_dot_and_a_bar_for_each_bin() -> None:
    ax: Any = calibration([0.6, 0.8, 0.95], [0.5, 0.9, 1.0], [10, 100, 0])
    (dots,) = [c for c in ax.collections if len(c.get_offsets()) == 2]
    assert np.asarray(dots.get_offsets()).tolist() == [[0.6, 0.5], [0.8, 0.9]]
    known = [binomtest(5, 10), binomtest(90, 100)]
    limits = [k.proportion_ci(0.95, method="wilson") for k in known]
    assert ends(ax) == [
        pytest.approx([x, ci.low, x, ci.high]) for x, ci in zip((0.6, 0.8), limits, strict=True)
    ]
    small, large = dots.get_sizes()
    assert small < large
    line = named_lines(ax)["perfectly calibrated"]
    np.testing.assert_array_equal(line.get_xdata(), line.get_ydata())


def test_every_single_value_is_a_dot() -> None:
    ax: Any = spread({"a": [0.1, math.nan, 0.3], "b": [0.5]}, references={"start": 0.2})
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [d.get_xdata().tolist() for d in dots] == [[0.1, 0.3], [0.5]]
    (median,) = [line for line in ax.lines if line.get_linestyle() == "-" and line.get_marker() != "o"]
    assert median.get_xdata() == pytest.approx([0.2, 0.2])
    assert named_lines(ax)["start"].get_xdata()[0] == 0.2
    assert named_lines(ax)["median"] is median
    assert legend(ax) == ["start", "median"]
    several: Any = spread({"a": [0.0, 1.0], "b": [2.0, 3.0]})
    assert legend(several) == ["median"]  # once for all rows


def test_a_logarithmic_axis_has_plain_numbers_and_no_zero() -> None:
    ax: Any = spread({"a": [0.0, 0.5, 20.0, 300.0]}, logarithmic=True)
    svg = to_svg(ax)
    assert "mathdefault" not in svg
    assert [line.get_xdata().tolist() for line in ax.lines if line.get_marker() == "o"] == [[0.5, 20, 300]]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: intervals(["a"], {"x": []}), "0 estimates for 1 labels"),
        (lambda: intervals(["a"], {"x": [1.0]}, worst={"x": [1.0, 2.0]}), "2 estimates for 1 labels"),
        (lambda: calibration([0.5], [0.5], [1, 2]), "one of each a bin"),
        (lambda: calibration([0.5], [1.5], [1]), r"lie in \[0, 1\]"),
        (lambda: calibration([0.5], [0.5], [-1]), "not negative"),
        (lambda: spread({"a": "x"}), "list of numbers"),
    ],
)
def test_what_cannot_be_drawn_is_named(call: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: intervals([], {}),
        lambda: intervals(["a"], {"x": [None]}),
        lambda: agreement({}),
        lambda: calibration([], [], []),
        lambda: calibration([0.5], [0.5], [0]),
        lambda: spread({}),
        lambda: spread({"a": [math.nan]}, logarithmic=True),
    ],
)
def test_nothing_to_draw_is_said(call: Any) -> None:
    assert "nothing to draw" in to_svg(call())
