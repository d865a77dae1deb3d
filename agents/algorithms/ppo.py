"""PPO (Schulman et al. 2017) for text: a token is an action, and the KL to a reference is part of its reward.

    r_t = R_t − β log π_old(a_t|s_t) / π_ref(a_t|s_t)                      Ziegler et al. 2019, eq. 2
    Â_t = Σ_l (γλ)^l δ_{t+l},  δ_t = r_t + γ V_old(s_{t+1}) − V_old(s_t)   Schulman et al. 2016 (GAE), eq. 16
    L   = −E min(ρ_t Â_t, clip(ρ_t, 1 − ε, 1 + ε) Â_t)                     Schulman et al. 2017, eq. 7
          where ρ_t = π(a_t|s_t) / π_old(a_t|s_t)
    L_V = ½ E (V(s_t) − G_t)²  where G_t = Â_t + V_old(s_t)                ibid., eq. 9

R_t is what the task pays for token t. Nothing is bootstrapped after an episode's last token: a text cut at
the token limit is paid as it stands, or (`limit="truncate"`) is no sample of the problem and left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from text_gym.agents.environments import AgentEnv, as_config, as_policy, as_text_vector_env
from text_gym.agents.policies.critic import Critic, StateCritic
from text_gym.agents.policies.policy import Evaluation, Policy
from text_gym.agents.sampling.generators import Generator
from text_gym.agents.sampling.rollout import Rollout
from text_gym.agents.training.metrics import Metrics
from text_gym.agents.training.together import score_in_shares
from text_gym.models.runtime import read_numbers

from .configs import AgentConfig, PPOConfig
from .estimators import estimate_kl, explained_variance, gae, whiten
from .policy_gradient import Part, PolicyGradient, Shares


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

    def update(self, batch: Rollout) -> Metrics:
        """Improve the policy, and the critic, with the `B` episodes that the policy has just played.

        Episodes that were not paid (the judge had no opinion; cut under `limit="truncate"`) change nothing:
        they have no part in losses, advantages, whitening, divisors and the KL controller.
        """
        if not batch.scored.any():
            return self.nothing_paid()
        config, batch = self.config, batch.only(batch.scored)
        mask = batch.mask  # (B, T) bool, the tokens of the completions; everything below is (B, T) too

        # How likely the reference policy finds the tokens: log-probabilities, in nats.
        reference = self.reference_log_probs(batch)

        # The reward of a token: what the task pays for it, less β times an estimate of the KL.
        rewards = batch.rewards
        if config.kl_in == "reward":
            kl = estimate_kl(batch.log_probs, reference, config.kl_estimator)
            rewards = rewards - self.kl.coefficient * kl * mask

        # How much better each token was than the critic expected, and what the critic should have said.
        advantages, returns = gae(rewards, batch.values, mask, gamma=config.gamma, lam=config.lam)
        explained = explained_variance(returns, batch.values, mask)
        if config.whiten_advantages:
            advantages = whiten(advantages, mask)

        # A detached critic learns after the policy, or while the policy's gradients travel. Sharded ones stay
        # where they are, and a step of the critic's would drop them.
        losses: list[Tensor] = []
        fit = map(losses.append, self._fit(batch, returns))
        if self.world is not None and self.shards is None:
            self.world.meanwhile = fit

        # Several epochs of minibatches; one that finds the policy too far from where it played ends them.
        old = {"log_probs": batch.log_probs, "reference": reference, "values": batch.values}
        old |= {"advantages": advantages, "returns": returns}
        steps: list[Metrics] = []
        for rows in self.minibatches(batch):
            found = self.gradient(batch, rows, old)  # of `loss`, below
            if steps and config.target_kl is not None and found["approx_kl"] > config.target_kl:
                break
            steps.append({**found, "grad_norm": self.apply_gradients()})

        metrics = {**self.report(batch, reference, steps), "explained_variance": explained}
        for _ in fit:
            pass
        return metrics | ({"value_loss": float(np.mean(read_numbers(losses)))} if losses else {})

    def loss(self, now: Evaluation, old: dict[str, Tensor], part: Part) -> tuple[Tensor, Shares]:
        """Compute the clipped surrogate and the value loss, averaged over the minibatch's tokens.

        Args:
            now: Log-probabilities, values and entropies as they are now, `(b, T)` each, with gradients.
            old: `log_probs`, `values`, `advantages`, `returns`, `reference`, `(b, T)` each.
            part: Which tokens there are.
        """
        config, mask = self.config, part.mask
        log_ratio = (now.log_probs - old["log_probs"]) * mask
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - config.clip, 1 + (config.clip_higher or config.clip))
        surrogate = torch.minimum(ratio * old["advantages"], clipped * old["advantages"])
        loss = policy_loss = -part.per_token(surrogate)
        if config.entropy_coef:
            loss = loss - self.entropy_weight() * part.per_token(now.entropy)
        if config.kl_in == "loss":
            kl = estimate_kl(now.log_probs, old["reference"], config.kl_estimator)
            loss = loss + self.kl.coefficient * part.per_token(kl)
        metrics = self.surrogate_metrics(policy_loss, now, log_ratio, ratio, clipped, part)
        if isinstance(self.critic, StateCritic):  # it has a loss of its own
            return loss, metrics

        error = (now.values - old["returns"]) ** 2
        if config.value_clip is not None:
            move = (now.values - old["values"]).clamp(-config.value_clip, config.value_clip)
            error = torch.maximum(error, (old["values"] + move - old["returns"]) ** 2)
        value_loss = part.per_token(error) / 2
        return loss + config.value_coef * value_loss, {**metrics, "value_loss": value_loss.detach()}

    # The critic: the policy's value head ("shared"), a trunk of its own ("separate"), or a small network that
    # reads the policy's states ("detached").

    def __init__(
        self,
        policy: Policy | str | Path,
        env: AgentEnv,
        config: PPOConfig | None = None,
        reference: Policy | None = None,
        *,
        generator: Generator | None = None,
    ) -> None:
        config, env = as_config(config, PPOConfig), as_text_vector_env(env)
        policy = as_policy(policy, env)
        self.critic: Critic | StateCritic | None = None
        if config.critic == "separate":
            self.critic = Critic(policy)
            self.trunks = 2
        elif config.critic == "detached":
            width = policy.value_head.in_features
            self.critic = StateCritic(width, env.max_tokens, seed=config.seed).to(policy.device)
        self.reads_states = config.critic == "detached"
        super().__init__(policy, env, config, reference, generator=generator)
        if self.critic is not None:
            self.networks["critic"] = self.critic

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Let the value head, or a detached critic, learn at a speed of its own."""
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
        """Play the next `B` episodes of the stream `config.seed`; values are the critic's."""
        batch = super().collect()
        if self.critic is None or self.config.overlap_scoring:  # which has set them
            return batch
        return replace(batch, values=self._values(batch))

    def read_ahead(self, batch: Rollout) -> dict[str, Tensor]:
        """Have the reference policy and a critic of its own read the tokens, `(B, T)`, meanwhile."""
        return super().read_ahead(batch) | ({} if self.critic is None else {"values": self._values(batch)})

    def evaluate(self, batch: Rollout, rows: Tensor, here: Tensor) -> Evaluation:
        """Evaluate these rows of a batch with the policy and the critic as they are now, `(b, T)` each."""
        now = super().evaluate(batch, rows, here)
        if not isinstance(self.critic, Critic):
            return now
        given = batch.tokens[here], batch.host_starts[rows], batch.host_lengths[rows]
        return now._replace(values=self.critic(*given))

    def _values(self, batch: Rollout) -> Tensor:
        """Return a separate or detached critic's values of the states before the tokens, `(B, T)`."""
        if isinstance(self.critic, StateCritic):
            assert batch.states is not None
            values: Tensor = self.critic(batch.states, batch.mask)
            return values
        assert self.critic is not None
        score = self.critic.score
        if self.world is not None:
            return score_in_shares(self.world, batch, self.policy, lambda *given, action_masks: score(*given))
        return score(batch.tokens, batch.host_starts, batch.host_lengths)

    def _fit(self, batch: Rollout, returns: Tensor) -> Iterator[Tensor]:
        """Fit a detached critic to this batch's returns `(B, T)` and earlier ones; yield each step's loss."""
        if not isinstance(self.critic, StateCritic):
            return
        assert batch.states is not None
        choice, order = (np.random.default_rng((self.config.seed, self.iteration, i)) for i in range(2))
        self.critic.remember(batch.states, returns, batch.mask, choice)
        for places in self.critic.minibatches(order):
            loss = self.critic.loss(places)
            self.step(loss)
            yield loss.detach()
