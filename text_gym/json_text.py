"""Reads JSON with errors that say where and what to do.

What is not UTF-8, no JSON, nested too deeply or holds half a character is refused.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from .errors import DataError, TextGymError, excerpt

DEEPEST = 100  # levels of nesting; nothing of use has more, and functions that walk through values do not
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_json(
    text: str, where: str, error: type[TextGymError] = DataError, advice: str = "write it again"
) -> Any:
    """Parse a JSON text.

    Args:
        text: The text.
        where: Its place, at the head of errors, e.g. `"prompts.jsonl, line 3"`.
        error: Kind of the errors.
        advice: What to do, at the end of errors.

    Raises:
        TextGymError: An `error`: it is no JSON, is nested too deeply, or holds a lone surrogate, which is
            half a character and has no UTF-8.
    """
    try:
        value = json.loads(text)
        if text.count("[") + text.count("{") > DEEPEST and _is_deep(value):
            raise RecursionError
    except RecursionError:
        raise error(f"{where}: nested deeper than {DEEPEST} levels; {advice}") from None
    except ValueError as raised:
        raise error(f"{where}: not JSON ({raised}); {advice}") from raised
    # Text that was decoded from UTF-8 has none, so an escape must have made it.
    found = _SURROGATE.search(json.dumps(value, ensure_ascii=False)) if "\\u" in text else None
    if found is not None:
        raise error(f"{where}: holds the lone surrogate {excerpt(found[0])}, which is no text; {advice}")
    return value


def read_json(file: Path, error: type[TextGymError] = DataError, advice: str = "write it again") -> Any:
    """Read a JSON file.

    Raises:
        TextGymError: An `error`: it cannot be read, is not UTF-8, or as for `parse_json`.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as raised:
        raise error(f"{file} cannot be read ({raised}); {advice}") from raised
    return parse_json(text, str(file), error, advice)


def read_object(
    file: Path, error: type[TextGymError] = DataError, advice: str = "write it again"
) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        TextGymError: An `error`: as for `read_json`, or there is something else in it.
    """
    content = read_json(file, error, advice)
    if not isinstance(content, dict):
        raise error(f"{file}: holds a {type(content).__name__}, not a JSON object; {advice}")
    return content


def _is_deep(value: Any) -> bool:
    """Return True if lists and objects stand inside each other more than `DEEPEST` levels deep."""
    level = [value]
    for _ in range(DEEPEST):
        inside = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, (dict, list))]
        level = [item for items in inside for item in items]
    return any(isinstance(v, (dict, list)) for v in level)
