"""Settings of all tests: one thread, since the models are tiny; nothing is fetched; Ctrl-C is heard."""

from __future__ import annotations

import getpass
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

# Before torch is imported, and for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
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


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Tell how often a test tried to break a promise, and what came of it, for `python -m tests.trust`."""

    def tell(promise: str, number: int, unit: str, **found: int) -> None:
        told = {"promise": promise, "number": number, "unit": unit, "found": found}
        request.node.user_properties[:] = [("tried", told)]

    return tell
