"""Checkpoints of runs with Stable-Baselines3: safetensors and JSON, since SB3's own archives are pickles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from stable_baselines3.common.base_class import BaseAlgorithm

from text_gym.agents.training.checkpoint_folder import CheckpointFolder
from text_gym.errors import ConfigError

from .state import Data, Tensors, collect_weights, restore_moment, restore_weights

TENSORS = "sb3.safetensors"


class SB3Checkpoints(CheckpointFolder):
    """The folder with the checkpoints of one run, of which the last `keep` stay.

    A run that is resumed on a CPU goes on to the same bits as one that never stopped.

    Args:
        folder: Where; made by the first `save`.
        keep: How many of the latest stay, at least 1.
    """

    def save(
        self,
        model: BaseAlgorithm,
        iteration: int,
        settings: Data,
        moment: tuple[Tensors, Data],
    ) -> Path:
        """Save the weights as they are, with the moment between two rollouts at which they became so.

        Args:
            model: The algorithm.
            iteration: Names the checkpoint.
            settings: Those of the run, plain JSON data, which `load` compares.
            moment: As `collect_moment` returned it after the last update.

        Raises:
            CheckpointError: The disk is full, read-only or broken. Earlier checkpoints are as they were.
        """
        tensors, weights = collect_weights(model)

        def fill(folder: Path) -> None:
            every = {**tensors, **{f"moment/{name}": t for name, t in moment[0].items()}}
            save_file({name: t.contiguous() for name, t in every.items()}, folder / TENSORS)

        about = {"settings": settings, "weights": weights, "moment": moment[1]}
        return self._write(iteration, fill, about)

    def load(self, model: BaseAlgorithm, settings: Data) -> tuple[int, list[Any]] | None:
        """Restore an algorithm from the newest intact checkpoint, if there is one.

        Returns:
            Its iteration, and what was noted as `ended` with the moment.

        Damaged ones are set aside (`00000020.damaged`), and a warning in the log says so.

        Raises:
            CheckpointError: There are checkpoints, but none is intact; or the task's prompts have changed.
            ConfigError: They are those of a run with other settings or another network.
        """
        folder, state = self._newest(set_aside=True)
        if folder is None:
            return None
        found: dict[str, Any] = state["settings"]
        other = sorted(k for k in found.keys() | settings.keys() if found.get(k) != settings.get(k))
        if other:
            raise ConfigError(
                f"{folder} is of a run with {other[0]}={found.get(other[0])!r}, and this one has "
                f"{settings.get(other[0])!r}; resume it with the settings it was started with"
            )
        tensors = load_file(folder / TENSORS)
        moment = {k.removeprefix("moment/"): tensors.pop(k) for k in list(tensors) if k.startswith("moment/")}
        restore_weights(model, tensors, state["weights"])
        restore_moment(model, moment, state["moment"])
        return int(folder.name), [tuple(episode) for episode in state["moment"]["ended"]]
