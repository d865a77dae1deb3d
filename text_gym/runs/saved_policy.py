"""Finds a saved policy's folder and reads where it comes from; no weights are loaded, and no PyTorch.

Nothing that such a file names is run: rewards in it that are Python files or modules are named, not loaded.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from text_gym.errors import DataError

ORIGIN = "text_gym.json"
_CONFIGS = ("config.json", "adapter_config.json")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")


def read_origin(folder: str | Path) -> dict[str, Any]:
    """Read a policy's origin from its folder; empty for policies made elsewhere.

    Folders of older versions may lack anything, `start_policy` above all.

    Raises:
        DataError: The file is there, but no JSON object.
    """
    file = Path(folder) / ORIGIN
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {file}: {error}; remove it, and pass --task or --data") from error
    if not isinstance(found, dict):
        raise DataError(f"{file} holds no JSON object; remove it, and pass --task or --data")
    return found


def holds_model(folder: str | Path) -> bool:
    """Return True if a folder has the configuration of a model or of an adapter."""
    return any((Path(folder) / name).is_file() for name in _CONFIGS)


def policy_folder(place: str | Path) -> str:
    """Find the policy's folder inside a run's: the trained policy, or the one `rlhf` kept.

    Anything else, a hub model's name for one, is returned as it is.
    """
    folder = Path(place)
    if any((folder / name).is_file() for name in _WEIGHTS) or not folder.is_dir():
        return str(place)
    if (folder / "policy").is_dir():
        return str(folder / "policy")
    rounds = folder / "rounds.jsonl"
    if rounds.is_file():
        try:
            kept = int(json.loads(rounds.read_text(encoding="utf-8").rstrip("\n").split("\n")[-1])["kept"])
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise DataError(f"{rounds} does not say which policy stands; pass the policy's folder") from error
        return str(folder / (f"round-{kept}" if kept else "start") / "policy")
    return str(place)


def is_plain_name(reward: object) -> bool:
    """Return True if a reward is one of ours or a folder, so that loading it runs nobody's code."""
    return isinstance(reward, str) and re.fullmatch(r"[A-Za-z_]\w*", reward) is not None
