"""TextArena."""

from __future__ import annotations

from .library import Library

LIBRARY = Library(
    title="TextArena",
    requirements=("textarena==0.7.4",),
    recipes=(),
    shown=("textarena",),
    extras=("textarena",),
)
