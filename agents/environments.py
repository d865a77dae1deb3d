"""What our agents accept as policy and environment, and the line to write where it is something else.

Agents play texts by an `EpisodeBatch` and never call `step`. A text environment of Gymnasium therefore
becomes a `TextVectorEnv` over the same prompts, tokens, rewards and options; one whose wrappers would be
passed over is refused.
"""

from __future__ import annotations

import operator
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker

from text_gym.agents.policies.policy import Policy
from text_gym.envs.options import EpisodeOptions, VectorOptions
from text_gym.envs.single import TextEnv
from text_gym.envs.vector import TextVectorEnv
from text_gym.errors import ConfigError, excerpt
from text_gym.rewards.source import FunctionReward, RewardSource
from text_gym.tasks.task import Task, env_ids

# What agents take for an environment.
ConfigT = TypeVar("ConfigT")
AgentEnv: TypeAlias = "TextVectorEnv | gym.Env[Any, Any] | VectorEnv[Any, Any, Any] | Task | str"
ROWS = 64  # episodes an iteration, where an environment does not say how many
_WRITE = 'write TextVectorEnv(task="products", num_envs=64), with your task, or prompts, tokenizer and reward'
_HARMLESS = (OrderEnforcing, PassiveEnvChecker)  # `gymnasium.make` puts them around every environment


def as_text_vector_env(env: AgentEnv) -> TextVectorEnv:
    """Return the environment that an agent plays for what it was given.

    A `TextVectorEnv` is itself. A single `TextEnv`, as `gymnasium.make` returns it, a `Task`, and the name of
    a task or of its Gymnasium id are played 64 episodes side by side. A `SyncVectorEnv` of equal text
    environments becomes one of as many rows.

    Raises:
        ConfigError: It is something else, has wrappers that an agent would pass over, or its parts differ;
            the line to write is told.
        UnknownNameError: There is no task of that name.
    """
    if isinstance(env, TextVectorEnv):
        return env
    if isinstance(env, Task):
        return TextVectorEnv(task=env, num_envs=ROWS)
    if isinstance(env, str):
        named: dict[str, Any] = env_ids().get(env) or {"task": env}
        return TextVectorEnv(**named, num_envs=ROWS)
    if isinstance(env, Policy):
        raise ConfigError("the policy comes first, then the environment: write Agent(policy, env)")
    if isinstance(env, SyncVectorEnv):
        return _of_equals([_single(part) for part in env.envs])
    if isinstance(env, gym.Env):
        return _rows_of(_single(env).vector, ROWS)
    if isinstance(env, VectorEnv):
        raise ConfigError(_refusal(env))
    raise ConfigError(f"an agent needs a text environment, not {type(env).__name__}; {_WRITE}")


def as_config(config: Any, kind: type[ConfigT]) -> ConfigT:
    """Return the settings that an agent was given, or those of its kind as they come.

    Raises:
        ConfigError: They are another agent's, or none.
    """
    if config is None:
        return kind()
    if isinstance(config, kind):
        return config
    given = f"the class {config.__name__}" if isinstance(config, type) else type(config).__name__
    raise ConfigError(
        f"the settings are {given}; write {kind.__name__}(...), with what differs from its defaults"
    )


def as_policy(policy: Any, env: TextVectorEnv) -> Policy:
    """Return the policy that an agent trains for what it was given: a `Policy`, or the folder of a saved one.

    Raises:
        ConfigError: It is something else; the line to write is told.
    """
    if isinstance(policy, Policy):
        return policy
    width = env.batch.tokens.shape[1]
    new = f"Policy.new(env.tokenizer, context={width}) for a small one to train from nothing"
    if isinstance(policy, (str, Path)):
        if Path(policy).is_dir():
            own = (Path(policy) / "tokenizer.json").is_file()  # byte and word tokenizers have no file
            return Policy.from_pretrained(policy, None if own else env.tokenizer)
        name = excerpt(str(policy))
        raise ConfigError(
            f"the policy {name} is no folder, and policies are language models here: write {new}, or "
            f"Policy.from_pretrained({name}) for a model of the hub"
        )
    if isinstance(policy, (gym.Env, VectorEnv)):
        raise ConfigError("the policy comes first, then the environment: write Agent(policy, env)")
    hint = ", or Policy(model, tokenizer) around a model of transformers" if hasattr(policy, "config") else ""
    raise ConfigError(f"an agent needs a Policy, not {type(policy).__name__}; write {new}{hint}")


def _single(env: Any) -> TextEnv:
    """Take off the wrappers that change nothing of an environment for one text at a time."""
    inner = env
    while isinstance(inner, _HARMLESS):
        inner = inner.env
    if not isinstance(inner, TextEnv):
        raise ConfigError(_refusal(inner))
    return inner


def _refusal(env: Any) -> str:
    name, inner = type(env).__name__, type(env.unwrapped).__name__
    if isinstance(env.unwrapped, (TextEnv, TextVectorEnv)):
        return (
            f"our agents write whole texts and never call step, so the wrapper {name} would be passed over; "
            "give the agent the environment without it (for rewards, write Scale, Clip or Shaped around the "
            "reward; limits are max_tokens)"
        )
    if isinstance(env, AsyncVectorEnv):
        return f"{name} plays its environments in other processes, where agents cannot write; {_WRITE}"
    return f"{inner} is no text environment; {_WRITE}"


def _rows_of(env: TextVectorEnv, rows: int) -> TextVectorEnv:
    """Return an environment of so many rows with the prompts, tokens, rewards and options of another."""
    groups = ((EpisodeOptions, env.batch.options), (VectorOptions, env.options))
    options = {f.name: getattr(given, f.name) for kind, given in groups for f in fields(kind)}
    given = (env.prompts, env.tokenizer, env.reward, env.max_tokens)
    return TextVectorEnv(*given, rows, task=env.task, **options)


def _of_equals(envs: list[TextEnv]) -> TextVectorEnv:
    first = envs[0].vector
    for i, env in enumerate(envs[1:], 1):
        other = env.vector
        same = {
            "prompts": len(first.prompts) == len(other.prompts)
            and all(map(operator.eq, first.prompts, other.prompts)),
            "tokenizers": first.tokenizer.fingerprint == other.tokenizer.fingerprint,
            "token limits": first.max_tokens == other.max_tokens,
            "options": first.batch.options == other.batch.options,
            "rewards": _same_reward(first, other),
        }
        if not all(same.values()):
            different = ", ".join(name for name, equal in same.items() if not equal)
            raise ConfigError(
                f"environments 0 and {i} of the SyncVectorEnv have different {different}, and an agent "
                f"learns in one environment; {_WRITE}, which plays num_envs texts of all its prompts"
            )
    return _rows_of(first, len(envs))


def _same_reward(first: TextVectorEnv, other: TextVectorEnv) -> bool:
    """Whether two environments pay alike: the same source or function, or the own reward of the same task."""

    def own(env: TextVectorEnv) -> bool:
        return env.task is not None and env.reward is env.task.reward and bool(env.task.settings)

    def function(reward: RewardSource) -> object:
        return reward.function if isinstance(reward, FunctionReward) else reward

    if own(first) and own(other) and first.task is not None and other.task is not None:
        return first.task.settings == other.task.settings
    return function(first.reward) is function(other.reward)
