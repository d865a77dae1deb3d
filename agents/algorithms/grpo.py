"""GRPO (Shao et al. 2024): an episode's advantage is its return among those of the same prompt; no critic.

    Â_i = (R_i − mean(R_1 … R_k)) / std(R_1 … R_k), for each token of episode i   Shao et al. 2024, sec. 4.1.2
    L   = −E_i 1/|a_i| Σ_t [min(ρ_t Â_i, clip(ρ_t, 1 − ε, 1 + ε) Â_i) − β k3_t]    ibid., eq. 3 and 4

Dr. GRPO (Liu et al. 2025) is `length_normalisation="constant"` without `std_normalisation`; DAPO (Yu et al.
2025) is `"token"` with `clip_higher=0.28` and `kl_coef=0`. With `kl_in="reward"` all advantages vanish at
π_ref·exp(r/β), in every variant. In the loss, as published, the KL is that of single tokens, with the states
they arise in held fixed, and k3 has the gradient of KL(reference ‖ policy): the fixed point is another,
flatter on likely and heavier on unlikely texts, and the group's mean makes rewards count (k - 1)/k.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from text_gym.agents.policies.policy import Evaluation
from text_gym.agents.sampling.rollout import Rollout
from text_gym.agents.training.metrics import Metrics

from .configs import AgentConfig, GRPOConfig
from .estimators import estimate_kl
from .groups import grouped_returns, turn_advantages
from .policy_gradient import Part, PolicyGradient, Shares


class GRPO(PolicyGradient[GRPOConfig]):
    """Group relative policy optimisation.

    Raises:
        ConfigError: The environment's `num_envs` is not a multiple of `group_size`.

    >>> from text_gym import ByteTokenizer, TextVectorEnv
    >>> from text_gym.agents import Policy
    >>> env = TextVectorEnv(["a"], ByteTokenizer(), lambda completion: len(completion), 4, num_envs=8)
    >>> policy = Policy.new(ByteTokenizer(), width=16, layers=1, context=8)
    >>> agent = GRPO(policy, env, GRPOConfig(iterations=1, group_size=4)).learn()
    """

    config_class: ClassVar[type[AgentConfig]] = GRPOConfig

    def update(self, batch: Rollout) -> Metrics:
        """Improve the policy with the `B` episodes that it has just played, in groups that share a prompt.

        Episodes that were not paid (the judge had no opinion; cut under `limit="truncate"`) change nothing:
        they have no part in losses, baselines, divisors and the KL controller.
        """
        if not batch.scored.any():
            return self.nothing_paid()
        config, batch = self.config, batch.only(batch.scored)
        mask = batch.mask  # (B, T) bool, the tokens of the completions

        # How likely the reference policy finds the tokens: log-probabilities (B, T), in nats.
        reference = self.reference_log_probs(batch)

        # The reward of a token, (B, T): what the task pays for it; the KL is here or in the loss.
        rewards = batch.rewards
        if config.kl_in == "reward":
            kl = estimate_kl(batch.log_probs, reference, config.kl_estimator)
            rewards = rewards - self.kl.coefficient * kl * mask

        # The same advantage for every token of an episode: how its return stands in its group.
        returns, present, places = grouped_returns(batch, rewards, config.group_size)  # (G, k)
        advantages = group_advantages(returns, present, std=config.std_normalisation)
        no_preference = float((advantages == 0).all(dim=1).float().mean())

        # Several epochs of minibatches; one that finds the policy too far from where it played ends them.
        old = {"log_probs": batch.log_probs, "reference": reference}
        old["advantages"] = advantages[places][:, None] * mask
        if config.credit == "turn":  # or of each turn, by what was paid from there on
            compare = partial(group_advantages, std=config.std_normalisation)
            old["advantages"], _ = turn_advantages(batch, rewards, config.group_size, compare)
        steps: list[Metrics] = []
        for rows in self.minibatches(batch):
            found = self.gradient(batch, rows, old)  # of `loss`, below
            if steps and config.target_kl is not None and found["approx_kl"] > config.target_kl:
                break
            steps.append({**found, "grad_norm": self.apply_gradients()})
        return {**self.report(batch, reference, steps), "groups_without_preference": no_preference}

    def loss(self, now: Evaluation, old: dict[str, Tensor], part: Part) -> tuple[Tensor, Shares]:
        """Compute the clipped surrogate and the KL loss, averaged as `length_normalisation` says.

        Args:
            now: Log-probabilities and entropies as they are now, `(b, T)` each, with gradients.
            old: `log_probs`, `reference`, `advantages`, `(b, T)` each.
            part: Which tokens there are.
        """
        config = self.config
        log_ratio = (now.log_probs - old["log_probs"]) * part.mask
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - config.clip, 1 + (config.clip_higher or config.clip))
        surrogate = torch.minimum(ratio * old["advantages"], clipped * old["advantages"])
        loss = policy_loss = -self.average(surrogate, part)
        if config.entropy_coef:
            loss = loss - self.entropy_weight() * self.average(now.entropy, part)
        if config.kl_in == "loss":
            kl = estimate_kl(now.log_probs, old["reference"], config.kl_estimator)
            loss = loss + self.kl.coefficient * self.average(kl, part)
        return loss, self.surrogate_metrics(policy_loss, now, log_ratio, ratio, clipped, part)

    def average(self, x: Tensor, part: Part) -> Tensor:
        """Average the tokens' losses `(b, T)` as `length_normalisation` says."""
        how = self.config.length_normalisation
        if how == "token":
            return part.per_token(x)
        if how == "constant":
            return part.per_episode(x) / self.env.max_tokens
        return part.per_episode(x / part.mask.sum(dim=1, keepdim=True))


def group_advantages(returns: Tensor, present: Tensor, *, std: bool = True) -> Tensor:
    """Returns less the mean of their group and, with `std`, over its standard deviation.

    Args:
        returns: `(G, k)`, of `k` episodes for each of `G` prompts.
        present: `(G, k)` bool; what is not there has advantage 0 and leaves the others alone.
        std: The population's standard deviation (divisor `k`), so that advantages have exactly 1.

    Returns:
        `(G, k)`; a group whose returns are all the same carries no preference and has zeros, not
        amplified rounding noise.

    >>> group_advantages(torch.tensor([[1.0, 3.0], [2.0, 2.0]]), torch.ones(2, 2).bool())
    tensor([[-1.,  1.],
            [ 0.,  0.]])
    """
    count = present.sum(dim=1, keepdim=True).clamp(min=1)
    mean = (returns * present).sum(dim=1, keepdim=True) / count
    centred = (returns - mean) * present
    spread = (centred.square().sum(dim=1, keepdim=True) / count).sqrt()
    constant = spread <= 8 * torch.finfo(returns.dtype).eps * (1 + mean.abs())
    return torch.where(constant, 0.0, centred / spread if std else centred)
