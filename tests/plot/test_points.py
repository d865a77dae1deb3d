from __future__ import annotations

import math

import numpy as np
import pytest

from tests.plot.drawn import legend, named_lines
from text_gym.errors import DataError
from text_gym.plot import scatter, to_svg


def test_dots_stand_where_their_numbers_are() -> None:
    ax = scatter({"a": ([1, 2], [3, 4]), "b": ([5], [math.nan])}, x_label="x", y_label="y")
    np.testing.assert_array_equal(named_lines(ax)["a"].get_xydata(), [[1, 3], [2, 4]])
    assert legend(ax) == ["a", "b"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "y")
    assert named_lines(ax)["a"].get_marker() != named_lines(ax)["b"].get_marker()


def test_names_hide_neither_each_other_nor_points() -> None:
    points = [(0.5 + 0.02 * i, 0.5 + 0.01 * (i % 3), f"a long name {i}") for i in range(8)]
    points += [(0.0, 0.0, "corner"), (1.0, 1.0, "other corner")]
    x, y, names = zip(*points, strict=True)
    ax = scatter({"": (x, y)}, names=names)
    ax.figure.canvas.draw()
    boxes = [t.get_window_extent() for t in ax.texts if t.get_text()]
    assert len(boxes) == len(points)
    for i, a in enumerate(boxes):
        assert not any(a.overlaps(b) for b in boxes[i + 1 :])
        assert not any(a.contains(*ax.transData.transform(p[:2])) for p in points)


def test_bad_input_is_named() -> None:
    with pytest.raises(DataError, match="1 positions for 2 values"):
        scatter({"a": ([1], [1, 2])})
    with pytest.raises(DataError, match="2 names for 1 points"):
        scatter({"a": ([1], [1])}, names=["x", "y"])
    with pytest.raises(DataError, match="names are for one series"):
        scatter({"a": ([1], [1]), "b": ([1], [1])}, names=["x"])


def test_nothing_to_draw_is_said() -> None:
    for ax in (scatter({}), scatter({"": ([math.nan], [1])}), scatter({"": ([], [])}, names=[])):
        assert "nothing to draw" in to_svg(ax)
