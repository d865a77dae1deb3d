"""Makes an algorithm of Stable-Baselines3 for a task: its environment, its networks and its settings.

Hyperparameters here solve the classic tasks; anything further is better done in SB3's own words, with
`SB3VecEnv` and the algorithm's constructor.
"""

from __future__ import annotations

import importlib
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecMonitor

from text_gym.agents.adapters.episode_statistics import EpisodeStatistics
from text_gym.agents.adapters.kl_penalty import KLPenalty
from text_gym.agents.policies.policy import Policy
from text_gym.envs.vector import TextVectorEnv
from text_gym.errors import ConfigError, UnknownNameError
from text_gym.tasks.task import Task

from .buffer import SequenceRolloutBuffer
from .config import SB3_ALGORITHMS, SB3Config
from .features import TokenFeatures
from .policy import LanguageModelPolicy
from .vec_env import SB3VecEnv

OFF_POLICY = ("dqn", "qr_dqn")
FOR_LANGUAGE_MODELS = ("ppo", "a2c", "maskable_ppo")


def make_sb3(
    algorithm: str,
    task: Task,
    config: SB3Config,
    *,
    policy: Policy | None = None,
    device: str = "auto",
    **env_kwargs: Any,
) -> BaseAlgorithm:
    """Make the algorithm with its environment, ready to learn; the arguments are those of `train_sb3`."""
    algorithm_class = _load(algorithm)
    env = TextVectorEnv(**task.env_kwargs(**env_kwargs), num_envs=config.num_envs, autoreset_mode="SameStep")
    settings = _settings(algorithm, config, rollout_steps(config, task, policy), policy is None)
    settings |= {"seed": config.seed, "device": device, "verbose": 0}
    model: BaseAlgorithm
    if policy is None:
        name = "MultiInputLstmPolicy" if algorithm == "recurrent_ppo" else "MultiInputPolicy"
        networks = {
            "features_extractor_class": TokenFeatures,
            "features_extractor_kwargs": {"encoder": config.encoder, "width": config.width},
            "net_arch": [config.width, config.width],
        }
        model = algorithm_class(name, VecMonitor(SB3VecEnv(env)), policy_kwargs=networks, **settings)
    elif algorithm in FOR_LANGUAGE_MODELS:
        # Statistics inside the penalty: what SB3 logs is the task's own return.
        penalised = SB3VecEnv(KLPenalty(EpisodeStatistics(env), policy, config.kl_coef))
        model = algorithm_class(
            LanguageModelPolicy,
            penalised,
            policy_kwargs={"language_model": policy, "exact_entropy": False},
            rollout_buffer_class=SequenceRolloutBuffer,
            **settings,
        )
        penalised.follow(model.policy)
    else:
        raise ConfigError(
            f"sb3.{algorithm} cannot train a language model; choose "
            + " or ".join(f"sb3.{name}" for name in FOR_LANGUAGE_MODELS)
        )
    return model


def rollout_steps(config: SB3Config, task: Task, policy: Policy | None) -> int:
    """Return how many tokens a row plays per iteration."""
    return config.n_steps or (32 if policy is None else task.max_tokens)


def _settings(algorithm: str, config: SB3Config, n_steps: int, from_scratch: bool) -> dict[str, Any]:
    """Return the arguments of an algorithm's constructor that `SB3Config` decides."""
    rate = config.learning_rate or (1e-3 if from_scratch else 3e-4)
    settings: dict[str, Any] = {
        "learning_rate": LinearSchedule(rate, 0.0, 1.0) if config.anneal else rate,
        "gamma": config.gamma,
    }
    if algorithm in OFF_POLICY:
        return settings | {
            "buffer_size": 50_000,
            "learning_starts": 2_000,
            "batch_size": config.batch_size,
            "train_freq": 1,
            "gradient_steps": 1,
            "target_update_interval": 2_000,
            "exploration_fraction": 0.3,
        }
    settings |= {"ent_coef": config.ent_coef if from_scratch else 0.0, "vf_coef": config.vf_coef}
    if algorithm == "a2c":
        return settings | {"n_steps": max(1, n_steps // 8) if from_scratch else n_steps}
    return settings | {
        "n_steps": n_steps,
        "batch_size": config.batch_size,
        "n_epochs": config.n_epochs,
        "gae_lambda": config.gae_lambda,
    }


def _load(algorithm: str) -> Any:
    if algorithm not in SB3_ALGORITHMS:
        raise UnknownNameError("algorithm", algorithm, SB3_ALGORITHMS)
    module, name = SB3_ALGORITHMS[algorithm].split(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ConfigError(f"sb3.{algorithm} needs {module}; pip install sb3-contrib") from error
