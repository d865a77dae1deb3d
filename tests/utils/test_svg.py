from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from text_gym.utils.svg import Series, chart, number, ticks


def circles(svg: str) -> list[tuple[float, float]]:
    """Centres of the points, without the legend's."""
    root = ElementTree.fromstring(svg)
    return [
        (float(c.attrib["cx"]), float(c.attrib["cy"])) for c in root.iter("circle") if c.attrib["r"] != "4"
    ]


def test_points_stand_where_their_values_are() -> None:
    svg = chart([Series("a", [0, 1, 2], [0.0, 10.0, 5.0])], "x", "y")
    (x0, y0), (x1, y1), (x2, y2) = circles(svg)
    assert x0 < x1 < x2
    assert math.isclose(x1 - x0, x2 - x1, abs_tol=0.11)
    assert math.isclose(y2, (y0 + y1) / 2, abs_tol=0.11)
    assert y1 < y2 < y0  # up is up


def test_what_is_unknown_is_left_out() -> None:
    ends = [(0.0, 1.0), (math.nan, 2.0), (4.0, math.nan)]
    svg = chart([Series("a", [0, 1, 2], [0.0, math.nan, 5.0], ends)], "x", "y")
    assert len(circles(svg)) == 2
    assert "nan" not in svg
    assert len(re.findall("<polyline", svg)) == 2  # the line does not cross the gap
    empty = chart([Series("a", [], []), Series("b", [1], [math.nan])], "x", "y")
    assert ElementTree.fromstring(empty) is not None


def test_names_are_escaped() -> None:
    svg = chart([Series("<b>&", [0], [1]), Series("other", [0], [1])], "<x>", '"y"')
    ElementTree.fromstring(svg)
    assert "<b>" not in svg
    assert "&lt;b&gt;&amp;" in svg


def test_colours_are_the_pages() -> None:
    svg = chart([Series("a", [0], [1]), Series("b", [0], [1], dots=True)], "x", "y")
    assert set(re.findall(r'(?:fill|stroke)="(?!none)([^"]*)"', svg)) == {"var(--c1)", "var(--c2)"}


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_ticks_span_the_values_in_equal_steps(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    found = ticks(low, high)
    slack = 1e-6 * max(1, abs(low), abs(high))
    assert found[0] <= low + slack
    assert found[-1] >= high - slack
    assert 2 <= len(found) <= 8
    steps = {f"{y - x:.6g}" for x, y in itertools.pairwise(found)}
    assert len(steps) == 1 or high - low < 1e-6 * max(abs(low), abs(high))


def test_numbers() -> None:
    assert [number(x) for x in (0.5, -2.0, 1e-3, 100.0)] == ["0.5", "−2", "0.001", "100"]
