"""The widget that asks questions inside a notebook; it needs anywidget (`text-gym[notebook]`).

It passes messages between `static/widget.js` and a `Sitting`, and decides nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets

from .sitting import Sitting

_STATIC = Path(__file__).parent / "static"


class LabelWidget(anywidget.AnyWidget):  # type: ignore[misc]  # anywidget's class has no types
    """A sitting in a notebook's cell, with the keys of the labelling page.

    Args:
        sitting: Who is asked what.

    Attributes:
        state: What it shows; see `Sitting`.
    """

    _esm = _STATIC / "widget.js"
    _css = _STATIC / "widget.css"
    state = traitlets.Dict().tag(sync=True)

    def __init__(self, sitting: Sitting) -> None:
        self.sitting = sitting
        super().__init__(state=sitting.state)
        self.on_msg(self._take)

    def __repr__(self) -> str:
        progress = self.state["progress"]
        return f"LabelWidget({progress['mine']} answered, {progress['left']} left)"

    def _take(self, widget: object, message: Any, buffers: object) -> None:
        reply = self.sitting.take(message)
        if reply is not None:
            self.send(reply)
        self.state = self.sitting.state
