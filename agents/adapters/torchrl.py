"""TorchRL: an environment in the mode that it wants, actors and critics, a language model as both.

Collectors, losses and value estimators are TorchRL's own; `docs/your-library.md` has a recipe with them.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import torch
from gymnasium.vector import AutoresetMode

from text_gym.agents.adapters.causal_actor_critic import CausalActor, CausalCritic, allowed_logits
from text_gym.agents.adapters.fit import check_fit
from text_gym.agents.adapters.kl_penalty import KLPenalty
from text_gym.agents.adapters.token_encoder import Encoder, TokenNetwork
from text_gym.agents.policies.policy import Policy
from text_gym.errors import ConfigError, MissingLibraryError

try:
    from tensordict.nn import TensorDictModule, TensorDictSequential
    from torchrl.envs import GymWrapper
    from torchrl.modules import ProbabilisticActor, ValueOperator
except ModuleNotFoundError as error:
    raise MissingLibraryError("text_gym.agents.adapters.torchrl", "torchrl", "torchrl") from error

Vector = gym.vector.VectorEnv[Any, Any, Any]


def torchrl_env(env: str | Vector, num_envs: int = 1, *, seed: int | None = None, **kwargs: Any) -> Any:
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

    Raises:
        ConfigError: It is no vector environment, or restarts rows by itself.
    """
    if isinstance(env, str):
        env = gym.make_vec(env, num_envs=num_envs, autoreset_mode="Disabled", **kwargs)
    if not isinstance(env, gym.vector.VectorEnv):
        raise ConfigError(
            f"torchrl_env takes an id or a vector environment, not {type(env).__name__}; of a task it is "
            'TextVectorEnv(task=task, num_envs=64, autoreset_mode="Disabled")'
        )
    mode = env.metadata.get("autoreset_mode")
    if mode is not AutoresetMode.DISABLED:
        raise ConfigError(
            f'TorchRL resets rows itself, here {mode} does: make it with autoreset_mode="Disabled"'
        )
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

    Raises:
        ConfigError: The environment shows no tokens.
    """
    space = env._env.single_observation_space
    if not isinstance(space, gym.spaces.Dict):
        raise ConfigError(f'this reads a Dict, not {space}; make the environment with observation="tokens"')
    keys = ["tokens", "attention_mask", "remaining"]
    outputs = int(env._env.single_action_space.n)
    logits = TokenNetwork(space, outputs, encoder, width, gain=0.01)
    actor = _probabilistic(TensorDictModule(logits, in_keys=keys, out_keys=["logits"]), env)
    return actor, ValueOperator(TokenNetwork(space, 1, encoder, width), in_keys=keys)


def language_model_actor_critic(env: Any, policy: Policy) -> tuple[Any, Any]:
    """Make an actor and a critic of one causal language model, which is trained in place.

    What a collector asks is read with a cache of keys and values. What a loss or an estimator asks is read
    once for all tokens of a text that are in the batch, so that minibatches of whole rows are much cheaper
    than tokens picked at random; that is nothing for `vmap`: `GAE(..., deactivate_vmap=True)`. The critic's
    loss ends at its linear layer: with a gradient of its own it would push the language model about.

    Args:
        env: From `torchrl_env`; a `KLPenalty` in it is told to follow this policy.
        policy: The language model.

    Raises:
        ConfigError: The environment and the language model do not fit together.
    """
    check_fit(policy, env._env.single_observation_space, env._env.single_action_space)
    network = CausalActor(policy)
    if isinstance(env._env, KLPenalty):
        env._env.follow(network.log_probs)
    keys = ["tokens", "length"]
    actor = _probabilistic(TensorDictModule(network, in_keys=keys, out_keys=["logits"]), env)
    return actor, ValueOperator(CausalCritic(policy), in_keys=keys)


def _probabilistic(module: Any, env: Any) -> Any:
    """Make an actor of a module that writes logits; forbidden tokens have probability 0."""
    if "action_mask" in env._env.single_observation_space.spaces:
        keys = ["logits", "action_mask"]
        module = TensorDictSequential(
            module, TensorDictModule(allowed_logits, in_keys=keys, out_keys=["logits"])
        )
    return ProbabilisticActor(
        module,
        in_keys=["logits"],
        spec=env.full_action_spec_unbatched["action"],
        distribution_class=torch.distributions.Categorical,
        return_log_prob=True,
    )
