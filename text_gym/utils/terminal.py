"""The console that the package prints with: Rich's, for texts that nobody vouches for.

What is printed by other means passes `escaped_output` of `display.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

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
