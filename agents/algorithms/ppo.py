"""PPO (Schulman et al. 2017) for text: tokens are actions, the KL to a reference is part of the reward.

What follows is what PPO adds to a policy gradient: a critic. Nothing is bootstrapped after an episode's last
token: a text cut at the token limit is paid as it stands, or (`limit="truncate"`) no sample of the problem.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from text_gym.agents.policies.critic import Critic, StateCritic
from text_gym.agents.policies.micro_batches import Part
from text_gym.agents.policies.policy import Evaluation, Policy
from text_gym.agents.sampling.rollout import Rollout
from text_gym.agents.training.gradients import backward
from text_gym.agents.training.metrics import Metrics
from text_gym.envs.vector import TextVectorEnv

from .advantages import explained_variance, gae, whiten
from .configs import AgentConfig, PPOConfig
from .policy_gradient import PolicyGradient


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
        self.critic: Critic | StateCritic | None = None
        if config.critic == "separate":
            self.critic = Critic(policy)
            self.trunks = 2
        elif config.critic == "detached":
            width = policy.value_head.in_features
            self.critic = StateCritic(width, env.max_tokens, seed=config.seed).to(policy.device)
        self.reads_states = config.critic == "detached"
        super().__init__(policy, env, config, reference)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The policy, and a critic that is one apart."""
        return super().networks | ({} if self.critic is None else {"critic": self.critic})

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The value head, or a detached critic, learns at a speed of its own."""
        config, own = self.config, {id(p) for p in self.policy.value_head.parameters()}
        policy = [p for p in self.policy.parameters() if p.requires_grad and id(p) not in own]
        if isinstance(self.critic, StateCritic):
            critic = {"params": list(self.critic.parameters()), "lr": config.critic_learning_rate}
            # The sooner it knows something, the better: while the policy's steps are still small.
            return [{"params": policy, "lr": config.learning_rate}, {**critic, "warmup": False}]
        head = list((self.critic or self.policy).value_head.parameters())
        trunk = [] if self.critic is None else list(self.critic.trunk.parameters())
        return [
            {"params": policy + [p for p in trunk if p.requires_grad], "lr": config.learning_rate},
            {"params": head, "lr": config.learning_rate * config.value_lr_factor},
        ]

    def collect(self) -> Rollout:
        """As `Agent.collect`; values are the critic's."""
        batch = super().collect()
        if self.critic is None:
            return batch
        if isinstance(self.critic, StateCritic):
            assert batch.states is not None
            return replace(batch, values=self.critic(batch.states, batch.mask))
        return replace(batch, values=self.critic.score(batch.tokens, batch.starts, batch.lengths))

    def evaluate(self, batch: Rollout, rows: Tensor) -> Evaluation:
        """As `PolicyGradient.evaluate`; values are the critic's."""
        now = super().evaluate(batch, rows)
        if not isinstance(self.critic, Critic):
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

    def after_epochs(self, batch: Rollout, columns: dict[str, Tensor]) -> Metrics:
        """A detached critic learns from this batch and the latest ones."""
        if not isinstance(self.critic, StateCritic):
            return {}
        assert batch.states is not None
        choice, order = (np.random.default_rng((self.config.seed, self.iteration, i)) for i in range(2))
        self.critic.remember(batch.states, columns["returns"], batch.mask, choice)
        losses = []
        for places in self.critic.minibatches(order):
            loss = self.critic.loss(places)
            backward(self.optimizer, loss, self.where)
            self.apply_gradients()
            losses.append(float(loss.detach()))
        return {"value_loss": float(np.mean(losses))}

    def loss(self, now: Evaluation, old: dict[str, Tensor], part: Part) -> tuple[Tensor, Metrics]:
        """The losses of a policy gradient and the value loss, averaged over the minibatch's tokens.

        Args:
            now: What the policy says now, `(b, T)` each.
            old: `log_probs`, `values`, `advantages`, `returns`, `reference`, `(b, T)` each.
            part: Whose tokens they are.
        """
        config = self.config
        loss, metrics = super().loss(now, old, part)
        if isinstance(self.critic, StateCritic):  # it learns apart
            return loss, metrics
        error = (now.values - old["returns"]) ** 2
        if config.value_clip is not None:
            near = old["values"] + (now.values - old["values"]).clamp(-config.value_clip, config.value_clip)
            error = torch.maximum(error, (near - old["returns"]) ** 2)
        value_loss = part.per_token(error) / 2
        return loss + config.value_coef * value_loss, {**metrics, "value_loss": float(value_loss.detach())}
