"""The algorithm of docs/bring-your-own-algorithm.md as a file of a user's own, and changes to it."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "bring-your-own-algorithm.md"


def code_of_the_page() -> str:
    """The block that defines the algorithm, as it stands."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (code,) = [block for block in blocks if "class Moving(" in block]
    return str(code)


def write_algorithm(folder: Path, *changes: tuple[str, str], name: str = "mine.py") -> str:
    """Write the file, with texts of it replaced by others; returns what to give as `--algorithm`."""
    code = code_of_the_page()
    for old, new in changes:
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    (folder / name).write_text(code, encoding="utf-8")
    return f"{folder / name}:Moving"
