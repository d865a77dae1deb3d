"""Tianshou: actors and critics for token observations, and the network in front of their own layers.

Environments, collectors, policies and algorithms are Tianshou's own; `docs/your-library.md` has a recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from text_gym.agents.adapters.token_encoder import Encoder, TokenEncoder
from text_gym.errors import MissingLibraryError

try:
    from tianshou.data import Batch
    from tianshou.utils.net.common import ModuleWithVectorOutput
    from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic
except ModuleNotFoundError as error:
    raise MissingLibraryError("text_gym.agents.adapters.tianshou", "tianshou", "tianshou") from error


class TokenPreprocess(ModuleWithVectorOutput):  # type: ignore[misc, unused-ignore]
    """Features of token observations, a `preprocess_net` for any of Tianshou's actors and critics.

    Tianshou's `SpaceInfo` and `Net` know boxes only: make the environment with `observation="onehot"` for
    these, or put this in the place of `Net`. In both cases make it with `infos="none"`: Tianshou stores infos
    beside the observations, and refuses those whose keys change from step to step.

    Args:
        space: A single environment's observations: `observation="tokens"` or `"ids"`.
        encoder: As for `TokenEncoder`.
        width: Number of features.
    """

    def __init__(self, space: spaces.Space[Any], encoder: Encoder = "positions", width: int = 128) -> None:
        super().__init__(width)
        self.encoder = TokenEncoder.of(space, encoder, width)

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> tuple[Tensor, Any]:
        """Compute features `(B, width)` of a batch of observations; the state is given back as it came."""
        device = next(self.parameters()).device
        names = ("tokens", "attention_mask", "remaining")
        parts = [obs[k] for k in names if k in obs] if isinstance(obs, (Batch, Mapping)) else [obs]
        return self.encoder(*(torch.as_tensor(part, device=device) for part in parts)), state


class TokenActor(DiscreteActor):  # type: ignore[misc, unused-ignore]
    """A `DiscreteActor` that does not draw what the observation's `action_mask` forbids."""

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> tuple[Tensor, Any]:
        """Compute logits `(B, V)`, −∞ for what a mask forbids."""
        logits, state = super().forward(obs, state, info)
        if isinstance(obs, (Batch, Mapping)) and "action_mask" in obs:
            allowed = torch.as_tensor(obs["action_mask"], device=logits.device)
            logits = logits.masked_fill(allowed == 0, -torch.inf)
        return logits, state


def token_networks(
    space: spaces.Space[Any], actions: spaces.Discrete, encoder: Encoder = "positions", width: int = 128
) -> tuple[Any, Any]:
    """Make a `TokenActor`, whose outputs are logits, and a `DiscreteCritic` of a single environment.

    Args:
        space: The observations, as for `TokenPreprocess`.
        actions: The actions.
        encoder: Of both, as for `TokenEncoder`.
        width: Units of their layers.
    """
    actor = TokenActor(
        preprocess_net=TokenPreprocess(space, encoder, width),
        action_shape=int(actions.n),
        hidden_sizes=[width],
        softmax_output=False,
    )
    return actor, DiscreteCritic(preprocess_net=TokenPreprocess(space, encoder, width), hidden_sizes=[width])
