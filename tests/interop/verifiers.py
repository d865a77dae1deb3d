"""verifiers."""

from __future__ import annotations

from .chat_endpoint import serve
from .library import Library

LIBRARY = Library(
    title="verifiers",
    requirements=("verifiers==0.4.0",),
    recipes=(),
    shown=("verifiers",),
    extras=("verifiers",),
    prepare=serve,
)
