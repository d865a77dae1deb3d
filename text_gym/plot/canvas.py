"""Figures and what becomes of them: axes in our look, SVG for pages, PNG for folders and docs.

Nothing global is touched: no pyplot, no display. matplotlib is loaded by the first figure, not before.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from text_gym.errors import ConfigError
from text_gym.utils.display import harmless

from .style import SETTINGS, VARIABLES, colours_css, label, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_LINK = re.compile(r'(?:xlink:)?href="(?!#|data:image/png;base64,)[^"]*"')


@contextmanager
def drawing(ax: Axes | None, size: tuple[float, float] = (4.8, 3.4)) -> Iterator[Axes]:
    """Axes to draw into: the caller's, or those of a new figure; nothing written there becomes a formula.

    Args:
        ax: The caller's, or None.
        size: Width and height of a new figure, inches.
    """
    from matplotlib import rc_context

    with rc_context(SETTINGS):
        if ax is None:
            (ax,) = panels(1, size=size)[1]
        before = {text: text.get_text() for text in _texts(ax)}
        tidy(ax)
        yield ax
        for text in _texts(ax):
            if not text.get_text() or before.get(text) != text.get_text():
                text.set_parse_math(False)


def panels(
    count: int, *, columns: int = 3, size: tuple[float, float] = (3.9, 3.0), title: str = ""
) -> tuple[Figure, list[Axes]]:
    """Make a figure of several axes, filled row by row.

    Args:
        count: Number of axes, at least 1.
        columns: Axes beside each other.
        size: Width and height of each, inches.
        title: Above all of them.

    Raises:
        ConfigError: `count` or `columns` is below 1.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    if count < 1 or columns < 1:
        raise ConfigError(f"a figure needs at least one panel and one column, not {count} and {columns}")
    columns = min(columns, count)
    rows = -(-count // columns)
    with rc_context(SETTINGS):
        figure = Figure(
            figsize=(columns * size[0], rows * size[1] + (0.4 if title else 0)), layout="constrained"
        )
        engine = figure.get_layout_engine()
        assert isinstance(engine, ConstrainedLayoutEngine)
        engine.set(w_pad=6 / 72, h_pad=4 / 72)  # inches; letters in pages are a little wider
        FigureCanvasAgg(figure)
        if title:
            figure.suptitle(label(title, 120), x=0.01, ha="left")
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for ax in axes[:count]:
            tidy(ax)
        for ax in axes[count:]:
            ax.remove()
    return figure, axes[:count]


def to_svg(figure: Figure | Axes, *, alt: str = "", page: bool = False) -> Markup:
    """Render a figure as SVG that a page may hold: equal figures give equal bytes.

    It has neither scripts nor links nor dates, its text stays text (searchable, in the page's font), hidden
    characters are written out, and colours are custom properties of CSS (`--ink`, `--c1`, …), so that it
    fits light and dark.

    Args:
        figure: A figure, or axes of it.
        alt: What it shows, for those who cannot see it; its titles if empty.
        page: The page defines colours and `--font` and gives the size, as our reports do. Otherwise the SVG
            brings colours, size and paper with it and can stand alone, in a file or a notebook.
    """
    from matplotlib import rc_context

    root = _root(figure)
    stream = io.StringIO()
    with rc_context({**SETTINGS, "svg.fonttype": "none", "svg.hashsalt": "text-gym"}), rendering(root):
        root.savefig(stream, format="svg", transparent=True, metadata=_NO_METADATA)
    svg = harmless(stream.getvalue(), newlines=True)
    head = re.search(r'<svg[^>]*viewBox="([^"]*)"[^>]*>', svg)
    assert head is not None
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[head.end() :], flags=re.DOTALL)
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)  # of all strokes
    name = "f" + hashlib.sha256(body.encode()).hexdigest()[:8]
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', body))
    # Text has no "<" and ">" of its own, so these are the tags and nothing else.
    body = re.sub(r"<[^<>]*>", lambda tag: _for_css(tag[0], name, used), body)
    width, height = (float(v) for v in head[1].split()[2:])
    titles = [root.get_suptitle(), *(a.get_title(loc="left") or a.get_title() for a in root.axes)]
    shown = alt or ", ".join(t for t in titles if t) or "figure"
    opening = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{}" '
        'fill="var(--ink)" stroke-linejoin="round" stroke-linecap="butt" role="img" aria-label="{}" '
    ).format(head[1], label(shown, 300))
    if page:  # which makes all letters one size by --w
        opening += Markup('style="--w: {}">').format(round(width))
    else:
        look = f"#{name} {{ --font: system-ui, sans-serif; --mono: monospace; max-width: 100%; }}"
        opening += Markup(
            'id="{0}" width="{1:.0f}" height="{2:.0f}" style="background: var(--paper)"><style>{3}</style>'
        ).format(name, width * 4 / 3, height * 4 / 3, Markup(f"{look}\n{colours_css('#' + name)}"))
    return opening + Markup(body)


def save(figure: Figure | Axes, file: str | Path) -> Path:
    """Write a figure as a PNG or an SVG, by the file's ending; equal figures give equal bytes.

    Args:
        figure: A figure, or axes of it.
        file: Ends in `.png` or `.svg`; its folder must exist.

    Raises:
        ConfigError: Another ending.
    """
    file = Path(file)
    if file.suffix not in (".png", ".svg"):
        raise ConfigError(f"cannot draw {file}: figures are written as .png or .svg")
    if file.suffix == ".svg":
        file.write_text(to_svg(figure) + "\n", encoding="utf-8")
        return file
    from matplotlib import rc_context

    root = _root(figure)
    with rc_context(SETTINGS), rendering(root):
        root.savefig(str(file), dpi=130, facecolor="white", metadata={"Software": None})
    return file


def _root(figure: Figure | Axes) -> Figure:
    root = figure.get_figure(root=True)
    assert root is not None
    return root


def _texts(ax: Axes) -> list[Text]:
    from matplotlib.text import Text

    return [text for text in ax.findobj(Text) if isinstance(text, Text)]


@contextmanager
def rendering(figure: Figure) -> Iterator[None]:
    """Leave the axes where they were: their layout starts from there, and the next one gives the same bytes.

    Letters that matplotlib's font lacks are no reason to warn: a page's font has them.
    """
    places = [(ax, ax.get_position(original=True), ax.get_position()) for ax in figure.axes]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        yield
    for ax, original, active in places:
        in_layout = ax.get_in_layout()
        ax.set_position(original, which="original")
        ax.set_position(active, which="active")
        ax.set_in_layout(in_layout)


def _for_css(tag: str, name: str, used: set[str]) -> str:
    """A tag with the page's colours and fonts, with no name that nobody refers to and no link outwards."""
    tag = _LINK.sub("", tag)
    tag = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", tag)
    tag = re.sub(r'(url\(#|href="#)', rf"\1{name}-", tag)
    for colour, variable in VARIABLES.items():
        tag = tag.replace(colour, f"var(--{variable})")
    family = "var(--mono)" if "Mono" in tag else "var(--font)"
    tag = re.sub(r"font: ((?:[a-z0-9]+ )*)([\d.]+px) [^;\"]*", rf"font: \1\2 {family}", tag)
    return re.sub(r"font-family: [^;\"]*", f"font-family: {family}", tag)  # as other versions write it
