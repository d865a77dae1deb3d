"""Feature observations show a frozen language model's hidden state instead of tokens.

With them a plain MLP policy of any library learns on top of a language model. The model reads each
token once (key-value cached) and is not trained.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from text_gym.agents.policies.policy import Policy
from text_gym.agents.sampling.prefix_cache import PrefixCache
from text_gym.envs.single import TextEnv
from text_gym.envs.vector import TextVectorEnv
from text_gym.errors import ConfigError

Features = npt.NDArray[np.float32]
_LIMIT = float(np.finfo(np.float32).max)


class VectorFeatures(VectorWrapper):  # type: ignore[type-arg, unused-ignore]  # generic since Gymnasium 1.4
    """A vector environment whose observation is `(D,)` float32: the model's state at the last token.

    Args:
        env: A `TextVectorEnv`, wrapped or not, that still shows `tokens` and `length`.
        policy: The language model; its tokenizer must be the environment's.

    Raises:
        ConfigError: Another tokenizer, or a wrapper has changed the observation.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], policy: Policy) -> None:
        super().__init__(env)
        _check(env.unwrapped, env.single_observation_space, policy)
        self.single_observation_space = _space(policy)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        width = env.single_observation_space["tokens"].shape[0]  # type: ignore[index]
        self._cache = PrefixCache(policy, env.num_envs, width)
        self._final = PrefixCache(policy, 1, width)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Features, dict[str, Any]]:
        """Reset, and read the prompts."""
        observation, info = self.env.reset(seed=seed, options=options)
        return _read(self._cache, observation), info

    def step(self, actions: Any) -> tuple[Features, Any, Any, Any, dict[str, Any]]:
        """Step, and read the new tokens; `final_obs` are features too."""
        observation, rewards, terminated, truncated, infos = self.env.step(actions)
        if "final_obs" in infos:
            final = infos["final_obs"]
            for i in np.flatnonzero(infos["_final_obs"]):
                final[i] = _read(self._final, {k: v[None] for k, v in final[i].items()})[0]
        return _read(self._cache, observation), rewards, terminated, truncated, infos


class FeatureObservation(gym.ObservationWrapper[Any, Any, Any], gym.utils.RecordConstructorArgs):
    """The same wrapper for a single environment.

    Args:
        env: A `TextEnv`, wrapped or not, that still shows `tokens` and `length`.
        policy: The language model.
    """

    def __init__(self, env: gym.Env[Any, Any], policy: Policy) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, policy=policy)
        gym.ObservationWrapper.__init__(self, env)
        _check(env.unwrapped, env.observation_space, policy)
        self.observation_space = _space(policy)
        width = env.observation_space["tokens"].shape[0]  # type: ignore[index]
        self._cache = PrefixCache(policy, 1, width)

    def observation(self, observation: Any) -> Features:
        """Return the features, `(D,)` float32."""
        features: Features = _read(self._cache, {k: v[None] for k, v in observation.items()})[0]
        return features


def _read(cache: PrefixCache, observation: dict[str, npt.NDArray[Any]]) -> Features:
    states = cache.read(observation["tokens"], observation["length"][:, 0])
    features: Features = states.float().cpu().numpy().astype(np.float32, copy=True)
    return features


def _space(policy: Policy) -> Box:
    width = policy.value_head.in_features
    return Box(-_LIMIT, _LIMIT, (width,), np.float32)


def _check(env: Any, space: Any, policy: Policy) -> None:
    if not isinstance(env, (TextEnv, TextVectorEnv)):
        raise ConfigError(f"features are read from text environments, this is a {type(env).__name__}")
    if not isinstance(space, gym.spaces.Dict) or not {"tokens", "length"} <= set(space.spaces):
        raise ConfigError("the observation shows no tokens and length; put the feature wrapper on first")
    tokenizer = env.vector.tokenizer if isinstance(env, TextEnv) else env.tokenizer
    if tokenizer.fingerprint != policy.tokenizer.fingerprint:
        raise ConfigError("the language model and the environment have different tokenizers")
