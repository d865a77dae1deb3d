"""Writes JSON files atomically; numbers that are not finite become null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
