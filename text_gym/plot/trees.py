"""Trees of an enumerable task, and boxes with arrows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from text_gym.episode import FloatArray
from text_gym.errors import DataError

from .canvas import drawing
from .lines import numbers
from .style import COLOURS, GRID, INK, SOFT, label, name_axes, note

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 200  # leaves that can be read
Path = tuple[str, ...]


def tree(
    paths: Sequence[Sequence[str]],
    probabilities: npt.ArrayLike,
    rewards: npt.ArrayLike | None = None,
    *,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw every text that a policy can write, token by token, as a tree: the likelier, the thicker.

    A node's probability is the sum of its leaves'. Behind each leaf stand its probability and its reward.

    Args:
        paths: The tokens of each text, its end included; no text may be the beginning of another.
        probabilities: `(n,)` of the texts, in [0, 1].
        rewards: `(n,)`, or None.
        title: Above the tree.
        ax: Where to draw; in a new figure if None.

    Raises:
        DataError: Lengths differ, there are more than 200 texts, a text stands there twice or begins another,
            or something is no probability.
    """
    p = numbers(probabilities, "probabilities")
    values = None if rewards is None else numbers(rewards, "rewards")
    leaves = [tuple(path) for path in paths]
    _check_leaves(leaves, p, values)
    order = sorted(range(len(leaves)), key=lambda i: _first_seen(leaves, leaves[i]))
    places = {leaves[i]: float(n) for n, i in enumerate(order)}
    deepest = max(map(len, leaves), default=1)
    mass: dict[Path, float] = {}
    ends: dict[Path, list[float]] = {}
    for leaf, probability in zip(leaves, p, strict=True):
        for depth in range(len(leaf) + 1):
            mass[leaf[:depth]] = mass.get(leaf[:depth], 0.0) + float(probability)
            ends.setdefault(leaf[:depth], []).append(places[leaf])
    at = {node: (float(len(node)), (min(own) + max(own)) / 2) for node, own in ends.items()}
    with drawing(ax, (2.6 + 1.15 * deepest, 0.9 + 0.19 * len(leaves))) as ax:
        for node, (x, y) in at.items():
            if node:
                x0, y0 = at[node[:-1]]
                bend = x0 + 0.35
                ax.plot([x0, bend, x - 0.3], [y0, y, y], "-", color=COLOURS[0] if mass[node] > 0 else GRID,
                        linewidth=0.6 + 7 * mass[node], solid_capstyle="butt", solid_joinstyle="round",
                        alpha=0.55, zorder=2)  # fmt: skip
                ax.text(x - 0.27, y, label(node[-1], 10), va="center", ha="left", fontsize=8, zorder=3)
        columns = {"probability": [_share(float(v)) for v in p]}
        if values is not None:
            columns["reward"] = ["–" if math.isnan(v) else f"{v:.2f}".replace("-", "−") for v in values]
        for n, (heading, shown) in enumerate(columns.items() if leaves else ()):
            x = deepest + 0.1 + 0.62 * n
            ax.text(x, -1.2, heading, va="center", ha="left", fontsize=8)
            for leaf, text in zip(leaves, shown, strict=True):
                ax.text(x, places[leaf], text, va="center", ha="left", fontsize=8, color=SOFT)
        if not leaves:
            note(ax, "nothing to draw: there are no texts")
        ax.set(xlim=(-0.05, deepest + 0.6 * (1 + len(columns))), ylim=(max(len(leaves), 1) - 0.3, -1.7))
        ax.set_axis_off()
        name_axes(ax, title=title)
    return ax


def diagram(
    boxes: Mapping[str, tuple[float, float, str]],
    arrows: Iterable[tuple[str, str]],
    *,
    size: tuple[float, float] = (10.0, 7.5),
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw named boxes with arrows between them: downwards from floor to floor, in an arc on one floor.

    Args:
        boxes: Name -> horizontal place in [0, 1], floor (one unit high), and what stands under the name.
        arrows: Pairs of names, from and to.
        size: Width and height of a new figure, inches.
        title: Above the boxes.
        ax: Where to draw; in a new figure if None.

    Raises:
        DataError: An arrow from or to a box that does not exist.
    """
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    pairs = sorted(arrows)
    if missing := sorted({name for pair in pairs for name in pair} - set(boxes)):
        raise DataError(f"arrows from or to {missing}, which are no boxes")
    crowd = max(Counter(y for _, y, _ in boxes.values()).values(), default=1)
    width = min(0.19, 0.94 / crowd)  # boxes of the fullest floor leave some room between them
    with drawing(ax, size) as ax:
        for start, end in pairs:
            (x0, y0, _), (x1, y1, _) = boxes[start], boxes[end]
            level = y0 == y1  # over the roofs, else from floor to ceiling
            bend = (0.25 if x0 > x1 else -0.25) if level else 0
            ax.add_patch(
                FancyArrowPatch(
                    (x0, y0 + 0.24 if level else y0 - 0.24), (x1, y1 + 0.24), arrowstyle="-|>",
                    mutation_scale=9, color=SOFT, linewidth=0.8, connectionstyle=f"arc3,rad={bend}",
                    zorder=4 if level else 1,
                )
            )  # fmt: skip
        for name, (x, y, text) in boxes.items():
            ax.add_patch(
                FancyBboxPatch(
                    (x - width / 2, y - 0.24), width, 0.48, boxstyle="round,pad=0,rounding_size=0.02",
                    mutation_aspect=5, facecolor="#eef3fb", edgecolor=COLOURS[0], zorder=2,
                )
            )  # fmt: skip
            ax.text(x, y + 0.12, label(name), ha="center", va="center", fontsize=10, weight="bold", zorder=3)
            lines = "\n".join(map(label, text.split("\n")))
            ax.text(x, y - 0.08, lines, ha="center", va="center", fontsize=7.5, color=INK, zorder=3)
        floors = [y for _, y, _ in boxes.values()] or [0.0]
        ax.set(xlim=(0, 1), ylim=(min(floors) - 0.4, max(floors) + 1.0))
        ax.set_axis_off()
        name_axes(ax, title=title)
    return ax


def _check_leaves(leaves: Sequence[Path], p: FloatArray, values: object) -> None:
    if len(p) != len(leaves) or (isinstance(values, np.ndarray) and len(values) != len(leaves)):
        raise DataError(f"{len(leaves)} texts need a probability each, and a reward each where there are any")
    if len(leaves) > _MOST:
        raise DataError(f"a tree of {len(leaves)} texts cannot be read; draw at most {_MOST}")
    if not ((p >= 0) & (p <= 1 + 1e-9)).all():
        raise DataError("probabilities must lie in [0, 1]")
    if len(set(leaves)) < len(leaves):
        raise DataError("a text stands there twice; the tokens of each must differ")
    beginnings = {leaf[:n] for leaf in leaves for n in range(len(leaf))}
    if inner := beginnings & set(leaves):
        raise DataError(
            f"the text {' '.join(map(label, min(inner)))!r} is the beginning of another: end it with a token"
        )


def _first_seen(leaves: Sequence[Path], leaf: Path) -> list[int]:
    """Siblings in the order in which they are given, so that a tree does not cross itself."""
    return [
        next(i for i, other in enumerate(leaves) if other[:depth] == leaf[:depth])
        for depth in range(1, len(leaf) + 1)
    ]


def _share(p: float) -> str:
    return f"{p:.3f}" if p >= 0.0005 or p == 0 else "<0.001"
