"""Mutants: solutions with one classic mistake, which the tests have to find and to name.

A test of a lab takes `lab` and `seed` and nothing else, so that it can be called here without pytest, on one
mutant after another, in one process.
"""

from __future__ import annotations

import importlib
import inspect
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from course.labs import Lab


@dataclass(frozen=True)
class Mutant:
    """A mistake: a place in the solution, what stands there instead, and the words that must explain it.

    Args:
        name: A few words for lists.
        old: Text that stands in lab.py exactly once.
        new: What the mistaken student writes there.
        concept: A part of the message that a failing test must give.
        public: Whether the public tests find it already; else only the hidden ones have to.
    """

    name: str
    old: str
    new: str
    concept: str
    public: bool = True


def mutants_of(lab: Lab) -> Sequence[Mutant]:
    """The mutants that come with a lab."""
    found: Sequence[Mutant] = importlib.import_module(f"course.{lab.name}.mutants").MUTANTS
    return found


def mutated(source: str, mutant: Mutant) -> str:
    """Put the mistake into the source of a lab.

    Raises:
        ValueError: The old text does not stand there exactly once.
    """
    if source.count(mutant.old) != 1:
        raise ValueError(f"{mutant.name}: its old text stands {source.count(mutant.old)} times in lab.py")
    return source.replace(mutant.old, mutant.new)


def as_lab(source: str) -> Any:
    """Run the source of a lab as a module."""
    module = types.ModuleType("lab")
    exec(compile(source, "lab.py", "exec"), module.__dict__)
    return module


def failures(tests: str, lab: Any, seed: int = 0) -> dict[str, str]:
    """Run the tests of a module on a lab.

    Args:
        tests: The module's name.
        lab: What they test.
        seed: Of the numbers that they draw.

    Returns:
        Name of each test that fails -> its message.
    """
    found = {}
    for name, test in functions_of(tests).items():
        try:
            with np.errstate(all="ignore"):
                test(lab=lab, seed=seed)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def functions_of(tests: str) -> dict[str, Callable[..., None]]:
    """The tests of a module, by name.

    Raises:
        ValueError: One of them asks for something else than `lab` and `seed`.
    """
    found = {n: f for n, f in vars(importlib.import_module(tests)).items() if n.startswith("test_")}
    for name, test in found.items():
        wanted = {p.name for p in inspect.signature(test).parameters.values() if p.default is p.empty}
        if wanted != {"lab", "seed"}:
            raise ValueError(f"{name} asks for {sorted(wanted)}; a test of a lab asks for lab and seed")
    return found
