"""PPO (Schulman et al. 2017) for text: tokens are actions, the KL to a reference is part of the reward.

What follows is what PPO adds to a policy gradient: a critic. Bootstrapping happens on truncation
only: an episode cut at the token limit is not worth nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from text_gym.errors import ConfigError

from .advantages import explained_variance, gae, whiten
from .agent import AgentConfig, Metrics
from .micro_batches import Part
from .policy import Evaluation
from .policy_gradient import PolicyGradient, PolicyGradientConfig
from .rollout import Rollout


@dataclass(frozen=True)
class PPOConfig(PolicyGradientConfig):
    """Settings of PPO.

    Args:
        value_clip: Values move at most this far from the old ones in one update; None does not clip.
        value_coef: Weight of the value loss.
        value_lr_factor: Step size of the value head, in learning rates. The head knows nothing at the
            start; the gradient of its errors in the shared trunk is what drives a policy from its
            reference in the first iterations, so it had better learn fast.
        gamma: Discount per token.
        lam: λ of GAE; 1 is Monte Carlo, right for short episodes paid at their end.
        whiten_advantages: Scale advantages to mean 0 and standard deviation 1 over the batch.
    """

    value_clip: float | None = 0.2
    value_coef: float = 0.5
    value_lr_factor: float = 20.0
    gamma: float = 1.0
    lam: float = 1.0
    whiten_advantages: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be in [0, 1]")


class PPO(PolicyGradient[PPOConfig]):
    """Proximal policy optimisation with a value head on the policy's own trunk.

    >>> from text_gym import ByteTokenizer, TextVectorEnv
    >>> from text_gym.agents import Policy
    >>> env = TextVectorEnv(["a"], ByteTokenizer(), lambda completion: len(completion), 4, num_envs=8)
    >>> policy = Policy.new(ByteTokenizer(), width=16, layers=1, context=8)
    >>> agent = PPO(policy, env, PPOConfig(iterations=1)).learn()
    """

    config_class: ClassVar[type[AgentConfig]] = PPOConfig

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The value head learns at a speed of its own."""
        (group,) = super().parameter_groups()
        head = list(self.policy.value_head.parameters())
        rest = [p for p in group["params"] if not any(p is h for h in head)]
        return [{**group, "params": rest}, {"params": head, "lr": group["lr"] * self.config.value_lr_factor}]

    def estimate(self, batch: Rollout, rewards: Tensor) -> tuple[dict[str, Tensor], Metrics]:
        """Generalised advantage estimates, and the returns the critic is to predict."""
        config, mask = self.config, batch.mask
        advantages, returns = gae(
            rewards, batch.values, batch.last_values, mask, gamma=config.gamma, lam=config.lam
        )
        metrics = {"explained_variance": explained_variance(returns, batch.values, mask)}
        judged = torch.from_numpy(~batch.scores.abstained).to(mask.device)[:, None]
        if config.whiten_advantages:
            advantages = whiten(advantages, mask & judged)
        # What was not judged was not worth 0: it moves neither the policy nor the critic.
        advantages, returns = advantages * judged, torch.where(judged, returns, batch.values)
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
