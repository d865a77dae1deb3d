"""What the tests of a lab ask for: `lab`, your lab.py as a module, and `seed`.

A grader puts another loader in `config.load_lab`, which runs the lab.py that was handed in in a sandbox.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from course.imports import import_of_answers


def load_lab(file: Path) -> ModuleType:
    """Import a lab.py under a name of its own, since every lab has one; it may not import the answers."""
    if why := import_of_answers(file.read_bytes()):
        pytest.fail(why, pytrace=False)
    name = f"lab_of_{file.parent.name}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class Answers:
    """The functions of a lab; one that returns nothing is named, before a test trips over its None."""

    def __init__(self, lab: Any) -> None:
        self._lab = lab

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._lab, name)
        if not callable(function):
            return function

        def call(*args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            found = function(*args, **kwargs)
            if found is None:
                raise AssertionError(f"{name} returned None: is there a return in your function?")
            return found

        return call


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a grader draw other numbers than the students saw."""
    parser.addoption("--seed", type=int, default=0, help="of the numbers that the tests draw")


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest) -> Any:
    """The functions that you wrote."""
    load = getattr(request.config, "load_lab", load_lab)
    return Answers(load(request.path.parent / "lab.py"))


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """Of the numbers that the tests draw."""
    return int(request.config.getoption("--seed"))
