"""Stable-Baselines3 and sb3-contrib."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from .library import Library, Names, Recipe, mean_return


def measure(names: Names, env_id: str) -> float:
    """Return the mean return of the block's `model`, sampled; recurrent ones keep their state in a row."""
    state: Any = None
    model, mask = names["model"], names.get("mask")
    limit = model.observation_space["remaining"].high

    def act(observation: Any) -> npt.NDArray[Any]:
        nonlocal state
        left = observation["remaining"][:, 0]
        masks = {} if mask is None else {"action_masks": observation["action_mask"]}
        actions: npt.NDArray[Any]
        starts = left == limit  # an episode begins where all tokens are left
        actions, state = model.predict(observation, state=state, episode_start=starts, **masks)
        return actions

    return mean_return(act, env_id, **({} if mask is None else {"mask": mask}))


LIBRARY = Library(
    title="Stable-Baselines3",
    requirements=("stable-baselines3==2.9.2", "sb3-contrib==2.9.2"),
    recipes=(Recipe(measure), Recipe(measure, "MaskablePPO"), Recipe(measure, "RecurrentPPO")),
    shown=("stable-baselines3", "sb3-contrib", "gymnasium", "torch"),
    extras=("sb3",),
)
