"""PPO (Schulman et al. 2017) for text: tokens are actions, the KL to a reference is part of the reward.

What follows is what PPO adds to a policy gradient: a critic. Nothing is bootstrapped after an episode's last
token: a text cut at the token limit is paid as it stands, or (`limit="truncate"`) no sample of the problem.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from text_gym import TextVectorEnv
from text_gym.errors import ConfigError

from .advantages import explained_variance, gae, whiten
from .agent import AgentConfig, Metrics
from .critic import Critic
from .micro_batches import Part
from .policy import Evaluation, Policy
from .policy_gradient import PolicyGradient, PolicyGradientConfig
from .rollout import Rollout


@dataclass(frozen=True)
class PPOConfig(PolicyGradientConfig):
    """Settings of PPO.

    Args:
        critic: "shared" is a value head on the policy's own trunk: one pass for both. "separate" is a trunk
            of its own, which begins as a copy of the policy's and learns at the same speed: the errors of its
            values leave the policy alone, for twice the memory (16 bytes a weight in float32, and what a pass
            keeps) and nearly twice the time.
        value_clip: Values move at most this far from the old ones in one update; None does not clip.
        value_coef: Weight of the value loss.
        value_lr_factor: Step size of the value head, in learning rates. The head knows nothing at the
            start; the gradient of its errors in the shared trunk is what drives a policy from its
            reference in the first iterations, so it had better learn fast.
        gamma: Discount per token.
        lam: λ of GAE; 1 is Monte Carlo, right for short episodes paid at their end.
        whiten_advantages: Scale advantages to mean 0 and standard deviation 1 over the batch.
    """

    critic: Literal["shared", "separate"] = "shared"
    value_clip: float | None = 0.2
    value_coef: float = 0.5
    value_lr_factor: float = 20.0
    gamma: float = 1.0
    lam: float = 1.0
    whiten_advantages: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.critic not in ("shared", "separate"):
            raise ConfigError(f"critic is {self.critic!r}; choose shared or separate")
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be in [0, 1]")


class PPO(PolicyGradient[PPOConfig]):
    """Proximal policy optimisation.

    Attributes:
        critic: The critic, if it is one apart; None where it is the policy's value head.

    >>> from text_gym import ByteTokenizer, TextVectorEnv
    >>> from text_gym.agents import Policy
    >>> env = TextVectorEnv(["a"], ByteTokenizer(), lambda completion: len(completion), 4, num_envs=8)
    >>> policy = Policy.new(ByteTokenizer(), width=16, layers=1, context=8)
    >>> agent = PPO(policy, env, PPOConfig(iterations=1)).learn()
    """

    config_class: ClassVar[type[AgentConfig]] = PPOConfig

    def __init__(
        self,
        policy: Policy,
        env: TextVectorEnv,
        config: PPOConfig | None = None,
        reference: Policy | None = None,
    ) -> None:
        config = config or PPOConfig()
        self.critic = Critic(policy) if config.critic == "separate" else None
        super().__init__(policy, env, config, reference)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The policy, and a critic that is one apart."""
        return super().networks | ({} if self.critic is None else {"critic": self.critic})

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The value head learns at a speed of its own."""
        rate, networks = self.config.learning_rate, self.networks.values()
        trained = [p for network in networks for p in network.parameters() if p.requires_grad]
        head = list((self.critic or self.policy).value_head.parameters())
        heads = {id(p) for p in (*head, *self.policy.value_head.parameters())}
        return [
            {"params": [p for p in trained if id(p) not in heads], "lr": rate},
            {"params": head, "lr": rate * self.config.value_lr_factor},
        ]

    def collect(self) -> Rollout:
        """As `Agent.collect`; values are the critic's."""
        batch = super().collect()
        if self.critic is None:
            return batch
        return replace(batch, values=self.critic.score(batch.tokens, batch.starts, batch.lengths))

    def evaluate(self, batch: Rollout, rows: Tensor) -> Evaluation:
        """As `PolicyGradient.evaluate`; values are the critic's."""
        now = super().evaluate(batch, rows)
        if self.critic is None:
            return now
        return now._replace(values=self.critic(batch.tokens[rows], batch.starts[rows], batch.lengths[rows]))

    def estimate(self, batch: Rollout, rewards: Tensor) -> tuple[dict[str, Tensor], Metrics]:
        """Generalised advantage estimates, and the returns the critic is to predict."""
        config, mask = self.config, batch.mask
        advantages, returns = gae(rewards, batch.values, mask, gamma=config.gamma, lam=config.lam)
        metrics = {"explained_variance": explained_variance(returns, batch.values, mask)}
        if config.whiten_advantages:
            advantages = whiten(advantages, mask)
        return {"advantages": advantages, "returns": returns, "values": batch.values}, metrics

    def loss(self, now: Evaluation, old: dict[str, Tensor], part: Part) -> tuple[Tensor, Metrics]:
        """The losses of a policy gradient and the value loss, averaged over the minibatch's tokens.

        Args:
            now: What the policy says now, `(b, T)` each.
            old: `log_probs`, `values`, `advantages`, `returns`, `reference`, `(b, T)` each.
            part: Whose tokens they are.
        """
        config = self.config
        loss, metrics = super().loss(now, old, part)
        error = (now.values - old["returns"]) ** 2
        if config.value_clip is not None:
            near = old["values"] + (now.values - old["values"]).clamp(-config.value_clip, config.value_clip)
            error = torch.maximum(error, (near - old["returns"]) ** 2)
        value_loss = part.per_token(error) / 2
        return loss + config.value_coef * value_loss, {**metrics, "value_loss": float(value_loss.detach())}
