from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from text_gym import load_task
from text_gym.errors import DataError
from text_gym.plot import diagram, to_svg, tree
from text_gym.tasks.enumerable import trajectories


def widths(ax: Any) -> dict[tuple[float, float], float]:
    """Width of the branch that ends at each node's place."""
    return {
        (round(line.get_xdata()[-1] + 0.3, 6), round(line.get_ydata()[-1], 6)): line.get_linewidth()
        for line in ax.lines
    }


def test_branches_are_as_thick_as_their_leaves_together() -> None:
    ax = tree([["a", "."], ["a", "a"], ["."]], [0.2, 0.3, 0.5], [1.0, 0.0, -0.25])
    found = widths(ax)
    base, scale = 0.6, 7
    assert found[1, 0.5] == pytest.approx(base + scale * 0.5)  # a: both its leaves
    assert found[2, 0] == pytest.approx(base + scale * 0.2)
    assert found[2, 1] == pytest.approx(base + scale * 0.3)
    assert found[1, 2] == pytest.approx(base + scale * 0.5)
    shown = [t.get_text() for t in ax.texts]
    assert shown.count("a") == 2
    assert shown[-8:] == ["probability", "0.200", "0.300", "0.500", "reward", "1.00", "0.00", "−0.25"]


def test_an_enumerable_task_has_a_leaf_for_every_text() -> None:
    task = load_task("enumerable")
    episodes = trajectories(task)
    paths = [[str(i) for i in e.completion_ids.tolist()] for e in episodes]
    ax = tree(paths, np.array([0.25 ** len(path) for path in paths]), task.reward(episodes).values)
    assert len(ax.lines) == 4 + 3 * 4 + 9 * 4  # inner nodes are a, b, c at each of two places
    heights = [y for (_, y) in widths(ax)]
    assert {float(i) for i in range(40)} <= set(heights)
    # Branches of one level do not cross: nodes stand in the order of their parents.
    to_svg(ax)


def test_texts_in_any_order_make_the_same_branches() -> None:
    paths = [["b"], ["a", "x"], ["c"], ["a", "y"]]
    heights = sorted(y for (x, y) in widths(tree(paths, [0.25] * 4)) if x == 2)
    assert heights[1] - heights[0] == 1  # siblings side by side


@pytest.mark.parametrize(
    ("paths", "p", "rewards", "said"),
    [
        ([["a"]], [0.5, 0.5], None, "a probability each"),
        ([["a"]], [0.5], [1.0, 2.0], "a reward each"),
        ([["a"]], [1.5], None, r"in \[0, 1\]"),
        ([["a"]], [float("nan")], None, r"in \[0, 1\]"),
        ([["a"], ["a"]], [0.5, 0.5], None, "twice"),
        ([["a"], ["a", "b"]], [0.5, 0.5], None, "beginning of another"),
        ([[str(i)] for i in range(201)], [0.0] * 201, None, "at most 200"),
    ],
)
def test_what_is_no_tree_is_named(paths: Any, p: Any, rewards: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        tree(paths, p, rewards)


def test_nothing_to_draw_is_said() -> None:
    assert "nothing to draw" in to_svg(tree([], []))


def test_boxes_and_arrows() -> None:
    boxes = {"a": (0.2, 2.0, "two\nlines"), "b": (0.7, 1.0, ""), "c": (0.9, 1.0, "")}
    ax = diagram(boxes, {("a", "b"), ("b", "c")}, title="t")
    assert len(ax.patches) == 3 + 2
    shown = [t.get_text() for t in ax.texts]
    assert {"a", "b", "c", "two\nlines"} <= set(shown)
    with pytest.raises(DataError, match="'d'"):
        diagram(boxes, [("a", "d")])
