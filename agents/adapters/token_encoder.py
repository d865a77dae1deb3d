"""Turns token observations into features, in plain PyTorch, for the networks of any library.

It reads what environments show and needs none of them; language models are `Policy`'s business.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from gymnasium import spaces
from torch import Tensor, nn

from text_gym.errors import ConfigError

Encoder = Literal["positions", "gru", "transformer"]


class TokenEncoder(nn.Module):
    """Encodes a text of at most `S` tokens into `width` features.

    - `"positions"`: an embedding for each token at each place, summed: a linear layer on one-hot inputs. The
      best choice for the classic tasks: few tokens, all at fixed places.
    - `"gru"`: embeddings through a GRU, its state after the last token.
    - `"transformer"`: embeddings and positions through a transformer encoder, its output at the last token.

    Args:
        vocab_size: `V`; ids of `V` and more are padding, whatever the mask says.
        length: `S`.
        kind: Which of the three.
        width: Number of features, a multiple of 4 for the transformer.
        layers: Of the GRU or transformer.
        limit: The largest value of `remaining`, or None if observations show no clock.

    Raises:
        ConfigError: A setting or a space that makes no sense; what to choose is told.

    >>> encoder = TokenEncoder(vocab_size=4, length=6, kind="gru", width=8)
    >>> tokens = torch.tensor([[2, 0, 1, 0, 0, 0]])
    >>> encoder(tokens, attention_mask=torch.tensor([[1, 1, 1, 0, 0, 0]])).shape
    torch.Size([1, 8])
    """

    def __init__(
        self,
        vocab_size: int,
        length: int,
        kind: Encoder = "positions",
        width: int = 128,
        layers: int = 1,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        if kind not in ("positions", "gru", "transformer"):
            raise ConfigError(f"encoder is {kind!r}; choose positions, gru or transformer")
        if kind == "transformer" and width % 4:
            raise ConfigError(f"width is {width}; a transformer of 4 heads needs a multiple of 4")
        self.kind, self.width, self.limit = kind, width, limit
        self.padding = vocab_size  # an id of its own, since padding may share its id with EOS
        self.clock = None if limit is None else nn.Parameter(torch.zeros(width))
        count = (vocab_size + 1) * (length if kind == "positions" else 1)
        self.embedding = nn.Embedding(count, width)
        if kind == "positions":
            self.register_buffer("offsets", torch.arange(length) * (vocab_size + 1), persistent=False)
            nn.init.normal_(self.embedding.weight, std=length**-0.5)
        elif kind == "gru":
            self.gru = nn.GRU(width, width, layers, batch_first=True)
        else:
            self.positions = nn.Parameter(torch.randn(length, width))
            block = nn.TransformerEncoderLayer(
                width, 4, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            self.blocks = nn.TransformerEncoder(
                block, layers, nn.LayerNorm(width), enable_nested_tensor=False
            )

    @classmethod
    def of(
        cls, space: spaces.Space[Any], kind: Encoder = "positions", width: int = 128, layers: int = 1
    ) -> TokenEncoder:
        """Make the encoder that fits a single environment's observations, `"tokens"` or `"ids"`.

        Raises:
            ConfigError: The space is of another kind.
        """
        if isinstance(space, spaces.MultiDiscrete):  # the last id is padding
            return cls(int(space.nvec.max()) - 1, len(space.nvec), kind, width, layers)
        if not isinstance(space, spaces.Dict) or not {"tokens", "attention_mask"} <= set(space.spaces):
            raise ConfigError(
                f"features are read from a Dict with 'tokens' and 'attention_mask', not {space}; make the "
                'environment with observation="tokens" (or "ids"), and put wrappers around what reads it'
            )
        tokens, clock = space["tokens"], space.spaces.get("remaining")
        assert isinstance(tokens, spaces.Box)
        limit = int(clock.high.max()) if isinstance(clock, spaces.Box) else None
        return cls(int(tokens.high.max()) + 1, tokens.shape[0], kind, width, layers, limit)

    def forward(
        self, tokens: Tensor, attention_mask: Tensor | None = None, remaining: Tensor | None = None
    ) -> Tensor:
        """Compute features `(..., width)` float32.

        Args:
            tokens: `(..., S)`, padded on either side, of any dtype.
            attention_mask: `(..., S)`, positive where there is a token; None if padding has an id of its own.
            remaining: `(..., 1)`, how many tokens are left; read by encoders that have a `limit`.
        """
        batch, size = tokens.shape[:-1], tokens.shape[-1]
        ids = tokens.reshape(-1, size).long()
        there = ids < self.padding
        if attention_mask is not None:
            there = there & (attention_mask.reshape(-1, size) > 0)
        ids = torch.where(there, ids, self.padding)
        if self.kind == "positions":
            x = self.embedding(ids + self.get_buffer("offsets")).sum(dim=1)
        else:
            x = self.embedding(ids)  # (B, S, width)
            if self.kind == "gru":
                x, _ = self.gru(x)
            else:
                x = self.blocks(x + self.positions, src_key_padding_mask=~there)
            last = (there * torch.arange(size, device=ids.device)).amax(dim=1)
            x = x[torch.arange(len(x), device=x.device), last]
        if self.clock is not None and remaining is not None:
            assert self.limit is not None
            x = x + self.clock * (remaining.reshape(-1, 1) / self.limit)
        return (torch.tanh(x) if self.kind == "positions" else x).reshape(*batch, self.width)


class TokenNetwork(nn.Module):
    """A `TokenEncoder`, a hidden layer and a linear output, as actors, critics and Q-networks need them.

    Args:
        space: A single environment's observation space, as for `TokenEncoder.of`.
        outputs: How many numbers come out: `V` for an actor, 1 for a critic.
        kind: Of the encoder.
        width: Units of encoder and hidden layer.
        gain: Scale of the output's weights at the start; an actor's are small, so that it begins near random.

    >>> import gymnasium as gym, text_gym
    >>> env = gym.make("text_gym/Reverse-v0")
    >>> observation = {k: torch.as_tensor(v)[None] for k, v in env.reset(seed=0)[0].items()}
    >>> actor = TokenNetwork(env.observation_space, outputs=int(env.action_space.n), gain=0.01)
    >>> actor(observation["tokens"], observation["attention_mask"], observation["remaining"]).shape
    torch.Size([1, 4])
    """

    def __init__(
        self,
        space: spaces.Space[Any],
        outputs: int,
        kind: Encoder = "positions",
        width: int = 128,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.encoder = TokenEncoder.of(space, kind, width)
        self.hidden, self.head = nn.Linear(width, width), nn.Linear(width, outputs)
        for layer, scale in ((self.hidden, 2**0.5), (self.head, gain)):
            nn.init.orthogonal_(layer.weight, scale)
            nn.init.zeros_(layer.bias)

    def forward(
        self, tokens: Tensor, attention_mask: Tensor | None = None, remaining: Tensor | None = None
    ) -> Tensor:
        """Compute outputs `(..., outputs)` of what `TokenEncoder.forward` takes."""
        features = self.encoder(tokens, attention_mask, remaining)
        outputs: Tensor = self.head(torch.tanh(self.hidden(features)))
        return outputs
