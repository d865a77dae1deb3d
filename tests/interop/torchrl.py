"""TorchRL."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .library import Library, Names, Recipe, held_out_gold, mean_return, tensors


def measure(names: Names, env_id: str) -> float:
    """Return the mean return of the block's `actor`, sampled."""
    import torch
    from tensordict import TensorDict

    def act(observation: Any) -> npt.NDArray[np.int64]:
        with torch.no_grad():
            data = names["actor"](TensorDict(tensors(observation), batch_size=[len(observation["tokens"])]))
        actions: npt.NDArray[np.int64] = data["action"].numpy()
        return actions

    return mean_return(act, env_id)


def gold(names: Names, env_id: str) -> dict[str, Any]:
    """Return gold and KL of the block's `policy` on held-out prompts."""
    return held_out_gold(names["policy"], "products")


LIBRARY = Library(
    title="TorchRL",
    requirements=("torchrl==0.14.1",),
    recipes=(
        Recipe(measure),
        Recipe(gold, title="language model", env_ids=("text_gym/Products-v0",)),
    ),
    shown=("torchrl", "tensordict", "gymnasium", "torch"),
)
