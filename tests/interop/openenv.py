"""OpenEnv."""

from __future__ import annotations

from .library import Library

LIBRARY = Library(
    title="OpenEnv",
    requirements=(
        "openenv==0.10.0",
        "uvicorn",
    ),
    recipes=(),
    shown=("openenv",),
    extras=("openenv",),
)
