"""Tianshou."""

from __future__ import annotations

from .library import Library, Names, Recipe, drawn, mean_return


def measure(names: Names, env_id: str) -> float:
    """Return the mean return of the block's `actor`, sampled."""
    import torch

    with torch.no_grad():
        return mean_return(lambda ids: drawn(names["actor"](ids)[0]), env_id, observation="ids")


LIBRARY = Library(
    title="Tianshou",
    requirements=("tianshou==2.0.1",),
    recipes=(Recipe(measure),),
    shown=("tianshou", "gymnasium", "torch"),
)
