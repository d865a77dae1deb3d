"""PolicyGradient: what PPO, GRPO, RLOO and REINFORCE share: epochs of clipped minibatch steps on a batch.

A subclass says what its advantages are and how a loss is averaged over tokens; nothing else differs.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from text_gym.agents.checks import check_loss
from text_gym.agents.policies.micro_batches import Part, Splitter
from text_gym.agents.policies.policy import Evaluation, Policy
from text_gym.agents.sampling.rollout import Rollout
from text_gym.agents.training.metrics import Metrics
from text_gym.envs.vector import TextVectorEnv
from text_gym.errors import ConfigError

from .agent import Agent
from .configs import PolicyGradientConfig
from .kl import estimate_kl

ConfigT = TypeVar("ConfigT", bound=PolicyGradientConfig)


class PolicyGradient(Agent[ConfigT], Generic[ConfigT]):
    """An agent that weighs the log-probabilities of its tokens with advantages."""

    trunks = 1  # that a minibatch goes through

    def __init__(
        self,
        policy: Policy,
        env: TextVectorEnv,
        config: ConfigT | None = None,
        reference: Policy | None = None,
    ) -> None:
        super().__init__(policy, env, config or self.config_class(), reference)  # type: ignore[arg-type]
        token_bytes = self.trunks * policy.token_bytes
        self._splitter = Splitter(policy.device, self.config.micro_batch_size, token_bytes)

    @abstractmethod
    def estimate(self, batch: Rollout, rewards: Tensor) -> tuple[dict[str, Tensor], Metrics]:
        """What the loss needs to know of each token.

        Args:
            batch: `B` episodes.
            rewards: `(B, T)`, of each token, less the KL penalty where that is part of the reward.

        Returns:
            `advantages`, and whatever else the subclass's `loss` reads, `(B, T)` each; and metrics.
        """

    def after_epochs(self, batch: Rollout, columns: dict[str, Tensor]) -> Metrics:
        """Learn what is not learnt along with the policy: here nothing. Returns metrics.

        Args:
            batch: The `B` episodes that were paid.
            columns: `log_probs`, `reference` and what `estimate` returned, `(B, T)` each.
        """
        return {}

    def average(self, x: Tensor, part: Part) -> Tensor:
        """One number of the tokens' losses `(b, T)`: here the mean over the tokens of a minibatch.

        Of a part of the minibatch it is the contribution to that number: those of all parts add up to it.
        """
        return part.per_token(x)

    def ratio(self, log_ratio: Tensor) -> Tensor:
        """`(b, T)`, how much likelier each action has become; here a token is an action.

        Args:
            log_ratio: `(b, T)`, nats, of each token, 0 where masked.
        """
        return log_ratio.exp()

    def update(self, batch: Rollout) -> Metrics:
        """Several epochs of clipped minibatch steps on the episodes of a batch that were paid.

        Others (the judge had no opinion; cut under `limit="truncate"`) change nothing of the update: they
        have no part in losses, advantages, baselines, whitening, divisors and the KL controller. Where none
        was paid, nothing is updated and the KL is NaN.
        """
        if not batch.scored.any():
            nothing = float("nan")
            return {"kl": nothing, "kl_per_token": nothing, "kl_coef": self.kl.coefficient, "updates": 0}
        batch = batch.only(batch.scored)
        config, mask = self.config, batch.mask
        reference = self.reference_log_probs(batch)
        rewards = batch.rewards
        if config.kl_in == "reward":
            penalty = estimate_kl(batch.log_probs, reference, config.kl_estimator)
            rewards = rewards - self.kl.coefficient * penalty * mask
        estimated, metrics = self.estimate(batch, rewards)
        columns = {"log_probs": batch.log_probs, "reference": reference, **estimated}

        steps: list[Metrics] = []
        for rows in minibatches(
            len(batch.tokens), config.epochs, config.minibatches, (config.seed, self.iteration)
        ):
            found = self._gradient(batch, rows.to(self.policy.device), columns)
            if steps and config.target_kl is not None and found["approx_kl"] > config.target_kl:
                break
            steps.append({**found, "grad_norm": self.apply_gradients()})
        metrics |= self.after_epochs(batch, columns)
        kl = float(((batch.log_probs - reference) * mask).sum() / len(batch.tokens))
        objective = self.track_objective(batch, reference)
        self.kl.update(kl, len(batch.tokens))
        return {
            **{name: float(np.mean([s[name] for s in steps])) for name in steps[0]},
            "kl": kl,
            "kl_per_token": kl / float(batch.lengths.float().mean()),
            "kl_coef": self.kl.coefficient,
            "updates": len(steps),
            **objective,
            **metrics,
        }

    def loss(self, now: Evaluation, old: dict[str, Tensor], part: Part) -> tuple[Tensor, Metrics]:
        """The clipped surrogate (Schulman et al. 2017, eq. 7), entropy and KL losses of a minibatch.

        Args:
            now: What the policy says now, `(b, T)` each.
            old: `log_probs`, `reference` and what `estimate` returned, `(b, T)` each.
            part: Whose tokens they are. Losses and metrics of all parts of a minibatch add up to its own
                (of `ratio_max` the largest is its own).
        """
        config, mask = self.config, part.mask
        log_ratio = (now.log_probs - old["log_probs"]) * mask
        ratio = self.ratio(log_ratio)
        high = config.clip if config.clip_higher is None else config.clip_higher
        clipped = ratio.clamp(1 - config.clip, 1 + high)
        surrogate = torch.minimum(ratio * old["advantages"], clipped * old["advantages"])
        loss = policy_loss = -self.average(surrogate, part)
        if config.entropy_coef:
            loss = loss - config.entropy_coef * self.average(now.entropy, part)
        if config.kl_in == "loss":
            penalty = estimate_kl(now.log_probs, old["reference"], config.kl_estimator)
            loss = loss + self.kl.coefficient * self.average(penalty, part)
        with torch.no_grad():
            metrics = {
                "policy_loss": float(policy_loss),
                "entropy": float(part.per_token(now.entropy if config.entropy_coef else -now.log_probs)),
                "clip_fraction": float(part.per_token((ratio - clipped).abs().gt(0).float())),
                "approx_kl": float(part.per_token(torch.expm1(log_ratio) - log_ratio)),
                "ratio": float(part.per_token(ratio)),
                "ratio_max": float(ratio[mask].max()),
            }
        return loss, metrics

    def evaluate(self, batch: Rollout, rows: Tensor) -> Evaluation:
        """What the policy says now of these rows of a batch, `(b, T)` each, with gradients."""
        return self.policy.evaluate(
            batch.tokens[rows],
            batch.starts[rows],
            batch.lengths[rows],
            temperature=self.config.temperature,
            entropy=self.config.entropy_coef != 0,
            action_masks=None if batch.action_masks is None else batch.action_masks[rows],
        )

    def _gradient(self, batch: Rollout, rows: Tensor, columns: dict[str, Tensor]) -> Metrics:
        """Compute the gradient of a minibatch, and what its loss says of it."""
        whole = Part.whole(batch.mask[rows])

        def gradient(parts: list[Tensor]) -> list[Metrics]:
            self.optimizer.zero_grad(set_to_none=True)
            return [self._backward(batch, rows[part], columns, whole, part) for part in parts]

        seen = self._splitter.run((batch.starts + batch.lengths)[rows], gradient)
        total = {name: sum(metrics[name] for metrics in seen) for name in seen[0]}
        total["ratio_max"] = max(metrics["ratio_max"] for metrics in seen)
        return total

    def _backward(
        self, batch: Rollout, rows: Tensor, columns: dict[str, Tensor], whole: Part, part: Tensor
    ) -> Metrics:
        """Add the gradient of some rows of a batch, which are these rows of a minibatch."""
        now = self.evaluate(batch, rows)
        width = now.log_probs.shape[1]
        old = {name: column[rows, :width] for name, column in columns.items()}
        loss, metrics = self.loss(now, old, whole.of(part, width))
        check_loss(loss, {"now " + k: v for k, v in now._asdict().items()} | old, self.where)
        loss.backward()
        return {**metrics, "loss": float(loss.detach())}


def minibatches(episodes: int, epochs: int, parts: int, seed: tuple[int, int]) -> list[Tensor]:
    """Row indices of every minibatch of every epoch, shuffled by (seed, iteration) alone.

    >>> [len(rows) for rows in minibatches(10, epochs=2, parts=4, seed=(0, 0))]
    [3, 3, 2, 2, 3, 3, 2, 2]
    """
    generator = np.random.default_rng(seed)
    result: list[Tensor] = []
    for _ in range(epochs if episodes else 0):
        order = generator.permutation(episodes)
        result += [torch.from_numpy(part) for part in np.array_split(order, min(parts, episodes))]
    return result


def check_groups(env: TextVectorEnv, group_size: int) -> None:
    """Have the environment play groups of episodes that share a prompt.

    Raises:
        ConfigError: A group of fewer than 2, or rows that do not divide into groups.
    """
    if group_size < 2:
        raise ConfigError(f"group_size is {group_size}; a group needs at least 2 episodes to compare")
    if env.num_envs % group_size:
        raise ConfigError(
            f"num_envs={env.num_envs} (episodes per iteration) is not a multiple of group_size={group_size}"
        )
    env.batch.group_size = group_size


def grouped_returns(
    batch: Rollout, rewards: Tensor, group_size: int
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Returns of episodes by prompt; of a group of which only some episodes are in the batch, of these.

    Args:
        batch: What was played, or the part of it that was paid.
        rewards: `(B, T)`.
        group_size: `k`, episodes of a prompt.

    Returns:
        `(G, k)` returns, a row per prompt that is left; `(G, k)` bool, which of them are there; and where the
        episodes of the batch are, as an index of such tables.

    Raises:
        ConfigError: The batch is not made of groups that share a prompt.
    """
    rows = torch.arange(len(rewards), device=rewards.device) if batch.rows is None else batch.rows
    groups, group = torch.unique(rows // group_size, return_inverse=True)
    places = (group, rows % group_size)
    prompts = {number: batch.episodes[i].prompt for i, number in enumerate(group.tolist())}
    same = all(
        episode.prompt is prompts[number]
        for number, episode in zip(group.tolist(), batch.episodes, strict=True)
    )
    if (batch.rows is None and len(rows) % group_size) or not same:
        raise ConfigError(
            f"the batch is not made of groups of {group_size} episodes that share a prompt; was "
            "env.batch.group_size changed after the agent was made?"
        )
    returns = rewards.new_zeros(len(groups), group_size)
    present = torch.zeros_like(returns, dtype=torch.bool)
    returns[places] = rewards.sum(dim=1)
    present[places] = True
    return returns, present, places
