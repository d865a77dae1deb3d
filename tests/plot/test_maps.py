from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex

from tests.plot.drawn import texts
from text_gym.errors import ConfigError, DataError
from text_gym.plot import heat_map, to_svg, token_heat_map
from text_gym.plot.style import COLOURS


def cells(ax: Any) -> list[tuple[str, float, list[float]]]:
    """Colour, depth and corner of each coloured cell."""
    return [
        (
            to_hex(c.get_facecolor()[0]),
            float(c.get_alpha()),
            np.asarray(c.get_paths()[0].vertices)[0].tolist(),
        )
        for c in ax.collections
        if c.get_alpha()
    ]


def test_tokens_are_as_deep_as_their_values() -> None:
    ax = token_heat_map(["one", " two", " six", " ten"], [1.0, -0.5, 0.0, math.nan])
    assert [t.get_text() for t in ax.texts] == ["one", "\u00a0two", "\u00a0six", "\u00a0ten"]
    (up, deep, one), (down, half, two) = cells(ax)
    assert (up, down) == (COLOURS[0], COLOURS[4])
    assert half == pytest.approx(deep / 2, abs=1e-3)
    assert (one[0], two[0]) == (0, 3)  # a cell a character
    assert "±1" in ax.get_xlabel()
    assert {"one", "\u00a0two"} <= set(texts(to_svg(ax)))


def test_the_deepest_colour_can_be_given() -> None:
    ((_, half, _),) = cells(token_heat_map(["a"], [1.0], limit=2.0))
    ((_, deep, _),) = cells(token_heat_map(["a"], [9.0], limit=2.0))
    assert half == pytest.approx(deep / 2, abs=1e-3)


def test_tokens_break_into_lines_that_fit() -> None:
    ax = token_heat_map(["aaaa", "bbbb", "c\n", "dd", "e" * 25], np.ones(5), width=10)
    places = [(t.get_position(), t.get_text()) for t in ax.texts]
    assert places == [
        ((0, 0.5), "aaaa"),
        ((4, 0.5), "bbbb"),
        ((0, 1.5), "c\\n"),
        ((0, 2.5), "dd"),
        ((0, 3.5), "e" * 10),
        ((0, 4.5), "e" * 10),
        ((0, 5.5), "e" * 5),
    ]


def test_letters_of_east_asia_take_two_cells() -> None:
    ax = token_heat_map(["日本", "e\u0301x"], [1.0, 1.0])
    assert [t.get_position()[0] for t in ax.texts] == [0, 4]


def test_a_table_shows_its_numbers() -> None:
    ax = heat_map(["a", "b"], ["x", "y"], [[0.5, -1.0], [math.nan, 0.0]], title="t")
    assert [t.get_text() for t in ax.texts] == ["0.50", "−1.00", "–", "0.00"]
    (up, half, corner), (down, deep, other) = cells(ax)
    assert (up, down, corner, other) == (COLOURS[0], COLOURS[4], [-0.5, -0.5], [0.5, -0.5])
    assert half == pytest.approx(deep / 2, abs=1e-3)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]


def test_bad_input_is_named() -> None:
    with pytest.raises(DataError, match="1 values for 2 tokens"):
        token_heat_map(["a", "b"], [1.0])
    with pytest.raises(ConfigError, match="must be positive"):
        token_heat_map(["a"], [1.0], width=0)
    with pytest.raises(ConfigError, match="must be positive"):
        token_heat_map(["a"], [1.0], limit=0)
    with pytest.raises(DataError, match=r"shape \(1, 1\)"):
        heat_map(["a"], ["b", "c"], [[1.0]])
    with pytest.raises(ConfigError, match="limit must be positive"):
        heat_map(["a"], ["b"], [[1.0]], limit=-1)


def test_nothing_to_draw_is_said() -> None:
    assert "nothing to draw" in to_svg(token_heat_map([], []))
    assert "nothing to draw" in to_svg(heat_map([], [], []))
    assert cells(token_heat_map(["a"], [math.nan])) == []
