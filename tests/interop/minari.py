"""Minari."""

from __future__ import annotations

from .library import Library, Names, Recipe


def measure(names: Names, env_id: str) -> float:
    """Return the mean reward of the block's `policy` on the task's held-out prompts."""
    from text_gym.agents import evaluate
    from text_gym.envs.vector import TextVectorEnv

    return evaluate(names["policy"], TextVectorEnv(task=names["task"], num_envs=100)).reward.mean


LIBRARY = Library(
    title="Minari",
    requirements=("minari[all]==0.5.4",),
    recipes=(Recipe(measure, env_ids=("text_gym/Reverse-v0",)),),
    shown=("minari", "gymnasium", "torch"),
    extras=("minari",),
)
