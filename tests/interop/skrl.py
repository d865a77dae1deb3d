"""skrl."""

from __future__ import annotations

from .library import Library, Names, Recipe, drawn, mean_return, tensors


def measure(names: Names, env_id: str) -> float:
    """Return the mean return of the policy of the block's `agent`, sampled."""
    import torch

    network = names["agent"].policy.network
    keys = ("tokens", "attention_mask", "remaining")
    with torch.no_grad():
        return mean_return(lambda shown: drawn(network(*(tensors(shown)[k] for k in keys))), env_id)


LIBRARY = Library(
    title="skrl",
    requirements=("skrl==2.1.1",),
    recipes=(Recipe(measure),),
    shown=("skrl", "gymnasium", "torch"),
    extras=("skrl",),
)
