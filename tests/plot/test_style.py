from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from text_gym.plot import curves, panels
from text_gym.plot.style import COLOURS, DARK_COLOURS, PAPER, colours_css

DARK_PAPER = "#15171b"
# Machado, Oliveira and Fernandes 2009, "A physiologically-based model for simulation of color vision
# deficiency", severity 1; on linear RGB.
SEEN = {
    "all cones": np.eye(3),
    "no long cones": [
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998],
    ],
    "no middle cones": [
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881],
    ],
    "no short cones": [
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900],
    ],
}  # fmt: skip
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.asarray(np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4))


def contrast(a: str, b: str) -> float:
    """WCAG 2's ratio."""
    low, high = sorted(float(linear(c) @ TO_XYZ[1]) for c in (a, b))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    x, y, z = np.cbrt(np.maximum(TO_XYZ @ np.clip(rgb, 0, 1) / [0.95047, 1, 1.08883], 1e-9))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize(("colours", "paper"), [(COLOURS, PAPER), (DARK_COLOURS, DARK_PAPER)])
def test_colours_are_seen_on_their_paper_and_apart_by_everybody(colours: tuple[str, ...], paper: str) -> None:
    assert min(contrast(c, paper) for c in colours) >= 3  # WCAG 2.1, 1.4.11
    for name, matrix in SEEN.items():
        seen = [lab(np.asarray(matrix) @ linear(c)) for c in colours]
        nearest = min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2))
        assert nearest > 15, name  # CIE 1976; 2.3 is just noticeable


def test_pages_get_every_colour_in_light_and_dark() -> None:
    light, dark = colours_css(":root").split("@media (prefers-color-scheme: dark)")
    names = re.findall(r"--(\w+):", light)
    assert names == re.findall(r"--(\w+):", dark)
    assert {"ink", "paper", *(f"c{n}" for n in range(1, 8))} <= set(names)
    assert COLOURS[0] in light
    assert DARK_COLOURS[0] in dark


def test_seven_lines_differ_in_more_than_colour() -> None:
    ax = curves({f"line {i}": [1.0, 2.0, i] for i in range(7)})
    looks = [(line.get_linestyle(), line.get_marker()) for line in ax.lines]
    assert len(set(looks)) == 7


@pytest.mark.parametrize("size", [(2.6, 2.2), (3.9, 3.0), (8.0, 2.0)])
def test_a_legend_covers_neither_the_lines_nor_the_labels(size: tuple[float, float]) -> None:
    figure, (ax,) = panels(1, size=size)
    curves({f"a rather long name {i}": [0.0, i] for i in range(5)}, x_label="iteration", ax=ax)
    figure.canvas.draw()
    found = ax.get_legend()
    assert found is not None
    box = found.get_window_extent()
    assert not box.overlaps(ax.get_window_extent())
    assert not box.overlaps(ax.xaxis.label.get_window_extent())
    assert box.y0 >= 0
