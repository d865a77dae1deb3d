"""`load_reward_model`: the learned reward model in a folder, whatever its kind."""

from __future__ import annotations

from pathlib import Path

from text_gym.errors import ConfigError, DataError
from text_gym.rewards.source import RewardSource

from .ensembles import Ensemble
from .model import RewardModel
from .ngrams import NgramModel
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
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder} is no saved ensemble ({error!r})") from error
    members = []
    for i in range(len(weights)):
        if not (folder / f"member-{i}").is_dir():
            raise DataError(f"{folder} lacks member-{i}")
        members.append(load_reward_model(folder / f"member-{i}", device=device))
    return Ensemble(members, k, weights=weights, name=name)
