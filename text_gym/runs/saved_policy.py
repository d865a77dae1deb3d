"""Finds a saved policy's folder and reads where it comes from; no weights are loaded, and no PyTorch.

Nothing that such a file names is run: rewards in it that are Python files or modules are named, not loaded.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from text_gym.errors import DataError, excerpt
from text_gym.json_text import parse_json, read_object

ORIGIN = "text_gym.json"
_ADVICE = "remove it, and pass --task or --data"
_CONFIGS = ("config.json", "adapter_config.json")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")


def read_origin(folder: str | Path) -> dict[str, Any]:
    """Read a policy's origin from its folder; empty for policies made elsewhere.

    Folders of older versions may lack anything, `start_policy` above all.

    Raises:
        DataError: The file is there, but no JSON object, or something in it makes no sense.
    """
    file = Path(folder) / ORIGIN
    if not file.is_file():
        return {}
    found = read_object(file, DataError, _ADVICE)
    texts = ("task", "data", "prompt", "reference", "separator", "gold", "system")
    limit, share = found.get("max_tokens"), found.get("held_out", 0.2)
    wrong = [name for name in texts if not isinstance(found.get(name), str | None)]
    wrong += [] if limit is None or (type(limit) is int and limit > 0) else ["max_tokens"]
    wrong += [] if type(share) is float and 0 < share < 1 else ["held_out"]
    wrong += [] if isinstance(found.get("task_arguments", {}), dict) else ["task_arguments"]
    wrong += [] if isinstance(found.get("chat", False), bool) else ["chat"]
    if wrong:
        raise DataError(f"{file}: {wrong[0]} is {excerpt(repr(found[wrong[0]]))}; {_ADVICE}")
    return found


def holds_model(folder: str | Path) -> bool:
    """Return True if a folder has the configuration of a model or of an adapter."""
    return any((Path(folder) / name).is_file() for name in _CONFIGS)


def policy_folder(place: str | Path) -> str:
    """Find the policy's folder inside a run's: the trained policy, or the one `rlhf` kept.

    Anything else, a hub model's name for one, is returned as it is.

    Raises:
        DataError: The run has no policy yet, or does not say which of its policies stands.
    """
    folder = Path(place)
    if any((folder / name).is_file() for name in _WEIGHTS) or not folder.is_dir():
        return str(place)
    if (folder / "policy").is_dir():
        return str(folder / "policy")
    rounds = folder / "rounds.jsonl"
    if rounds.is_file():
        try:
            last = rounds.read_text(encoding="utf-8").rstrip("\n").split("\n")[-1]
            kept = int(parse_json(last, str(rounds))["kept"])
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise DataError(f"{rounds} does not say which policy stands; pass the policy's folder") from error
        return str(folder / (f"round-{kept}" if kept else "start") / "policy")
    if (folder / "checkpoints").is_dir() and (folder / "config.json").is_file():
        raise DataError(
            f"{place} is a run that has not saved its policy yet, which it does when it ends; if it was "
            f"stopped, go on with it: text-gym train --resume {place}"
        )
    return str(place)


def is_plain_name(reward: object) -> bool:
    """Return True if a reward is one of ours or a folder, so that loading it runs nobody's code."""
    return isinstance(reward, str) and re.fullmatch(r"[A-Za-z_]\w*", reward) is not None
