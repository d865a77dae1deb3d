"""Submissions that are made once, and copied to be tampered with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench_submissions import submitted


@pytest.fixture(scope="package", autouse=True)
def _unforced() -> Iterator[None]:
    """Leave writing to the system: what survives a power cut is tested elsewhere, and takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="package")
def made(_unforced: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An untouched submission of each of three designs."""
    here = tmp_path_factory.mktemp("made")
    return {name: submitted(here / name, design=name) for name in ("hackable", "keywords", "gold")}


@pytest.fixture
def here(made: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a submission of the user's own reward."""
    return Path(shutil.copytree(made["hackable"], tmp_path / "a"))
