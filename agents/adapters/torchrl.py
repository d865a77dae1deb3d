"""TorchRL: an environment in the mode that it wants, actors and critics, a language model as both.

Collectors, losses and value estimators are TorchRL's own; `docs/your-library.md` has a recipe with them.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn

from text_gym.agents.adapters.causal_actor_critic import CausalActorCritic, states_of
from text_gym.agents.adapters.fit import check_fit
from text_gym.agents.adapters.token_encoder import Encoder, TokenNetwork
from text_gym.agents.policies.policy import Policy
from text_gym.errors import MissingLibraryError

try:
    from tensordict.nn import TensorDictModule
    from torchrl.envs import GymWrapper
    from torchrl.modules import ActorValueOperator, MaskedCategorical, ProbabilisticActor, ValueOperator
except ModuleNotFoundError as error:
    raise MissingLibraryError("text_gym.agents.adapters.torchrl", "torchrl", "torchrl") from error


def torchrl_env(
    env: str | gym.vector.VectorEnv[Any, Any, Any],
    num_envs: int = 1,
    *,
    seed: int | None = None,
    **kwargs: Any,
) -> Any:
    """Make TorchRL's environment of a text environment, batched, with actions as ids.

    TorchRL resets rows itself, so that the environment's own mode must be `Disabled`: then every step is a
    transition, and the last observation of an episode is where TorchRL looks for it.

    Args:
        env: A registered id; or a vector environment in that mode, for wrappers such as `KLPenalty`.
        num_envs: `B`.
        seed: Of the first episodes' streams, as in `reset`.
        **kwargs: Of the environment, for an id.

    Returns:
        A `GymWrapper` of batch size `(B,)`.
    """
    if isinstance(env, str):
        env = gym.make_vec(env, num_envs=num_envs, autoreset_mode="Disabled", **kwargs)
    wrapped = GymWrapper(env, categorical_action_encoding=True)
    if seed is not None:
        wrapped.set_seed(seed)
    return wrapped


def token_actor_critic(env: Any, encoder: Encoder = "positions", width: int = 128) -> tuple[Any, Any]:
    """Make an actor and a critic that learn from scratch, a `ProbabilisticActor` and a `ValueOperator`.

    Args:
        env: From `torchrl_env`; with an action mask, forbidden tokens are not drawn.
        encoder: Of both, as for `TokenEncoder`.
        width: Units of their layers.
    """
    space = env._env.single_observation_space
    keys = ["tokens", "attention_mask", "remaining"]
    outputs = int(env._env.single_action_space.n)
    logits = TokenNetwork(space, outputs, encoder, width, gain=0.01)
    actor = _probabilistic(TensorDictModule(logits, in_keys=keys, out_keys=["logits"]), env)
    return actor, ValueOperator(TokenNetwork(space, 1, encoder, width), in_keys=keys)


def language_model_actor_critic(env: Any, policy: Policy) -> tuple[Any, Any]:
    """Make an actor and a critic of one causal language model, which is trained in place.

    What a collector asks step by step is read with a cache of keys and values; what a loss or an estimator
    asks is read uncached, every text once for all its tokens that are in the batch. So minibatches of whole
    rows are much cheaper than ones of tokens picked at random.

    Args:
        env: From `torchrl_env`.
        policy: The language model; keep a `policy.frozen()` for a `KLPenalty`.

    Raises:
        ConfigError: The environment and the language model do not fit together.
    """
    check_fit(policy, env._env.single_observation_space, env._env.single_action_space)
    read = TensorDictModule(_Reader(policy), in_keys=["tokens", "length"], out_keys=["hidden"])
    head = _probabilistic(TensorDictModule(_Logits(policy), in_keys=["hidden"], out_keys=["logits"]), env)
    both = ActorValueOperator(read, head, ValueOperator(_Values(policy), in_keys=["hidden"]))
    return both.get_policy_operator(), both.get_value_operator()


def _probabilistic(module: Any, env: Any) -> Any:
    """Make an actor of a module that writes logits."""
    settings = {"spec": env.full_action_spec_unbatched["action"], "return_log_prob": True}
    if "action_mask" in env._env.single_observation_space.spaces:
        keys = {"logits": "logits", "mask": "action_mask"}
        return ProbabilisticActor(module, in_keys=keys, distribution_class=MaskedCategorical, **settings)
    return ProbabilisticActor(
        module, in_keys=["logits"], distribution_class=torch.distributions.Categorical, **settings
    )


class _Reader(nn.Module):
    """The trunk of a language model, from observations to the states of their last tokens."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy
        self.core = CausalActorCritic(policy)

    def forward(self, tokens: Tensor, length: Tensor) -> Tensor:
        """Compute states `(..., D)` of tokens `(..., S)` and lengths `(..., 1)`."""
        if tokens.ndim == 2 and not torch.is_grad_enabled():
            return self.core.states(tokens.cpu().numpy(), length[:, 0].cpu().numpy())
        self.core.clear()  # a loss or an estimator asks; a fused optimizer's step would leave no trace
        states = states_of(self.policy, tokens.reshape(-1, tokens.shape[-1]), length.reshape(-1))
        return states.reshape(*tokens.shape[:-1], -1)


class _Logits(nn.Module):
    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, hidden: Tensor) -> Tensor:
        return self.policy.logits(hidden)


class _Values(nn.Module):
    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, hidden: Tensor) -> Tensor:
        return self.policy.values(hidden)[..., None]
