"""REINFORCE (Williams 1992) with a baseline: one step along the policy gradient for each batch.

With its default of one epoch of one minibatch every ratio is 1 and nothing is clipped; more of
either makes it an off-policy method that leans on the clipped surrogate, as PPO does.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from text_gym.agents.policies.micro_batches import Part
from text_gym.agents.policies.policy import Evaluation, Policy
from text_gym.agents.sampling.rollout import Rollout
from text_gym.agents.training.metrics import Metrics
from text_gym.envs.vector import TextVectorEnv

from .advantages import explained_variance, gae
from .configs import AgentConfig, REINFORCEConfig
from .policy_gradient import PolicyGradient


class REINFORCE(PolicyGradient[REINFORCEConfig]):
    """Monte Carlo policy gradient.

    Attributes:
        moving_average: Of the mean return of the batches so far; None before the first, which takes its own.

    >>> from text_gym import ByteTokenizer
    >>> env = TextVectorEnv(["a"], ByteTokenizer(), lambda completion: len(completion), 4, num_envs=8)
    >>> policy = Policy.new(ByteTokenizer(), width=16, layers=1, context=8)
    >>> agent = REINFORCE(policy, env, REINFORCEConfig(iterations=1)).learn()
    """

    config_class: ClassVar[type[AgentConfig]] = REINFORCEConfig

    def __init__(
        self,
        policy: Policy,
        env: TextVectorEnv,
        config: REINFORCEConfig | None = None,
        reference: Policy | None = None,
    ) -> None:
        super().__init__(policy, env, config, reference)
        self.moving_average: float | None = None

    def estimate(self, batch: Rollout, rewards: Tensor) -> tuple[dict[str, Tensor], Metrics]:
        """What followed each token, less the baseline."""
        mask, critic = batch.mask, self.config.baseline == "critic"
        values = batch.values if critic else torch.zeros_like(batch.values)
        advantages, returns = gae(rewards, values, mask, lam=1.0)
        if critic:
            metrics = {"explained_variance": explained_variance(returns, values, mask)}
            return {"advantages": advantages, "returns": returns}, metrics
        baseline = self._baseline(rewards.sum(dim=1))
        return {"advantages": (returns - baseline) * mask}, {"baseline": baseline}

    def state_dict(self) -> dict[str, Any]:
        """As of any agent, and the moving average."""
        return {**super().state_dict(), "moving_average": self.moving_average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        super().load_state_dict(state)
        self.moving_average = state["moving_average"]

    def average(self, x: Tensor, part: Part) -> Tensor:
        """Mean over episodes of the sum over their tokens."""
        return part.per_episode(x)

    def loss(self, now: Evaluation, old: dict[str, Tensor], part: Part) -> tuple[Tensor, Metrics]:
        """The losses of a policy gradient and, with a critic, its mean squared error over tokens.

        Args:
            now: What the policy says now, `(b, T)` each.
            old: `log_probs`, `reference`, `advantages` and, with a critic, `returns`, `(b, T)` each.
            part: Whose tokens they are.
        """
        loss, metrics = super().loss(now, old, part)
        if self.config.baseline != "critic":
            return loss, metrics
        value_loss = part.per_token((now.values - old["returns"]) ** 2) / 2
        metrics["value_loss"] = float(value_loss.detach())
        return loss + self.config.value_coef * value_loss, metrics

    def _baseline(self, returns: Tensor) -> float:
        """The baseline of a batch with these returns `(b,)`; the moving average remembers them."""
        mean = float(returns.mean())
        if self.config.baseline == "mean":
            return mean
        past = mean if self.moving_average is None else self.moving_average
        self.moving_average = self.config.decay * past + (1 - self.config.decay) * mean
        return past
