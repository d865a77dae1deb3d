"""Algorithms that users bring: from a file or a module, or from an installed package's entry point.

What is found is not looked at here, and nothing here needs PyTorch; what users bring may.
"""

from __future__ import annotations

import ast
import functools
import os
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from text_gym.errors import ConfigError
from text_gym.utils.user_code import load_from, split_place

GROUP = "text_gym.algorithms"  # of entry points: `mine = "package.module:MyAgent"`


def installed() -> dict[str, EntryPoint]:
    """The algorithms that installed packages offer, by name."""
    return {point.name: point for point in entry_points(group=GROUP)}


def own_algorithm(spec: str) -> Any:
    """Load what a user named: `file.py:Name`, `module:Name`, or an entry point.

    Returns:
        What is found there, the same object each time as long as the file is the same; None where the words
        are none of these.

    Raises:
        DataError: The file or module does not exist.
        UnknownNameError: There is no such name in it.
        ConfigError: It raised while it was loaded.
    """
    found = split_place(spec)
    if found is None:
        point = installed().get(spec)
        try:
            return None if point is None else point.load()
        except Exception as error:
            raise ConfigError(f"entry point {spec!r} ({point}) raised {error!r}") from error
    place, name = found
    if not place.endswith(".py") or not Path(place).is_file():
        return load_from(place, name)
    file = Path(place).resolve()
    return _from_file(str(file), name, os.stat(file).st_mtime_ns)


def is_agent_by_its_text(file: str | Path, name: str) -> bool:
    """Tell from a file's text alone whether a class derives from what it imports from `text_gym.agents`.

    Nothing is run: what the file has may be a reward, which belongs into a sandbox.
    """
    try:
        tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return False
    ours = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("text_gym.agents")
        for alias in node.names
    }
    for node in tree.body:  # a class may derive from one above it
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base).partition("[")[0].partition(".")[0] for base in node.bases}
            ours |= {node.name} if bases & ours else set()
    return name in ours


def short_name(algorithm: str) -> str:
    """A short name of an algorithm: what stands after the colon of a file or module, else the name itself.

    >>> short_name("path/to/mine.py:MyAgent"), short_name("sb3.ppo")
    ('MyAgent', 'sb3.ppo')
    """
    found = split_place(algorithm)
    return algorithm if found is None else found[1].rpartition(".")[2]


@functools.lru_cache(maxsize=64)
def _from_file(file: str, name: str, changed: int) -> Any:
    return load_from(file, name)
