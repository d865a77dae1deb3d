"""skrl: a text environment in the mode that it wants, and its models for token observations.

Agents, memories and trainers are skrl's own; `docs/your-library.md` has a recipe with them.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from torch import Tensor

from text_gym.agents.adapters.token_encoder import Encoder, TokenNetwork
from text_gym.errors import ConfigError, MissingLibraryError

try:
    from skrl.envs.wrappers.torch import wrap_env
    from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
    from skrl.utils.spaces.torch import unflatten_tensorized_space
except ModuleNotFoundError as error:
    raise MissingLibraryError("text_gym.agents.adapters.skrl", "skrl", "skrl") from error


def skrl_env(env: str | gym.vector.VectorEnv[Any, Any, Any], num_envs: int = 1, **kwargs: Any) -> Any:
    """Make skrl's environment of a text environment, with `num_envs` rows.

    Rows restart in the step in which an episode ends (`SameStep`), so that every step is a transition; with
    Gymnasium's default skrl would learn from the steps that only restart, 1 in 6 with 5-token episodes.

    Args:
        env: A registered id; or a vector environment in that mode, for wrappers such as `KLPenalty`.
        num_envs: `B`.
        **kwargs: Of the environment, for an id.

    Raises:
        ConfigError: The vector environment restarts rows in another way.
    """
    if isinstance(env, str):
        env = gym.make_vec(env, num_envs=num_envs, autoreset_mode="SameStep", **kwargs)
    mode = env.metadata.get("autoreset_mode")
    if isinstance(env, gym.vector.VectorEnv) and mode is not gym.vector.AutoresetMode.SAME_STEP:
        raise ConfigError(
            f"skrl learns from every step, and with {mode} some only restart or fail: make the environment "
            'with autoreset_mode="SameStep"'
        )
    return wrap_env(env, wrapper="gymnasium", verbose=False)


def token_models(env: Any, encoder: Encoder = "positions", width: int = 128) -> dict[str, Any]:
    """Make a policy and a critic that learn from scratch, as the `models` of skrl's agents.

    Args:
        env: From `skrl_env` or `wrap_env`, with `observation="tokens"`.
        encoder: Of both, as for `TokenEncoder`.
        width: Units of their layers.
    """
    settings = (env.observation_space, env.action_space, env.device, encoder, width)
    return {"policy": TokenPolicy(*settings), "value": TokenValue(*settings)}


class _TokenModel(Model):  # type: ignore[misc, unused-ignore]
    """A `TokenNetwork` that reads what skrl has flattened."""

    def __init__(
        self, spaces: tuple[Any, Any], device: Any, outputs: int, encoder: Encoder, width: int, gain: float
    ) -> None:
        Model.__init__(self, observation_space=spaces[0], action_space=spaces[1], device=device)
        self.network = TokenNetwork(spaces[0], outputs, encoder, width, gain)

    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        """Return the network's outputs `(B, …)` for `inputs["observations"]`, −∞ for what a mask forbids."""
        shown = unflatten_tensorized_space(self.observation_space, inputs["observations"])
        outputs = self.network(shown["tokens"], shown["attention_mask"], shown.get("remaining"))
        mask = shown.get("action_mask")
        if mask is not None and outputs.shape == mask.shape:
            outputs = outputs.masked_fill(mask == 0, -torch.inf)
        return outputs, {}


class TokenPolicy(CategoricalMixin, _TokenModel):  # type: ignore[misc, unused-ignore]
    """A policy over tokens; what the observation's `action_mask` forbids is not drawn.

    Args:
        observation_space: Of one row, with `tokens` and `attention_mask`.
        action_space: `Discrete(V)`.
        device: Of skrl.
        encoder: As for `TokenEncoder`.
        width: Units of its layers.
    """

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.spaces.Discrete,
        device: Any = None,
        encoder: Encoder = "positions",
        width: int = 128,
    ) -> None:
        outputs = int(action_space.n)
        _TokenModel.__init__(
            self, (observation_space, action_space), device, outputs, encoder, width, gain=0.01
        )
        CategoricalMixin.__init__(self)


class TokenValue(DeterministicMixin, _TokenModel):  # type: ignore[misc, unused-ignore]
    """A critic of token observations; the arguments are those of `TokenPolicy`."""

    def __init__(
        self,
        observation_space: gym.Space[Any],
        action_space: gym.spaces.Discrete,
        device: Any = None,
        encoder: Encoder = "positions",
        width: int = 128,
    ) -> None:
        _TokenModel.__init__(self, (observation_space, action_space), device, 1, encoder, width, gain=1.0)
        DeterministicMixin.__init__(self)
