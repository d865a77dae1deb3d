"""RLOO (Ahmadian et al. 2024): REINFORCE with the mean return of a prompt's other episodes as baseline.

    R_i = Σ_t R_t − β log π_old(a_t|s_t) / π_ref(a_t|s_t)       the return of a whole completion, KL included
    Â_i = R_i − 1/(k − 1) Σ_{j≠i} R_j                           Ahmadian et al. 2024, sec. 3; Kool et al. 2019
    L   = −E_i min(ρ_i Â_i, clip(ρ_i, 1 − ε, 1 + ε) Â_i),  ρ_i = Π_t π(a_t|s_t) / π_old(a_t|s_t)

A whole completion is one action here, with one ratio, clipped as a whole. There is no critic and nothing is
normalised.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from text_gym.agents.policies.policy import Evaluation
from text_gym.agents.sampling.rollout import Rollout
from text_gym.agents.training.metrics import Metrics

from .configs import AgentConfig, RLOOConfig
from .estimators import estimate_kl
from .groups import grouped_returns, turn_advantages, turn_sums
from .policy_gradient import LARGEST_WEIGHT, Part, PolicyGradient, Shares


class RLOO(PolicyGradient[RLOOConfig]):
    """REINFORCE leave-one-out.

    Raises:
        ConfigError: The environment's `num_envs` is not a multiple of `group_size`.

    >>> from text_gym import ByteTokenizer, TextVectorEnv
    >>> from text_gym.agents import Policy
    >>> env = TextVectorEnv(["a"], ByteTokenizer(), lambda completion: len(completion), 4, num_envs=8)
    >>> policy = Policy.new(ByteTokenizer(), width=16, layers=1, context=8)
    >>> agent = RLOO(policy, env, RLOOConfig(iterations=1, group_size=4)).learn()
    """

    config_class: ClassVar[type[AgentConfig]] = RLOOConfig

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

        # The reward of a token, (B, T): what the task pays for it, less β times an estimate of the KL.
        rewards = batch.rewards
        if config.kl_in == "reward":
            kl = estimate_kl(batch.log_probs, reference, config.kl_estimator)
            rewards = rewards - self.kl.coefficient * kl * mask

        # The advantage of the one action, shared out evenly among its tokens.
        returns, present, places = grouped_returns(batch, rewards, config.group_size)  # (G, k)
        advantages = leave_one_out(returns, present)[places][:, None] / batch.lengths[:, None] * mask

        # Several epochs of minibatches; one that finds the policy too far from where it played ends them.
        old = {"log_probs": batch.log_probs, "reference": reference, "advantages": advantages}
        if config.credit == "turn":  # each turn is an action, shared out among its own tokens
            advantages, turns = turn_advantages(batch, rewards, config.group_size, leave_one_out)
            old |= {"advantages": advantages / turn_sums(mask.to(rewards.dtype), turns), "turns": turns}
        steps: list[Metrics] = []
        for rows in self.minibatches(batch):
            found = self.gradient(batch, rows, old)  # of `loss`, below
            if steps and config.target_kl is not None and found["approx_kl"] > config.target_kl:
                break
            steps.append({**found, "grad_norm": self.apply_gradients()})
        return self.report(batch, reference, steps)

    def loss(self, now: Evaluation, old: dict[str, Tensor], part: Part) -> tuple[Tensor, Shares]:
        """Compute the clipped surrogate of whole completions, averaged over the minibatch's episodes.

        Args:
            now: Log-probabilities and entropies as they are now, `(b, T)` each, with gradients.
            old: `log_probs`, `reference`, `advantages` and, with credit by turns, `turns`, `(b, T)` each.
            part: Which tokens there are.
        """
        config = self.config
        log_ratio = (now.log_probs - old["log_probs"]) * part.mask
        if "turns" in old:
            ratio = turn_sums(log_ratio, old["turns"]).exp()  # the same at each token of a turn
        else:
            ratio = log_ratio.sum(dim=1, keepdim=True).exp().expand_as(log_ratio)  # the same at each token
        clipped = ratio.clamp(1 - config.clip, 1 + (config.clip_higher or config.clip))
        surrogate = torch.minimum(ratio * old["advantages"], clipped * old["advantages"])
        loss = policy_loss = -part.per_episode(surrogate)
        if config.entropy_coef:
            loss = loss - self.entropy_weight() * part.per_episode(now.entropy)
        if config.kl_in == "loss":
            kl = estimate_kl(now.log_probs, old["reference"], config.kl_estimator)
            loss = loss + self.kl.coefficient * part.per_episode(kl)
        return loss, self.surrogate_metrics(policy_loss, now, log_ratio, ratio, clipped, part)

    def importance_weights(self, batch: Rollout, drawn: Tensor) -> Tensor:
        """Return the factors on the advantages of completions that a generator drew, `(B, 1)`.

        min(Π_t π_old(a_t|s_t) / μ(a_t|s_t), 2): a whole completion is one action here, too.

        Args:
            batch: `B` episodes.
            drawn: `(B, T)`, nats, the generator's log-probabilities.
        """
        return (batch.log_probs - drawn).sum(dim=1, keepdim=True).exp().clamp_max(LARGEST_WEIGHT)


def leave_one_out(returns: Tensor, present: Tensor) -> Tensor:
    """Each return less the mean of the others in its group (Kool, van Hoof & Welling 2019).

    Args:
        returns: `(G, k)`, of `k` episodes for each of `G` prompts.
        present: `(G, k)` bool; what is not there, or is alone, has advantage 0.

    Returns:
        `(G, k)`; rows sum to 0. Unlike with the mean of all, the gradient has no factor `(k - 1)/k`.

    >>> import torch
    >>> leave_one_out(torch.tensor([[1.0, 2.0, 6.0]]), torch.ones(1, 3).bool())
    tensor([[-3.0000, -1.5000,  4.5000]])
    """
    count = present.sum(dim=1, keepdim=True)
    mean = (returns * present).sum(dim=1, keepdim=True) / count.clamp(min=1)
    return (returns - mean) * present * count / (count - 1).clamp(min=1)
