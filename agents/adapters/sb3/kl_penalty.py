"""Gives `KLPenalty` the log-probabilities of a Stable-Baselines3 policy's actions."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from text_gym.agents.adapters.kl_penalty import LogProbs, Observation
from text_gym.episode import IntArray
from text_gym.errors import ConfigError

from .policy import LanguageModelPolicy


def sb3_log_probs(policy: BasePolicy) -> LogProbs:
    """Return the function that tells `KLPenalty.follow` how likely a policy's actions are.

    A `LanguageModelPolicy` remembers what it has just drawn and computes nothing; any other policy that has
    an action distribution computes it once more.

    Args:
        policy: `model.policy` of PPO, A2C or sb3-contrib's MaskablePPO.

    Raises:
        ConfigError: The policy has no action distribution (DQN), or one that depends on a recurrent state.

    >>> from stable_baselines3 import PPO
    >>> from text_gym import ByteTokenizer, TextVectorEnv
    >>> from text_gym.agents import KLPenalty, Policy, SB3VecEnv, TokenFeatures
    >>> envs = TextVectorEnv(["a"], ByteTokenizer(), len, 3, num_envs=2, autoreset_mode="SameStep")
    >>> reference = Policy.new(ByteTokenizer(), width=16, layers=1, context=8)
    >>> env = SB3VecEnv(KLPenalty(envs, reference, kl_coef=0.05))
    >>> kwargs = {"features_extractor_class": TokenFeatures}
    >>> model = PPO("MultiInputPolicy", env, n_steps=8, batch_size=16, policy_kwargs=kwargs)
    >>> env = env.follow(model.policy)  # env.env.follow(sb3_log_probs(model.policy))
    """
    if isinstance(policy, LanguageModelPolicy):
        return policy.log_probs
    asked: Any = getattr(policy, "get_distribution", None)
    arguments = {} if asked is None else inspect.signature(asked).parameters
    if asked is None or "lstm_states" in arguments:
        raise ConfigError(
            f"{type(policy).__name__} cannot be asked for the log-probability of an action; "
            "KLPenalty is for the policies of PPO, A2C and MaskablePPO"
        )
    masked = "action_masks" in arguments

    @torch.no_grad()
    def log_probs(observation: Observation, actions: IntArray) -> Tensor:
        shown = {key: np.asarray(value) for key, value in observation.items()}
        extra = {"action_masks": shown["action_mask"]} if masked and "action_mask" in shown else {}
        distribution = asked(policy.obs_to_tensor(shown)[0], **extra)
        result: Tensor = distribution.log_prob(torch.as_tensor(actions, device=policy.device))
        return result

    return log_probs
