"""Writes JSON files atomically; numbers that are not finite become null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from text_gym.errors import ConfigError

from .sealed import write_atomic


def write_json(file: str | Path, content: Any) -> None:
    """Write plain data as JSON in one step; NaN and infinity, which JSON lacks, become null."""
    write_atomic(Path(file), _render(content))


def _render(content: Any) -> str:
    return json.dumps(_finite(content), indent=2, ensure_ascii=False, default=str) + "\n"


def _finite(value: Any) -> Any:
    """Replace NaN and infinity by None, since JSON has neither."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return value


def spare_database(file: str | Path) -> None:
    """Refuse to write a file over a database of SQLite: it may be a label store, and people's work.

    Raises:
        ConfigError: It is one.
    """
    if Path(file).is_file():
        with open(file, "rb") as opened:
            if opened.read(16) == b"SQLite format 3\0":
                raise ConfigError(f"{file} is a database, such as a label store; write to another file")
