"""Reads and writes `reward_model.json`, which names the kind of reward model in a folder and its scales.

Nothing here runs code from a folder: weights are safetensors, all else is JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from text_gym.errors import DataError
from text_gym.json_text import read_object
from text_gym.utils.json_files import write_json

SETTINGS = "reward_model.json"
KINDS = ("transformer", "ngrams", "ensemble", "process")


def write_settings(folder: Path, kind: str, content: Mapping[str, Any]) -> None:
    """Write `reward_model.json`, creating the folder if necessary."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SETTINGS, {"kind": kind, **content})


def read_settings(folder: Path) -> dict[str, Any]:
    """Read what `write_settings` wrote; return an empty dict if there is no such file.

    Raises:
        DataError: The file is broken.
    """
    file = folder / SETTINGS
    if not file.is_file():
        return {}
    content = read_object(file, DataError, "train the reward model again")
    if content.get("kind") not in KINDS:
        raise DataError(f"{file} does not say which kind of reward model it is: {', '.join(KINDS)}")
    criteria = content.get("criteria", ["reward"])
    if not isinstance(criteria, list) or not all(isinstance(name, str) for name in criteria):
        raise DataError(f"{file}: criteria are no list of names; train the reward model again")
    return content
