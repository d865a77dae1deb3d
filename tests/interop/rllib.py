"""RLlib, which pins Gymnasium 1.2.2."""

from __future__ import annotations

from .library import Library, Names, Recipe, drawn, mean_return, tensors


def measure(names: Names, env_id: str) -> float:
    """Return the mean return of the block's `algorithm`, sampled."""
    import torch

    module = names["algorithm"].get_module()
    with torch.no_grad():
        return mean_return(
            lambda shown: drawn(module.forward_exploration({"obs": tensors(shown)})["action_dist_inputs"]),
            env_id,
        )


LIBRARY = Library(
    title="RLlib",
    requirements=("ray[rllib]==2.60.0",),
    recipes=(Recipe(measure),),
    shown=("ray", "gymnasium", "torch"),
)
