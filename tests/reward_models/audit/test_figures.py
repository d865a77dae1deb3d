from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import numpy as np

from text_gym.reward_models.audit.figures import intervals, scatter
from text_gym.utils.interval import Interval

ROWS = [Interval(0.5, 0.4, 0.6, 9), None, Interval(math.nan, math.nan, math.nan, 0)]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter() if element.tag.endswith("text")]


def test_rows_axes_and_legend_are_labelled() -> None:
    svg = intervals(["one", "two", "three"], [("mine", ROWS), ("gold", ROWS)], "effect (units)")
    assert {"one", "two", "three", "mine", "gold", "effect (units)"} <= set(texts(svg))
    alone = intervals(["one"], [("mine", ROWS[:1])], "effect (units)")
    assert "mine" not in texts(alone)  # nothing to tell apart
    assert {"x", "y"} <= set(texts(scatter(np.arange(3.0), np.arange(3.0), "x", "y")))


def test_colours_are_the_pages_own() -> None:
    svg = intervals(["one"], [("mine", ROWS[:1]), ("gold", ROWS[:1])], "effect")
    for colour in ("currentColor", "var(--source)", "var(--gold)", "var(--grid)"):
        assert colour in svg
    assert "#0102" not in svg
    assert "#000000" not in svg
    assert "#ffffff" not in svg


def test_equal_figures_are_equal_bytes_and_ids_are_their_own() -> None:
    one, two, other = (intervals(["one"], [("mine", ROWS[:1])], "effect", name=n) for n in ("a", "a", "b"))
    assert one == two
    ids = [{e.attrib["id"] for e in ET.fromstring(svg).iter() if "id" in e.attrib} for svg in (one, other)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert "http" not in one.replace("http://www.w3.org", "")
