"""TRL."""

from __future__ import annotations

from .library import Library, Names, Recipe
from .tool_caller import make


def measure(names: Names, env_id: str) -> float:
    """Return the mean reward of the trainer's model on the task's held-out prompts, sampled."""
    from text_gym.agents import Policy, evaluate
    from text_gym.envs.vector import TextVectorEnv

    task = names["task"]
    policy = Policy(names["trainer"].accelerator.unwrap_model(names["trainer"].model), task.tokenizer, "cpu")
    env = TextVectorEnv(**task.env_kwargs(prompts=list(task.held_out)), num_envs=64)
    return evaluate(policy, env).reward.mean


LIBRARY = Library(
    title="TRL",
    requirements=("trl==1.16.0",),
    recipes=(Recipe(measure, env_ids=("text_gym/Products-v0",)),),
    shown=("trl", "transformers", "datasets", "torch"),
    extras=("trl",),
    prepare=make,
)
