"""One look for every figure: colours, dashes, letters, and what a name may show.

The colours descend from Okabe and Ito's (2008, "Color Universal Design"), darker on light paper and lighter
on dark paper: each has a contrast of 3 : 1 or more, and any two stay apart for colour-blind readers.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from text_gym.utils.display import harmless

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Blue, orange, green, pink, brown, sky blue, black.
COLOURS = ("#0067ad", "#bd8600", "#005238", "#c03a80", "#9c4a10", "#2b97d8", "#23272d")
DARK_COLOURS = ("#7cc0f5", "#f5c026", "#16875f", "#b757a3", "#f09560", "#4b72ee", "#e2e5e8")
INK, SOFT, FAINT, GRID, PAPER = "#1d2025", "#5c636e", "#b4bac3", "#e4e6ea", "#fcfcfb"
# Custom properties of CSS, without their dashes, by the colour that stands for them in a drawing.
VARIABLES: Mapping[str, str] = {
    INK: "ink", SOFT: "soft", FAINT: "faint", GRID: "grid", PAPER: "paper",
    **{colour: f"c{n}" for n, colour in enumerate(COLOURS, 1)},
    # What matplotlib itself draws with where nobody chose a colour.
    "#000000": "ink", "#ffffff": "paper", "#b0b0b0": "grid",
}  # fmt: skip
_LIGHT = {
    "ink": INK, "soft": SOFT, "faint": FAINT, "grid": GRID, "paper": PAPER, "line": "#d9dce1",
    "card": "#f2f3f5", "alarm": "#b3261e", "calm": "#00694a",
    **{f"c{n}": colour for n, colour in enumerate(COLOURS, 1)},
}  # fmt: skip
_DARK = {
    "ink": "#e6e8eb", "soft": "#a0a7b1", "faint": "#555c67", "grid": "#2b3038", "paper": "#15171b",
    "line": "#343942", "card": "#1e2127", "alarm": "#ff8a80", "calm": "#76d29a",
    **{f"c{n}": colour for n, colour in enumerate(DARK_COLOURS, 1)},
}  # fmt: skip
STYLES = ("-", "--", ":", "-.")
MARKERS = ("o", "D", "s", "^", "v", "P", "X")
SETTINGS: dict[Any, Any] = {
    "text.parse_math": False,  # names of users and models are no formulas
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.monospace": ["DejaVu Sans Mono"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.formatter.useoffset": False,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.7,
    "lines.markersize": 4.5,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "figure.titlesize": 11,
}


def colours_css(selector: str) -> str:
    """Return the style rules that give a part of a page the colours of our figures, in light and dark.

    Args:
        selector: Of the part, e.g. `":root"`.
    """

    def rule(colours: Mapping[str, str]) -> str:
        return f"{selector} {{ " + " ".join(f"--{name}: {c};" for name, c in colours.items()) + " }"

    return f"{rule(_LIGHT)}\n@media (prefers-color-scheme: dark) {{ {rule(_DARK)} }}"


def label(text: object, limit: int = 60) -> str:
    r"""Return a name as figures show it: on one line, without hidden characters, and not too long.

    >>> label("a\x07 very long name", 12)
    'a\\x07 very…'
    """
    shown = harmless(str(text))
    return shown if len(shown) <= limit else shown[: limit - 1].rstrip() + "…"


def colour_of(colour: int | str | None, place: int) -> str:
    """Return the colour with a number in the palette, or the one whose turn it is."""
    if isinstance(colour, str):
        return colour
    return COLOURS[(place if colour is None else colour) % len(COLOURS)]


def tidy(ax: Axes) -> None:
    """Give axes, ours or a caller's, a quiet frame and a grid behind the data."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    ax.grid(visible=True, color=GRID, linewidth=0.8)


def name_axes(ax: Axes, x_label: str = "", y_label: str = "", title: str = "") -> None:
    """Write labels and title, on two lines where one is too short; a caller's stay where none is given."""
    if x_label:
        ax.set_xlabel(_fitted(x_label, _room(ax)[0] / 4.9), parse_math=False)
    if y_label:
        ax.set_ylabel(_fitted(y_label, _room(ax)[1] / 4.9), parse_math=False)
    if title:
        shown = _fitted(title, _room(ax)[0] / 5.3)
        ax.set_title(shown, loc="left", parse_math=False, color=INK, fontsize=10)


def legend_below(ax: Axes, *others: Axes, columns: int | None = None, least: int = 2) -> None:
    """Put the names under the axes, where they cover nothing.

    Args:
        ax: Where the legend stands.
        others: Axes over the same place, whose names belong to it.
        columns: Of names; as many as fit if None.
        least: With fewer names there is nothing to tell apart, and no legend.
    """
    from matplotlib.transforms import ScaledTranslation

    pairs = [pair for a in (ax, *others) for pair in zip(*a.get_legend_handles_labels(), strict=True)]
    if len(pairs) < least:
        return
    handles, found = zip(*pairs, strict=True)
    width = _room(ax)[0]
    names = [label(name, max(8, int((width - 36) / 4.8))) for name in found]
    if columns is None:
        columns = _columns(names, width)
    figure = ax.get_figure(root=True)
    assert figure is not None
    # Points under the axes: the numbers of the horizontal axis, and the lines of its label.
    lines = ax.get_xlabel().count("\n") + 1 if ax.get_xlabel() else 0
    down = ScaledTranslation(0, -(24 + 13 * lines) / 72, figure.dpi_scale_trans)
    ax.legend(
        handles, names, loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=ax.transAxes + down,
        ncols=columns, borderaxespad=0, handlelength=2.4, columnspacing=1.2, borderpad=0.2,
    )  # fmt: skip


def legend_height(names: Sequence[str], width: float) -> float:
    """Return the height in inches of a legend with these names, under axes so many inches wide."""
    shown = [name for name in names if name]
    return 0.1 + 0.17 * -(-len(shown) // _columns(shown, 72 * width)) if shown else 0.0


def _columns(names: Sequence[str], width: float) -> int:
    return max(1, min(4, len(names), int(width / (4.5 * max(map(len, names)) + 30))))


def note(ax: Axes, text: str) -> None:
    """Say in the middle of the axes why there is nothing in them."""
    ax.text(0.5, 0.5, label(text), ha="center", va="center", color=SOFT, transform=ax.transAxes)
    ax.grid(visible=False)
    ax.set(xticks=[], yticks=[])


def empty(ax: Axes, text: str, *, title: str = "") -> None:
    """Leave axes without data, saying why."""
    note(ax, text)
    name_axes(ax, title=title)


def _room(ax: Axes) -> tuple[float, float]:
    """Width and height of the axes in points, about: they get their places only when they are drawn."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    place = ax.get_position()
    width = 1.15 * place.width * figure.get_figwidth() * 72
    rows = max((len(text.get_text()) for text in ax.get_yticklabels()), default=0)  # names of rows take of it
    return max(80.0, width - max(0.0, 4.9 * rows - 30)), 1.05 * place.height * figure.get_figheight() * 72


def _fitted(text: str, width: float) -> str:
    """On one line of so many letters, or on two; what does not fit is left out."""
    lines = textwrap.wrap(label(text, 1000), max(8, int(width)), max_lines=2, placeholder=" …")
    return "\n".join(lines)
