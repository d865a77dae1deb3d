"""The console that the package prints with: Rich's, for texts that nobody vouches for.

What is printed by other means passes `escaped_output` of `display.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from .display import harmless


class SafeConsole(Console):
    """A Rich console that takes every text literally: no markup, no emoji codes, no control characters.

    Colours and cursor movements are Rich's own. Arguments are those of `rich.console.Console`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render an object, with the control characters in its texts escaped."""
        for text, style, control in super().render(renderable, options):
            if control is None:
                link_free = style.update_link(None) if style is not None and style.link else style
                yield Segment(harmless(text, newlines=True), link_free)
            else:
                yield Segment(text, style, control)


def turns_table(turns: Iterable[tuple[str, str]], style: str = "") -> Table:
    """Lay turns out beside their speakers, whose column no text can reach and so pretend to be another turn.

    Args:
        turns: Speaker and text.
        style: Of the texts.
    """
    rows = Table.grid(padding=(0, 2))
    for speaker, text in turns:
        rows.add_row(Text(speaker, style="bold"), Text(harmless(text, newlines=True), style=style))
    return rows


def typed_lines() -> Iterator[str]:
    """Yield what a person types, with a prompt on a terminal, until the input ends.

    On a terminal lines can be edited and are of any length, and with GNU Readline a pasted text of several
    lines is one item, with its line feeds; Escape and Enter give `":quit"`.
    """
    if sys.stdin.isatty() and sys.stdout.isatty():
        _edit_lines()
    while True:
        try:
            yield input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        except UnicodeDecodeError:
            yield "\ufffd"  # what was typed is no text


def _edit_lines() -> None:
    """Let `input` read by Readline: a terminal's own lines end at 4,095 bytes and at pasted line feeds."""
    try:
        import readline
    except ImportError:  # Windows has an editor of its own
        return
    if "libedit" in (readline.__doc__ or ""):  # reads other settings, and knows no pastes
        return
    for setting in (
        "set enable-bracketed-paste on",
        "tab: self-insert",  # else it would complete the names of files
        r'"\e\C-m": "\C-a\C-k:quit\C-m"',
    ):
        readline.parse_and_bind(setting)
