"""REINFORCE (Williams 1992) with a baseline: one step along the policy gradient for each batch.

    G_t = Σ_{l≥t} R_l − β log π_old(a_l|s_l) / π_ref(a_l|s_l)     what follows a token, KL included
    L   = −E Σ_t (G_t − b) log π(a_t|s_t)                         Williams 1992, theorem 1: its gradient

With its default of one epoch of one minibatch every ratio is 1, nothing is clipped, and the surrogate below
has the gradient of L. More of either makes it an off-policy method that leans on the clipping, as PPO does.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from text_gym.agents.policies.policy import Evaluation
from text_gym.agents.sampling.rollout import Rollout
from text_gym.agents.training.metrics import Metrics

from .configs import AgentConfig, REINFORCEConfig
from .estimators import estimate_kl, explained_variance, gae
from .policy_gradient import Part, PolicyGradient, Shares


class REINFORCE(PolicyGradient[REINFORCEConfig]):
    """Monte Carlo policy gradient.

    Attributes:
        moving_average: Of the mean return of the batches so far; None before the first, which takes its own.

    >>> from text_gym import ByteTokenizer, TextVectorEnv
    >>> from text_gym.agents import Policy
    >>> env = TextVectorEnv(["a"], ByteTokenizer(), lambda completion: len(completion), 4, num_envs=8)
    >>> policy = Policy.new(ByteTokenizer(), width=16, layers=1, context=8)
    >>> agent = REINFORCE(policy, env, REINFORCEConfig(iterations=1)).learn()
    """

    config_class: ClassVar[type[AgentConfig]] = REINFORCEConfig

    moving_average: float | None = None

    def update(self, batch: Rollout) -> Metrics:
        """Improve the policy with the `B` episodes that it has just played.

        Episodes that were not paid (the judge had no opinion; cut under `limit="truncate"`) change nothing:
        they have no part in losses, baselines, divisors and the KL controller.
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

        # What followed each token, less the baseline: a number, or the critic's value of the state.
        old = {"log_probs": batch.log_probs, "reference": reference}
        if config.baseline == "critic":
            old["advantages"], old["returns"] = gae(rewards, batch.values, mask, lam=1.0)
            metrics = {"explained_variance": explained_variance(old["returns"], batch.values, mask)}
        else:
            returns, _ = gae(rewards, torch.zeros_like(batch.values), mask, lam=1.0)
            metrics = {"baseline": self._baseline(rewards.sum(dim=1))}
            old["advantages"] = (returns - metrics["baseline"]) * mask

        # One minibatch, unless the settings say otherwise; one that finds the policy too far away ends them.
        steps: list[Metrics] = []
        for rows in self.minibatches(batch):
            found = self.gradient(batch, rows, old)  # of `loss`, below
            if steps and config.target_kl is not None and found["approx_kl"] > config.target_kl:
                break
            steps.append({**found, "grad_norm": self.apply_gradients()})
        return {**self.report(batch, reference, steps), **metrics}

    def loss(self, now: Evaluation, old: dict[str, Tensor], part: Part) -> tuple[Tensor, Shares]:
        """Compute the surrogate, averaged over the minibatch's episodes, and the critic's squared error.

        Args:
            now: Log-probabilities, values and entropies as they are now, `(b, T)` each, with gradients.
            old: `log_probs`, `reference`, `advantages` and, with a critic, `returns`, `(b, T)` each.
            part: Which tokens there are.
        """
        config = self.config
        log_ratio = (now.log_probs - old["log_probs"]) * part.mask
        ratio = log_ratio.exp()  # 1 in the first step, where its gradient is that of log π
        clipped = ratio.clamp(1 - config.clip, 1 + (config.clip_higher or config.clip))
        surrogate = torch.minimum(ratio * old["advantages"], clipped * old["advantages"])
        loss = policy_loss = -part.per_episode(surrogate)
        if config.entropy_coef:
            loss = loss - self.entropy_weight() * part.per_episode(now.entropy)
        if config.kl_in == "loss":
            kl = estimate_kl(now.log_probs, old["reference"], config.kl_estimator)
            loss = loss + self.kl.coefficient * part.per_episode(kl)
        metrics = self.surrogate_metrics(policy_loss, now, log_ratio, ratio, clipped, part)
        if config.baseline != "critic":
            return loss, metrics
        value_loss = part.per_token((now.values - old["returns"]) ** 2) / 2
        return loss + config.value_coef * value_loss, {**metrics, "value_loss": value_loss.detach()}

    def state_dict(self) -> dict[str, Any]:
        """Return what any agent keeps in a checkpoint, and the moving average."""
        return {**super().state_dict(), "moving_average": self.moving_average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        super().load_state_dict(state)
        self.moving_average = state["moving_average"]

    def _baseline(self, returns: Tensor) -> float:
        """Return the baseline of a batch with returns `(b,)`, and take them into the moving average."""
        mean = float(returns.mean())
        if self.config.baseline == "mean":
            return mean
        past = mean if self.moving_average is None else self.moving_average
        self.moving_average = self.config.decay * past + (1 - self.config.decay) * mean
        return past
