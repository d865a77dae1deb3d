"""The KL penalty to a reference policy, for algorithms of Stable-Baselines3."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from torch import Tensor

from text_gym.agents.algorithms.configs import Estimator
from text_gym.agents.algorithms.kl import KLController, estimate_kl
from text_gym.agents.policies.policy import Policy
from text_gym.agents.sampling.prefix_cache import PrefixCache
from text_gym.episode import IntArray
from text_gym.errors import ConfigError

from .features import Observation, StepReturn
from .policy import LanguageModelPolicy, check_fit


class KLPenalty(VecEnvWrapper):  # type: ignore[misc, unused-ignore]
    """Subtracts β times the KL to a frozen reference from every token's reward (Ziegler et al. 2019).

    An RL library that knows no language model forgets the language it started from; with this it need
    not know. The reference is KV-cached. An episode's last info has its sum of log-ratios as `kl` (nats).
    Call `follow(model.policy)` before learning, since the penalty needs the policy's log-probabilities. A
    `VecMonitor` inside this wrapper sees the task's own return, one around it the penalised one.

    Args:
        venv: What to wrap, an `SB3VecEnv` or wrappers around one.
        reference: The policy to stay close to; it is not changed.
        coefficient: β in reward units per nat, or a `KLController`, which adapts it as episodes end.
        estimator: k1, k2 or k3, see `estimate_kl`.

    Raises:
        ConfigError: The reference has another vocabulary than the environment or too short a context.

    >>> from text_gym import ByteTokenizer, TextVectorEnv
    >>> from text_gym.agents import Policy, SB3VecEnv
    >>> env = SB3VecEnv(TextVectorEnv(["a"], ByteTokenizer(), len, 3, autoreset_mode="SameStep"))
    >>> env = KLPenalty(env, Policy.new(ByteTokenizer(), width=16, layers=1, context=8), coefficient=0.05)
    """

    def __init__(
        self,
        venv: VecEnv,
        reference: Policy,
        coefficient: float | KLController = 0.05,
        estimator: Estimator = "k1",
    ) -> None:
        super().__init__(venv)
        width = check_fit(reference, venv.observation_space, venv.action_space)
        self.controller = coefficient if isinstance(coefficient, KLController) else KLController(coefficient)
        self.reference, self.estimator = reference, estimator
        self._cache = PrefixCache(reference, venv.num_envs, width)
        self._policy: BasePolicy | None = None
        self._observation: Any = {}
        self._log_ratio = torch.zeros(venv.num_envs)
        self._penalty = torch.zeros(venv.num_envs)
        self._episode_kl = np.zeros(venv.num_envs)

    def follow(self, policy: BasePolicy) -> KLPenalty:
        """Name the policy that acts here: any of SB3's with an action distribution."""
        self._policy = policy
        return self

    def reset(self) -> Observation:
        """As the wrapped environment."""
        self._observation = self.venv.reset()
        self._episode_kl[:] = 0.0
        observation: Observation = self._observation
        return observation

    @torch.no_grad()
    def step_async(self, actions: IntArray) -> None:
        """Compare both policies' log-probabilities of the actions `(B,)`, then pass them on."""
        own = self._own_log_probs(actions)
        states = self._cache.read(self._observation["tokens"], self._observation["length"][:, 0])
        log_p = torch.log_softmax(self.reference.logits(states), dim=1)
        other = log_p.gather(1, torch.as_tensor(actions, device=log_p.device)[:, None])[:, 0]
        self._log_ratio = own.to(other.device) - other
        self._penalty = estimate_kl(own.to(other.device), other, self.estimator)
        self.venv.step_async(actions)

    def step_wait(self) -> StepReturn:
        """As the wrapped environment, with β·KL taken off the rewards."""
        self._observation, rewards, dones, infos = self.venv.step_wait()
        rewards = rewards - np.float32(self.controller.coefficient) * self._penalty.cpu().numpy()
        self._episode_kl += self._log_ratio.cpu().numpy()
        ended = np.flatnonzero(dones)
        for i in ended.tolist():
            infos[i]["kl"] = float(self._episode_kl[i])
        if len(ended):
            self.controller.update(float(self._episode_kl[ended].mean()), len(ended))
            self._episode_kl[ended] = 0.0
        return self._observation, rewards, dones, infos

    def _own_log_probs(self, actions: IntArray) -> Tensor:
        """`(B,)`, nats: of the actions under the policy that is followed."""
        policy = self._policy
        if policy is None:
            raise ConfigError(
                "KLPenalty does not know whose KL to penalise; call env.follow(model.policy) first"
            )
        if isinstance(policy, LanguageModelPolicy):
            return policy.log_probs(self._observation, actions)
        if not isinstance(policy, ActorCriticPolicy):
            raise ConfigError(
                f"{type(policy).__name__} has no log-probabilities; KLPenalty is for PPO and A2C"
            )
        distribution = policy.get_distribution(policy.obs_to_tensor(self._observation)[0])
        return distribution.log_prob(torch.as_tensor(actions, device=policy.device))
