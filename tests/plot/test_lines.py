from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plot.drawn import ends, legend, named_lines
from text_gym.errors import DataError
from text_gym.plot import Line, curves, frontier, panels, reward_and_gold, to_svg


def test_lines_have_the_numbers_that_were_given() -> None:
    ax = curves({"a": [1.0, math.nan, 3.0], "b": [2.0, 2.0, math.inf]}, x=[10, 20, 30], x_label="iteration")
    lines = named_lines(ax)
    np.testing.assert_array_equal(lines["a"].get_xydata(), [[10, 1], [20, math.nan], [30, 3]])
    np.testing.assert_array_equal(lines["b"].get_ydata(), [2, 2, math.nan])
    assert legend(ax) == ["a", "b"]
    assert ax.get_xlabel() == "iteration"
    assert legend(curves({"a": [1.0, 2.0]})) == []  # nothing to tell apart
    np.testing.assert_array_equal(curves({"a": [5.0, 6.0]}).lines[0].get_xdata(), [1, 2])


def test_intervals_stand_where_they_were_given() -> None:
    ax = curves({"a": [1.0, 2.0], "b": [1.0, 1.0]}, intervals={"a": ([0.5, math.nan], [1.5, 9.0])})
    assert ends(ax) == [[1, 0.5, 1, 1.5]]  # the second has no lower end
    x = np.arange(1.0, 31)
    ax = curves({"a": x}, intervals={"a": (x - 1, x + 2)})
    (band,) = ax.collections
    corners = {tuple(p) for p in np.asarray(band.get_paths()[0].vertices).round(6).tolist()}
    assert {(5.0, 4.0), (5.0, 7.0), (30.0, 29.0), (30.0, 32.0)} <= corners


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: curves({"a": [1, 2]}, x=[1]), "1 positions for 2 values"),
        (lambda: curves({"a": [[1, 2]]}), r"shape \(1, 2\)"),
        (lambda: curves({"a": ["x"]}), "list of numbers"),
        (lambda: curves({"a": [1]}, intervals={"b": ([0], [1])}), "no such line"),
        (lambda: curves({"a": [1]}, intervals={"a": ([2], [1])}), "above its upper end"),
        (lambda: curves({"a": [1]}, intervals={"a": ([0, 0], [1, 1])}), "2 lower and 2 upper"),
        (lambda: frontier({"a": ([1, 2], [1])}), "2 positions for 1 values"),
        (lambda: reward_and_gold(([1], [1]), ([1, 2], [1])), "2 positions for 1 values"),
    ],
)
def test_what_cannot_be_drawn_is_named(call: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: curves({}),
        lambda: curves({"a": []}),
        lambda: curves({"a": [math.nan]}, reach=(0, 1)),
        lambda: frontier({}),
        lambda: reward_and_gold(([], []), ([], [])),
    ],
)
def test_nothing_to_draw_is_said(call: Any) -> None:
    ax = call()
    assert any("nothing to draw" in t.get_text() for t in ax.texts)
    assert "nothing to draw" in to_svg(ax)


def test_one_point_is_seen() -> None:
    ax = curves([Line([3], [0.5], marks=False)])
    assert ax.lines[0].get_marker() not in ("", "None")
    to_svg(ax)


def test_the_axis_reaches_what_was_asked_for_and_the_data() -> None:
    ax = curves({"a": [27.0, 28.0]}, reach=(0, 1))
    low, high = ax.get_ylim()
    assert low <= 0
    assert high > 28
    assert low > -3


def test_rounds_have_whole_numbers() -> None:
    ax = curves({"a": [1.0, 2.0, 3.0]})
    to_svg(ax)
    assert all(float(t).is_integer() for t in ax.get_xticks())


def test_lines_in_the_background_are_behind_and_have_no_marks() -> None:
    ax = curves([Line([1, 2], [1, 2], colour="faint"), Line([1, 2], [2, 1], "a")])
    faint, named = ax.lines
    assert faint.get_zorder() < named.get_zorder()
    assert faint.get_marker() in ("", "None")


@settings(max_examples=12, deadline=None)
@given(st.floats(0.01, 5e5))
def test_the_axis_of_kl_is_its_root_and_its_ticks_do_not_touch(highest: float) -> None:
    figure, (ax,) = panels(1, size=(4, 3))
    frontier({"a": ([0, highest], [0, 1])}, ax=ax)
    figure.canvas.draw()
    boxes = [t.get_window_extent() for t in ax.get_xticklabels()]
    assert len(boxes) >= 2
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))
    x = [ax.transData.transform((v * highest, 0))[0] for v in (0, 0.25, 1)]
    assert x[1] - x[0] == pytest.approx((x[2] - x[0]) / 2)
    assert ax.get_xlim()[1] > highest


def test_an_estimate_of_kl_below_zero_stands_at_zero() -> None:
    ax = frontier({"a": ([-0.3, 4.0], [0.1, 0.2])})
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[0, 0.1], [4, 0.2]])


def test_reward_and_gold_and_their_fits() -> None:
    kl = np.array([0.0, 4.0, 9.0])
    ax = reward_and_gold((kl, [0, 2, 3]), (kl, [0, 1, 0]), fits={"fit": (kl, [0, 0.9, 0.1])})
    lines = named_lines(ax)
    assert legend(ax) == ["reward that is optimised", "gold", "fit"]
    np.testing.assert_array_equal(lines["gold"].get_ydata(), [0, 1, 0])
    np.testing.assert_array_equal(lines["fit"].get_ydata(), [0, 0.9, 0.1])
    assert lines["gold"].get_linestyle() != lines["reward that is optimised"].get_linestyle()


def test_gold_can_have_an_axis_of_its_own() -> None:
    figure, (ax,) = panels(1)
    reward_and_gold(([0, 1], [100, 200]), ([0, 1], [0.1, 0.2]), own_axis=True, names=("$r$", "gold"), ax=ax)
    left, right = figure.axes
    assert left is ax
    assert left.get_ylabel() == "$r$"
    assert right.get_ylabel() == "gold"
    np.testing.assert_array_equal(right.lines[0].get_ydata(), [0.1, 0.2])
    assert left.get_xlim() == right.get_xlim()
    assert legend(left) == ["$r$", "gold"]
    assert not right.yaxis.label.get_parse_math()
