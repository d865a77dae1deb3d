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
from text_gym.agents.adapters.kl_penalty import KLPenalty, Observation
from text_gym.agents.adapters.token_encoder import Encoder, TokenNetwork
from text_gym.agents.policies.policy import Policy
from text_gym.episode import IntArray
from text_gym.errors import MissingLibraryError

try:
    from tensordict.nn import TensorDictModule, TensorDictSequential
    from torchrl.envs import GymWrapper
    from torchrl.modules import ProbabilisticActor, ValueOperator
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

    The critic is a linear layer on the states that the actor computes, and its loss stops there: with a
    gradient of its own it would push the language model about.

    What a collector asks step by step is read with a cache of keys and values; what a loss or an estimator
    asks is read uncached, every text once for all its tokens that are in the batch. So minibatches of whole
    rows are much cheaper than ones of tokens picked at random. TorchRL's estimators must not use `vmap`
    (`GAE(..., deactivate_vmap=True)`), since which texts begin others is no matter for it.

    Args:
        env: From `torchrl_env`; a `KLPenalty` in it is told to follow this policy.
        policy: The language model; keep a `policy.frozen()` for a `KLPenalty`.

    Raises:
        ConfigError: The environment and the language model do not fit together.
    """
    check_fit(policy, env._env.single_observation_space, env._env.single_action_space)
    network = _Logits(policy)
    if isinstance(env._env, KLPenalty):
        env._env.follow(network.log_probs)
    keys = ["tokens", "length"]
    actor = _probabilistic(TensorDictModule(network, in_keys=keys, out_keys=["logits"]), env)
    return actor, ValueOperator(_Values(policy), in_keys=keys)


def _probabilistic(module: Any, env: Any) -> Any:
    """Make an actor of a module that writes logits; forbidden tokens have probability 0."""
    if "action_mask" in env._env.single_observation_space.spaces:
        keys = ["logits", "action_mask"]
        module = TensorDictSequential(
            module, TensorDictModule(_allowed_logits, in_keys=keys, out_keys=["logits"])
        )
    return ProbabilisticActor(
        module,
        in_keys=["logits"],
        spec=env.full_action_spec_unbatched["action"],
        distribution_class=torch.distributions.Categorical,
        return_log_prob=True,
    )


def _allowed_logits(logits: Tensor, action_mask: Tensor) -> Tensor:
    return logits.masked_fill(action_mask <= 0, -torch.inf)


class _Logits(nn.Module):
    """A language model as an actor's network."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy
        self.core = CausalActorCritic(policy)

    def forward(self, tokens: Tensor, length: Tensor) -> Tensor:
        """Compute logits `(..., V)` of tokens `(..., S)` and lengths `(..., 1)`."""
        if tokens.ndim == 2 and not torch.is_grad_enabled():  # a collector asks
            return self.policy.logits(self.core.states(tokens.cpu().numpy(), length[:, 0].cpu().numpy()))
        return self.policy.logits(_states(self.policy, tokens, length))

    @torch.no_grad()
    def log_probs(self, observation: Observation, actions: IntArray) -> Tensor:
        """Return the log-probabilities `(B,)` of actions; their states were read when they were drawn."""
        logits = self.policy.logits(self.core.states(observation["tokens"], observation["length"][:, 0]))
        if "action_mask" in observation:
            mask = torch.as_tensor(observation["action_mask"], device=logits.device)
            logits = _allowed_logits(logits, mask)
        log_p = torch.log_softmax(logits, dim=1)
        return log_p.gather(1, torch.as_tensor(actions, device=logits.device)[:, None])[:, 0]


class _Values(nn.Module):
    """The value head of a language model on states that its loss does not change."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.head = policy.value_head
        self.lm = (policy,)  # in a tuple: the trunk's weights are none of the critic's

    def forward(self, tokens: Tensor, length: Tensor) -> Tensor:
        """Compute values `(..., 1)` of tokens `(..., S)` and lengths `(..., 1)`."""
        with torch.no_grad():
            states = _states(self.lm[0], tokens, length)
        values: Tensor = self.head(states.to(self.head.weight.dtype))
        return values


def _states(policy: Policy, tokens: Tensor, length: Tensor) -> Tensor:
    states = states_of(policy, tokens.reshape(-1, tokens.shape[-1]), length.reshape(-1))
    return states.reshape(*tokens.shape[:-1], -1)
