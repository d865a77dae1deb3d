"""RLlib: an `RLModule` that reads token observations.

Env runners, learners and algorithms are RLlib's own; `docs/your-library.md` has a recipe. On remote runners
ids must say where they come from, as in `"text_gym:text_gym/Reverse-v0"`, since Ray's processes import
nothing else.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from text_gym.agents.adapters.token_encoder import TokenNetwork
from text_gym.errors import MissingLibraryError

try:
    from ray.rllib.core.columns import Columns
    from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
    from ray.rllib.core.rl_module.torch import TorchRLModule
except ModuleNotFoundError as error:
    raise MissingLibraryError("text_gym.agents.adapters.rllib", "ray", "ray[rllib]") from error


class TokenRLModule(TorchRLModule, ValueFunctionAPI):  # type: ignore[misc, unused-ignore]
    """An actor and a critic on token observations, for PPO, IMPALA and their kin on RLlib's new stack.

    Named in an `RLModuleSpec`, whose `model_config` may have `encoder` (`"positions"`, `"gru"` or
    `"transformer"`) and `width`. Forbidden tokens are not drawn where observations have an `action_mask`.
    """

    def setup(self) -> None:
        """Make the networks for the spaces that RLlib has set."""
        settings = dict(self.model_config or {})
        encoder, width = settings.get("encoder", "positions"), settings.get("width", 128)
        outputs = int(self.action_space.n)
        self.actor = TokenNetwork(self.observation_space, outputs, encoder, width, gain=0.01)
        self.critic = TokenNetwork(self.observation_space, 1, encoder, width)

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        observation = batch[Columns.OBS]
        logits = self.actor(*_shown(observation))
        if isinstance(observation, dict) and "action_mask" in observation:
            allowed = observation["action_mask"] > 0
            logits = logits.masked_fill(~allowed, torch.finfo(logits.dtype).min)
        return {Columns.ACTION_DIST_INPUTS: logits}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """Compute the values of a batch's states, `(B,)` or `(B, T)`."""
        values: Tensor = self.critic(*_shown(batch[Columns.OBS])).squeeze(-1)
        return values


def _shown(observation: Any) -> list[Tensor]:
    """Return what an encoder reads of an observation."""
    if not isinstance(observation, dict):
        return [observation]
    return [observation[k] for k in ("tokens", "attention_mask", "remaining") if k in observation]
