"""Features of token observations for the networks of Stable-Baselines3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from text_gym.agents.adapters.token_encoder import Encoder, TokenEncoder
from text_gym.episode import BoolArray
from text_gym.errors import ConfigError

Observation = dict[str, npt.NDArray[Any]]
Info = dict[str, Any]
StepReturn = tuple[Observation, npt.NDArray[np.float32], BoolArray, list[Info]]


class TokenFeatures(BaseFeaturesExtractor):  # type: ignore[misc, unused-ignore]
    """Features of a token observation, for `policy_kwargs` of any SB3 algorithm.

    SB3's own features of token ids are the ids as numbers, from which nothing can be learnt; these are those
    of `TokenEncoder`.

    Args:
        observation_space: A `Dict` with `tokens`, `attention_mask` and `length`; with `remaining`, the
            features know the clock too, without which values cannot be right where prompts differ in length.
        encoder: `"positions"`, `"gru"` or `"transformer"`, as `TokenEncoder` describes them.
        width: Number of features, a multiple of 4 for the transformer.
        layers: Of the GRU or transformer.

    >>> from stable_baselines3 import PPO
    >>> from text_gym import TextVectorEnv
    >>> from text_gym.agents import SB3VecEnv
    >>> env = SB3VecEnv(TextVectorEnv(task="copy", num_envs=8, autoreset_mode="SameStep"))
    >>> policy_kwargs = {"features_extractor_class": TokenFeatures}
    >>> agent = PPO("MultiInputPolicy", env, n_steps=8, policy_kwargs=policy_kwargs)
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        encoder: Encoder = "positions",
        width: int = 128,
        layers: int = 1,
    ) -> None:
        super().__init__(observation_space, features_dim=width)
        if not isinstance(observation_space, spaces.Dict):
            raise ConfigError(
                f"TokenFeatures reads a Dict with 'tokens', not {observation_space}; of "
                'observation="ids" and "onehot" SB3 makes features itself: take "MlpPolicy" without it'
            )
        self.encoder = TokenEncoder.of(observation_space, encoder, width, layers)

    def forward(self, observations: Mapping[str, Tensor]) -> Tensor:
        """Compute `(B, width)` float32 features of observations, however SB3 has cast them."""
        features: Tensor = self.encoder(
            observations["tokens"], observations["attention_mask"], observations.get("remaining")
        )
        return features
