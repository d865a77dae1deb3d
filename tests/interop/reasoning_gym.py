"""reasoning-gym."""

from __future__ import annotations

from .library import Library

LIBRARY = Library(
    title="reasoning-gym",
    requirements=("reasoning-gym==0.1.25",),
    recipes=(),
    shown=("reasoning-gym",),
    extras=("reasoning-gym",),
)
