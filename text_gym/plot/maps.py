"""Values as depth of colour: the tokens of a text, and tables.

Depth is how far a colour covers the paper, so that the ink stays legible on it in light and dark.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from text_gym.errors import ConfigError, DataError

from .canvas import drawing
from .lines import numbers
from .style import COLOURS, SOFT, label, name_axes, note

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DEEPEST = 0.62  # of a colour over the paper
_UP, _DOWN = COLOURS[0], COLOURS[4]  # blue and brown: no green and red
_CHARACTER, _ROW = 0.0765, 0.27  # inches, at 9 points


def token_heat_map(
    tokens: Sequence[str],
    values: npt.ArrayLike,
    *,
    limit: float | None = None,
    width: int = 72,
    unit: str = "",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    r"""Draw a text with each token on a colour as deep as its value: blue above 0, brown below.

    Args:
        tokens: Of the text, in order; spaces belong to them. Hidden characters are written out, line ends
            as `\n`.
        values: `(T,)` a number for each: reward, advantage, KL, …; NaN for none.
        limit: The absolute value of the deepest colour; the largest there is if None.
        width: Characters in a line.
        unit: What the values are, for the line below, e.g. `"advantage"`.
        title: Above the text.
        ax: Where to draw; in a new figure if None.

    Raises:
        DataError: There are more or fewer values than tokens.
        ConfigError: `limit` or `width` is not positive.
    """
    value = numbers(values, "values")
    if len(value) != len(tokens):
        raise DataError(f"{len(value)} values for {len(tokens)} tokens")
    if width < 1 or (limit is not None and not limit > 0):
        raise ConfigError(f"width and limit must be positive, not {width} and {limit}")
    largest = float(np.nanmax(np.abs(value))) if np.isfinite(value).any() else 0.0
    limit = largest if limit is None else limit
    pieces, rows = _laid_out(tokens, width)
    with drawing(ax, (width * _CHARACTER + 0.3, rows * _ROW + 0.5 + 0.25 * bool(title))) as ax:
        size = _font_size(ax, width)
        for index, text, row, column, cells in pieces:
            depth = min(1.0, abs(value[index]) / limit) if limit and np.isfinite(value[index]) else 0.0
            if depth:
                ax.broken_barh(
                    [(column, cells)], (row + 0.06, 0.88), facecolors=_UP if value[index] > 0 else _DOWN,
                    alpha=round(_DEEPEST * depth, 3), linewidth=0,
                )  # fmt: skip
            ax.text(
                column, row + 0.5, text, family="monospace", fontsize=size, va="center_baseline", ha="left"
            )
        ax.set_xlim(0, width)
        ax.set_ylim(max(rows, 1), 0)
        if not tokens:
            note(ax, "nothing to draw: there are no tokens")
        _no_frame(ax)
        ax.set_xlabel(
            label(f"{unit + ': ' if unit else ''}blue above 0, brown below; deepest at ±{limit:.3g}", 100),
            color=SOFT, loc="left",
        )  # fmt: skip
        name_axes(ax, title=title)
    return ax


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: npt.ArrayLike,
    *,
    limit: float = 1.0,
    digits: int = 2,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw a table whose cells show their numbers, on a colour as deep as the number is large.

    Args:
        rows: Names of the rows.
        columns: Names of the columns.
        values: `(rows, columns)`; NaN for what is not known.
        limit: The absolute value of the deepest colour.
        digits: After the decimal point.
        title: Above the table.
        ax: Where to draw; in a new figure if None.

    Raises:
        DataError: `values` has another shape.
        ConfigError: `limit` is not positive.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.shape != (len(rows), len(columns)) and table.size + len(rows) * len(columns):
        raise DataError(f"{len(rows)} rows and {len(columns)} columns for values of shape {table.shape}")
    if not limit > 0:
        raise ConfigError(f"limit must be positive, not {limit}")
    with drawing(ax, (2.2 + 1.0 * len(columns), 0.7 + 0.28 * len(rows))) as ax:
        for i, row in enumerate(table):
            for j, value in enumerate(row):
                depth = min(1.0, abs(value) / limit) if np.isfinite(value) else 0.0
                ax.broken_barh(
                    [(j - 0.5, 1)], (i - 0.5, 1), facecolors=_UP if value > 0 else _DOWN,
                    alpha=round(_DEEPEST * depth, 3), linewidth=0,
                )  # fmt: skip
                shown = f"{value:.{digits}f}".replace("-", "−") if np.isfinite(value) else "–"
                ax.text(j, i, shown, ha="center", va="center", fontsize=8)
        ax.set_xlim(-0.5, max(len(columns), 1) - 0.5)
        ax.set_ylim(max(len(rows), 1) - 0.5, -0.5)
        if not table.size:
            note(ax, "nothing to draw: the table is empty")
        _no_frame(ax)
        ax.set_xticks(range(len(columns)), [label(name, 20) for name in columns])
        ax.set_yticks(range(len(rows)), [label(name, 44) for name in rows])
        name_axes(ax, title=title)
    return ax


def _laid_out(tokens: Sequence[str], width: int) -> tuple[list[tuple[int, str, int, int, int]], int]:
    """Token number, text, row, column and cells of each piece, and the number of rows.

    A token that does not fit goes to the next row; one wider than a row is broken.
    """
    pieces: list[tuple[int, str, int, int, int]] = []
    row = column = 0
    for index, token in enumerate(tokens):
        text = label(token, 400).replace(" ", "\u00a0")  # SVG would let the first and last space go
        cells = sum(map(_cells, text))
        if column and column + cells > width:
            row, column = row + 1, 0
        while text:
            part, used = "", 0
            while text and used + _cells(text[0]) <= max(width, 2):
                part, used, text = part + text[0], used + _cells(text[0]), text[1:]
            pieces.append((index, part, row, column, used))
            column += used
            if text:
                row, column = row + 1, 0
        if "\n" in token:
            row, column = row + 1, 0
    return pieces, row + bool(column)


def _font_size(ax: Axes, width: int) -> float:
    """Return the points at which lines of `width` characters fit into the axes, 9 at most."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    needed = width * _CHARACTER  # inches, at 9 points
    if needed + 0.3 <= figure.get_figwidth():
        return 9.0
    return 9 * min(1.0, ax.get_position().width * figure.get_figwidth() / needed)


def _cells(character: str) -> int:
    """Return how many cells a character takes: two for East Asian letters, none for combining marks."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _no_frame(ax: Axes) -> None:
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.set_xticks([])
    ax.set_yticks([])
