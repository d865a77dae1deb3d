"""The mutation gate: semantic bugs that the tests have to catch, and the program that plants them.

`python -m tests.mutants` runs it. Each module here that has a list `MUTANTS` is one area of the package.
"""

from __future__ import annotations

import importlib
import pkgutil

from .mutant import Mutant


def all_mutants() -> list[Mutant]:
    """Every mutant of every area, in the order of the areas' names."""
    found: list[Mutant] = []
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        if not module.startswith(("_", "test_")):
            found += getattr(importlib.import_module(f"{__name__}.{module}"), "MUTANTS", [])
    return found
