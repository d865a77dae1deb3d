"""Folders of learned reward models: `reward_model.json` says which kind lies in one, and how it is scaled.

Nothing here runs code from a folder: weights are safetensors, all else is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from text_gym import RewardSource
from text_gym.errors import ConfigError, DataError
from text_gym.report import write_json

SETTINGS = "reward_model.json"
KINDS = ("transformer", "ngrams", "ensemble")


def write_settings(folder: Path, kind: str, content: Mapping[str, Any]) -> None:
    """Write `reward_model.json`; the folder is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SETTINGS, {"kind": kind, **content})


def read_settings(folder: Path) -> dict[str, Any]:
    """What `write_settings` wrote; empty where there is no such file.

    Raises:
        DataError: The file is broken.
    """
    file = folder / SETTINGS
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is not JSON ({error}); train the reward model again") from error
    if not isinstance(content, dict) or content.get("kind") not in KINDS:
        raise DataError(f"{file} does not say which kind of reward model it is: {', '.join(KINDS)}")
    return content


def load_reward_model(folder: str | Path, *, device: str = "auto") -> RewardSource:
    """The learned reward model in a folder, whatever its kind; any sequence classifier of one output, too.

    Args:
        folder: As written by a model's `save`, by `text-gym reward train`, or by `transformers`.
        device: Where transformers go: `auto`, `cpu`, `cuda`, …

    Raises:
        ConfigError: The folder holds no reward model.
        DataError: It holds a broken one, a pickle, or one that needs code from a hub.
    """
    folder = Path(folder)
    kind = read_settings(folder).get("kind")
    if kind == "ngrams":
        from .ngrams import NgramModel

        return NgramModel.from_pretrained(folder)
    if kind == "ensemble":
        return _load_ensemble(folder, device)
    if kind is None and not (folder / "config.json").is_file():
        raise ConfigError(
            f"{folder} holds no learned reward model: neither {SETTINGS} nor config.json is there; "
            "make one with `text-gym reward train`"
        )
    from .learned import RewardModel

    return RewardModel.from_pretrained(folder, device=device)


def _load_ensemble(folder: Path, device: str) -> RewardSource:
    """Load an ensemble and its members, which lie in the folders `member-0`, `member-1` and so on."""
    from .ensembles import Ensemble

    settings = read_settings(folder)
    try:
        k, weights, name = float(settings["k"]), list(settings["weights"]), str(settings["name"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder} is no saved ensemble ({error!r})") from error
    members = []
    for i in range(len(weights)):
        if not (folder / f"member-{i}").is_dir():
            raise DataError(f"{folder} lacks member-{i}")
        members.append(load_reward_model(folder / f"member-{i}", device=device))
    return Ensemble(members, k, weights=weights, name=name)
