"""Features of token observations for the networks of Stable-Baselines3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from text_gym.episode import BoolArray
from text_gym.errors import ConfigError

Observation = dict[str, npt.NDArray[Any]]
Info = dict[str, Any]
StepReturn = tuple[Observation, npt.NDArray[np.float32], BoolArray, list[Info]]


class TokenFeatures(BaseFeaturesExtractor):  # type: ignore[misc, unused-ignore]
    """Features of a token observation, for `policy_kwargs` of any SB3 algorithm.

    - `"positions"`: an embedding for each token at each place, summed; followed by SB3's own layers this is
      an MLP on one-hot inputs. The best choice for the classic tasks: few tokens, all at fixed places.
    - `"gru"`: embeddings through a GRU, its state after the last token.
    - `"transformer"`: embeddings and positions through a transformer encoder, its output at the last token.

    Args:
        observation_space: A `Dict` with `tokens`, `attention_mask` and `length`; with `remaining`, the
            features know the clock too, without which values cannot be right where prompts differ in length.
        encoder: Which of the three.
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
        encoder: Literal["positions", "gru", "transformer"] = "positions",
        width: int = 128,
        layers: int = 1,
    ) -> None:
        super().__init__(observation_space, features_dim=width)
        if encoder not in ("positions", "gru", "transformer"):
            raise ConfigError(f"encoder is {encoder!r}; choose positions, gru or transformer")
        if encoder == "transformer" and width % 4:
            raise ConfigError(f"width is {width}; a transformer of 4 heads needs a multiple of 4")
        if not isinstance(observation_space, spaces.Dict):
            raise ConfigError(f"TokenFeatures reads a Dict with 'tokens', not {observation_space}")
        tokens = observation_space["tokens"]
        assert isinstance(tokens, spaces.Box)
        self.encoder = encoder
        clock = observation_space.spaces.get("remaining")
        self.limit = float(clock.high.max()) if isinstance(clock, spaces.Box) else 1.0
        self.clock = None if clock is None else nn.Parameter(torch.zeros(width))
        self.padding = int(tokens.high.max()) + 1  # a separate id, since padding may share its id with EOS
        size = tokens.shape[0]
        count = (self.padding + 1) * (size if encoder == "positions" else 1)
        self.embedding = nn.Embedding(count, width)
        if encoder == "positions":
            self.register_buffer("offsets", torch.arange(size) * (self.padding + 1))
            nn.init.normal_(self.embedding.weight, std=size**-0.5)
        elif encoder == "gru":
            self.gru = nn.GRU(width, width, layers, batch_first=True)
        else:
            self.positions = nn.Parameter(torch.randn(size, width))
            block = nn.TransformerEncoderLayer(
                width, 4, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            self.blocks = nn.TransformerEncoder(
                block, layers, nn.LayerNorm(width), enable_nested_tensor=False
            )

    def forward(self, observations: Mapping[str, Tensor]) -> Tensor:
        """Compute `(B, width)` float32 features of observations, however SB3 has cast them."""
        there = observations["attention_mask"] > 0  # (B, S)
        tokens = torch.where(there, observations["tokens"].long(), self.padding)
        if self.encoder == "positions":
            x = self.embedding(tokens + self.get_buffer("offsets")).sum(dim=1)
            return torch.tanh(self._with_clock(x, observations))
        x = self.embedding(tokens)  # (B, S, width)
        if self.encoder == "gru":
            x, _ = self.gru(x)
        else:
            x = self.blocks(x + self.positions, src_key_padding_mask=~there)
        last = observations["length"].long().flatten() - 1
        return self._with_clock(x[torch.arange(len(x), device=x.device), last], observations)

    def _with_clock(self, x: Tensor, observations: Mapping[str, Tensor]) -> Tensor:
        """Append the share of tokens left to the features `(B, width)`."""
        if self.clock is None:
            return x
        return x + self.clock * (observations["remaining"].reshape(-1, 1) / self.limit)
