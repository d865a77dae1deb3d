"""What tests read off drawn axes and SVGs."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import numpy as np

HOSTILE = '$$</text><script>alert(1)</script>\x1b[31m\u202e $\\frac{1}{0}$ " onload="x'


def named_lines(ax: Any) -> dict[str, Any]:
    """Lines of the axes by their name in the legend."""
    return {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}


def ends(ax: Any) -> list[list[float]]:
    """Ends of all bars of intervals, as `[x0, y0, x1, y1]`, those that are not known left out."""
    segments = [s for c in ax.collections if hasattr(c, "get_segments") for s in c.get_segments()]
    return [np.asarray(s).ravel().tolist() for s in segments if len(s) == 2 and np.isfinite(s).all()]


def legend(ax: Any) -> list[str]:
    found = ax.get_legend()
    return [] if found is None else [t.get_text() for t in found.get_texts()]


def texts(svg: str) -> list[str]:
    """All texts of an SVG, which must be XML."""
    return ["".join(e.itertext()) for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("}text")]


def tags(svg: str) -> set[str]:
    return {e.tag.rpartition("}")[2] for e in ElementTree.fromstring(svg).iter()}
