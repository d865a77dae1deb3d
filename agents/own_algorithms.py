"""Algorithms that users bring: from a file or a module, or from an installed package's entry point.

What is found is not looked at here, and nothing here needs PyTorch; what users bring may.
"""

from __future__ import annotations

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
    """What a user's words stand for: `file.py:Name`, `module:Name`, or the name of an entry point.

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


def label(algorithm: str) -> str:
    """A short name of an algorithm: what stands after the colon of a file or module, else the name itself.

    >>> label("path/to/mine.py:MyAgent"), label("sb3.ppo")
    ('MyAgent', 'sb3.ppo')
    """
    found = split_place(algorithm)
    return algorithm if found is None else found[1].rpartition(".")[2]


@functools.lru_cache(maxsize=64)
def _from_file(file: str, name: str, changed: int) -> Any:
    return load_from(file, name)
