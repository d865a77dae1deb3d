"""`load_reward_model`: the learned reward model in a folder, whatever its kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from text_gym.errors import ConfigError, DataError
from text_gym.rewards.source import RewardSource

from .ensembles import Ensemble
from .model import RewardModel
from .ngrams import NgramModel
from .process import ProcessReward
from .settings import SETTINGS, read_settings


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
        return NgramModel.from_pretrained(folder)
    if kind == "ensemble":
        return _load_ensemble(folder, device)
    if kind == "process":
        return _load_process(folder, device)
    if kind is None and not (folder / "config.json").is_file():
        raise ConfigError(
            f"{folder} holds no learned reward model: neither {SETTINGS} nor config.json is there; "
            "make one with `text-gym reward train`"
        )
    return RewardModel.from_pretrained(folder, device=device)


def _load_ensemble(folder: Path, device: str) -> RewardSource:
    """Load an ensemble and its members, which lie in the folders `member-0`, `member-1` and so on."""
    settings = read_settings(folder)
    try:
        k, weights, name = float(settings["k"]), list(settings["weights"]), str(settings["name"])
        penalty: Any = settings.get("penalty", "deviation")  # older ones have no other
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder} is no saved ensemble ({error!r})") from error
    members = []
    for i in range(len(weights)):
        if not (folder / f"member-{i}").is_dir():
            raise DataError(f"{folder} lacks member-{i}")
        members.append(load_reward_model(folder / f"member-{i}", device=device))
    try:
        return Ensemble(members, k, weights=weights, penalty=penalty, name=name)
    except ConfigError as error:
        raise DataError(f"{folder} holds a broken ensemble: {error}") from error


def _load_process(folder: Path, device: str) -> ProcessReward:
    """Load a process reward; its model of steps lies in the folder `model`."""
    settings = read_settings(folder)
    how: dict[str, Any] = {name: settings.get(name) for name in ("delimiter", "aggregate", "pay", "name")}
    if not all(isinstance(value, str) for value in how.values()):
        raise DataError(f"{folder} is no saved process reward: {how}; train the reward model again")
    if read_settings(folder / "model").get("kind") not in ("ngrams", "transformer"):
        raise DataError(f"{folder} lacks its model of steps, the folder model; train the reward model again")
    model: Any = load_reward_model(folder / "model", device=device)
    try:
        return ProcessReward(model, **how)
    except ConfigError as error:
        raise DataError(f"{folder} holds a broken process reward: {error}") from error
