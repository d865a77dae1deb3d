"""Groups panels: an SVG each for the page, and one PNG of all for the folder.

What they show is for `figures` to say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from text_gym.plot.canvas import panels, save, to_svg
from text_gym.plot.style import name_axes


@dataclass(frozen=True)
class Panel:
    """A panel with one pair of axes.

    Args:
        title: Above it; empty for none.
        draw: Draws into matplotlib's axes.
        size: Width and height in inches.
    """

    title: str
    draw: Callable[[Any], object]
    size: tuple[float, float] = (3.9, 3.4)


@dataclass(frozen=True)
class Plate:
    """Panels under one title.

    Args:
        name: Of the PNG file.
        title: For people.
        panels: At least one.
        columns: Of panels in the PNG.
    """

    name: str
    title: str
    panels: Sequence[Panel]
    columns: int = 3

    def svgs(self) -> list[Markup]:
        """Render each panel as an SVG for the page."""
        found = []
        for panel in self.panels:
            figure, (ax,) = panels(1, size=panel.size)
            _draw(panel, ax)
            found.append(to_svg(figure, alt=panel.title or self.title, page=True))
        return found

    def write_png(self, folder: Path) -> Path:
        """Write `NAME.png`, the same bytes for the same panels, and return its path."""
        size = self.panels[0].size
        figure, axes = panels(len(self.panels), columns=self.columns, size=size, title=self.title)
        for panel, ax in zip(self.panels, axes, strict=True):
            _draw(panel, ax)
        return save(figure, folder / f"{self.name}.png")


def _draw(panel: Panel, ax: Any) -> None:
    panel.draw(ax)
    name_axes(ax, title=panel.title)
