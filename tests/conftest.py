"""Settings of all tests: one thread, since the models are tiny; nothing is fetched; Ctrl-C is heard."""

from __future__ import annotations

import gc
import getpass
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("text-gym", deadline=None)
settings.load_profile("text-gym")

# Before torch is imported, and for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Compiled modules are kept even where the shell asks for none: each worker would compile 300 files of tests
# every time, and each process that tests start all of text_gym.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Runs sign their records with a key of the user's, whom the tests leave alone.
os.environ.setdefault(
    "XDG_STATE_HOME", str(Path(tempfile.gettempdir()) / f"text-gym-tests-{getpass.getuser()}")
)

# Shells start what goes to the background with Ctrl-C ignored, and processes that tests start inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest test, which would be the last one and run alone."""
    items.sort(key=lambda item: item.name != "test_mypy")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Spare the garbage collector all that is imported: it would look through it again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)  # and rarely through what tests import themselves


@pytest.fixture(scope="module")
def undrawn() -> Iterator[None]:
    """Draw no figures in the tests of this module."""
    from tests.figure_tools import figures_as_data  # and matplotlib, which few tests need

    with figures_as_data():
        yield


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Tell how often a test tried to break a promise, and what came of it, for `python -m tests.trust`."""

    def tell(promise: str, number: int, unit: str, **found: int) -> None:
        told = {"promise": promise, "number": number, "unit": unit, "found": found}
        request.node.user_properties[:] = [("tried", told)]

    return tell


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Start a worker more than there are cores: tests of processes, pages and people mostly wait."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores + 1  # or `--maxprocesses`
