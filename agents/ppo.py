"""PPO (Schulman et al. 2017) for text: tokens are actions, the KL to a reference is part of the reward.

What follows is the algorithm; playing, the optimizer and the logs are the `Agent`'s. Bootstrapping
happens on truncation only: an episode cut at the token limit is not worth nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from text_gym import TextVectorEnv
from text_gym.errors import ConfigError

from .advantages import gae, masked_mean, whiten
from .agent import Agent, AgentConfig, Metrics
from .kl import estimate_kl
from .policy import Evaluation, Policy
from .rollout import Rollout


@dataclass(frozen=True)
class PPOConfig(AgentConfig):
    """Settings of PPO.

    Args:
        epochs: Passes over each batch.
        minibatches: Parts a batch is split into in each epoch.
        clip: ε, the ratio is clipped to 1 ± ε.
        value_clip: Values move at most this far from the old ones in one update; None does not clip.
        value_coef: Weight of the value loss.
        entropy_coef: Weight of the entropy bonus, per nat.
        gamma: Discount per token.
        lam: λ of GAE; 1 is Monte Carlo, right for short episodes paid at their end.
        whiten_advantages: Scale advantages to mean 0 and standard deviation 1 over the batch.
        kl_in: Where the KL penalty goes: "reward" (per token, as in InstructGPT) or "loss".
        target_kl: Stop the epochs of an iteration when the policy has moved this far from the one
            that played, in nats per token; None never does.
    """

    epochs: int = 4
    minibatches: int = 4
    clip: float = 0.2
    value_clip: float | None = 0.2
    value_coef: float = 0.5
    entropy_coef: float = 0.0
    gamma: float = 1.0
    lam: float = 1.0
    whiten_advantages: bool = True
    kl_in: Literal["reward", "loss"] = "reward"
    target_kl: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "minibatches"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be in [0, 1]")
        if not self.clip > 0:
            raise ConfigError(f"clip is {self.clip}; it must be above 0")
        if self.kl_in == "loss" and self.kl_estimator == "k1":
            raise ConfigError("kl_estimator='k1' in the loss has no gradient on average; choose 'k2' or 'k3'")


class PPO(Agent[PPOConfig]):
    """Proximal policy optimisation with a value head on the policy's own trunk.

    >>> from text_gym import ByteTokenizer
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
        super().__init__(policy, env, config or PPOConfig(), reference)

    def update(self, batch: Rollout) -> Metrics:
        """Several epochs of clipped minibatch steps on one batch."""
        config, mask = self.config, batch.mask
        reference = self.reference_log_probs(batch)
        rewards = batch.rewards
        if config.kl_in == "reward":
            penalty = estimate_kl(batch.log_probs, reference, config.kl_estimator)
            rewards = rewards - self.kl.coefficient * penalty * mask
        advantages, returns = gae(
            rewards, batch.values, batch.last_values, mask, gamma=config.gamma, lam=config.lam
        )
        variance = masked_mean((returns - masked_mean(returns, mask)) ** 2, mask)
        unexplained = masked_mean((returns - batch.values) ** 2, mask)
        if config.whiten_advantages:
            advantages = whiten(advantages, mask)

        steps: list[Metrics] = []
        for rows in self._minibatches(len(batch.tokens)):
            steps.append(self._minibatch_step(batch, rows, advantages, returns, reference))
            if config.target_kl is not None and steps[-1]["approx_kl"] > config.target_kl:
                break
        kl = float(((batch.log_probs - reference) * mask).sum() / len(batch.tokens))
        self.kl.update(kl, len(batch.tokens))
        return {
            **{name: float(np.mean([s[name] for s in steps])) for name in steps[0]},
            "kl": kl,
            "kl_per_token": kl / float(batch.lengths.float().mean()),
            "kl_coef": self.kl.coefficient,
            "explained_variance": float(1 - unexplained / variance) if variance > 0 else float("nan"),
            "updates": len(steps),
        }

    def loss(self, now: Evaluation, old: dict[str, Tensor], mask: Tensor) -> tuple[Tensor, Metrics]:
        """The clipped surrogate, value and entropy losses of a minibatch, averaged over its tokens.

        Args:
            now: What the policy says now, `(b, T)` each.
            old: `log_probs`, `values`, `advantages`, `returns`, `reference`, `(b, T)` each.
            mask: `(b, T)` bool.
        """
        config = self.config
        log_ratio = (now.log_probs - old["log_probs"]) * mask
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
        surrogate = torch.minimum(ratio * old["advantages"], clipped * old["advantages"])
        policy_loss = -masked_mean(surrogate, mask)

        error = (now.values - old["returns"]) ** 2
        if config.value_clip is not None:
            near = old["values"] + (now.values - old["values"]).clamp(-config.value_clip, config.value_clip)
            error = torch.maximum(error, (near - old["returns"]) ** 2)
        value_loss = masked_mean(error, mask) / 2

        loss = policy_loss + config.value_coef * value_loss
        if config.entropy_coef:
            loss = loss - config.entropy_coef * masked_mean(now.entropy, mask)
        if config.kl_in == "loss":
            penalty = estimate_kl(now.log_probs, old["reference"], config.kl_estimator)
            loss = loss + self.kl.coefficient * masked_mean(penalty, mask)
        with torch.no_grad():
            metrics = {
                "policy_loss": float(policy_loss),
                "value_loss": float(value_loss),
                "entropy": float(masked_mean(now.entropy if config.entropy_coef else -now.log_probs, mask)),
                "clip_fraction": float(masked_mean((ratio - clipped).abs().gt(0).float(), mask)),
                "approx_kl": float(masked_mean(torch.expm1(log_ratio) - log_ratio, mask)),
                "ratio_max": float(ratio[mask].max()),
            }
        return loss, metrics

    def _minibatch_step(
        self, batch: Rollout, rows: Tensor, advantages: Tensor, returns: Tensor, reference: Tensor
    ) -> Metrics:
        now = self.policy.evaluate(
            batch.tokens[rows],
            batch.starts[rows],
            batch.lengths[rows],
            temperature=self.config.temperature,
            entropy=self.config.entropy_coef != 0,
        )
        width = now.log_probs.shape[1]
        columns = {
            "log_probs": batch.log_probs,
            "values": batch.values,
            "advantages": advantages,
            "returns": returns,
            "reference": reference,
        }
        loss, metrics = self.loss(
            now, {k: v[rows, :width] for k, v in columns.items()}, batch.mask[rows, :width]
        )
        return {**metrics, "loss": float(loss.detach()), "grad_norm": self.step(loss)}

    def _minibatches(self, episodes: int) -> list[Tensor]:
        """Row indices of every minibatch of every epoch, shuffled by (seed, iteration) alone."""
        generator = np.random.default_rng([self.config.seed, self.iteration])
        parts: list[Tensor] = []
        for _ in range(self.config.epochs):
            order = generator.permutation(episodes)
            split = np.array_split(order, min(self.config.minibatches, episodes))
            parts += [torch.from_numpy(part).to(self.policy.device) for part in split]
        return parts
