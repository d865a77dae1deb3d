"""Small environments and language models for the tests of the Stable-Baselines3 adapter."""

from __future__ import annotations

from typing import Any

from stable_baselines3 import PPO

from text_gym import Task, TextVectorEnv, WordTokenizer
from text_gym.agents import LanguageModelPolicy, Policy, SB3VecEnv, SequenceRolloutBuffer, TokenFeatures

FEATURES = {"features_extractor_class": TokenFeatures, "features_extractor_kwargs": {"width": 32}}
TOKENIZER = WordTokenizer("abcde", separator="", pad=False)
PROMPTS = ["a", "bcd", "abcab", "dd"]


def task_env(task: str | Task = "copy", num_envs: int = 4, **kwargs: Any) -> Any:
    """A task in `SB3VecEnv`."""
    return SB3VecEnv(TextVectorEnv(task=task, num_envs=num_envs, autoreset_mode="SameStep", **kwargs))


def reference_of(task: Task, seed: int = 0) -> Policy:
    """A language model with random weights for a task."""
    return Policy.new(task.tokenizer, layers=1, width=32, context=16, seed=seed)


def letters_env(num_envs: int = 6, max_tokens: int = 5, **kwargs: Any) -> SB3VecEnv:
    """Prompts of different lengths; every `a` is worth 1."""

    def reward(completion: str) -> float:
        return completion.count("a")

    return SB3VecEnv(
        TextVectorEnv(
            PROMPTS, TOKENIZER, reward, max_tokens, num_envs=num_envs, autoreset_mode="SameStep", **kwargs
        )
    )


def language_model(**kwargs: Any) -> Policy:
    """Of the letters."""
    return Policy.new(TOKENIZER, **({"width": 16, "layers": 2, "context": 16} | kwargs))


def make_ppo(env: SB3VecEnv, lm: Policy | None = None, **kwargs: Any) -> Any:
    """PPO with a language model as its policy."""
    policy_kwargs = {"language_model": lm or language_model()} | kwargs.pop("policy_kwargs", {})
    settings: dict[str, Any] = {
        "n_steps": 11,
        "batch_size": 22,
        "gamma": 0.9,
        "seed": 0,
        "learning_rate": 1e-2,
    }
    return PPO(
        LanguageModelPolicy,
        env,
        policy_kwargs=policy_kwargs,
        rollout_buffer_class=SequenceRolloutBuffer,
        **(settings | kwargs),
    )
