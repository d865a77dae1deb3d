"""PolicyGradient: the tools that PPO, GRPO, RLOO and REINFORCE share, for minibatches, gradients and metrics.

No algorithm is here. The `update` of each stands in its own file and is read from top to bottom: reference
log-probabilities, rewards and KL, advantages, then steps on minibatches, whose `loss` stands below it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from text_gym.agents.policies.memory import Splitter
from text_gym.agents.policies.policy import Evaluation
from text_gym.agents.sampling.rollout import Rollout
from text_gym.agents.training.metrics import Metrics
from text_gym.agents.training.together import share_rows
from text_gym.errors import NonFiniteError
from text_gym.models.gradients import GradientSums
from text_gym.models.runtime import clip_each, limited_threads, read_numbers, upload

from .agent import Agent
from .configs import PolicyGradientConfig

ConfigT = TypeVar("ConfigT", bound=PolicyGradientConfig)
Shares: TypeAlias = Mapping[str, float | Tensor]  # a part's shares in the metrics of its minibatch
LARGEST_WEIGHT = 2.0  # of a token, or of a completion, that a generator drew


@dataclass(frozen=True)
class Part:
    """The part of a minibatch that a loss is computed for: all of it, or a micro-batch.

    Averages divide by the whole minibatch, so those of its parts add up to its own.

    Args:
        mask: `(b, T)` bool, the tokens of the part's episodes.
        tokens: Number of tokens of the whole minibatch.
        episodes: Number of episodes of the whole minibatch.
    """

    mask: Tensor
    tokens: int
    episodes: int

    @classmethod
    def whole(cls, mask: Tensor) -> Part:
        """Make the part that is the whole of a minibatch with this mask.

        >>> Part.whole(torch.tensor([[True, True, True], [True, False, False]])).tokens
        4
        """
        return cls(mask, int(mask.sum()), len(mask))

    def per_token(self, x: Tensor) -> Tensor:
        """Average `(b, T)` over the tokens of the minibatch."""
        return (x * self.mask).sum() / self.tokens

    def per_episode(self, x: Tensor) -> Tensor:
        """Average over the episodes of the minibatch the sum of `(b, T)` over their tokens.

        It is the average whose gradient is the policy gradient.

        >>> mask = torch.tensor([[True, True, True], [True, False, False]])
        >>> Part.whole(mask).per_episode(torch.ones(2, 3))
        tensor(2.)
        """
        return (x * self.mask).sum() / self.episodes


class PolicyGradient(Agent[ConfigT], Generic[ConfigT]):
    """An agent that weighs the log-probabilities of its tokens with advantages."""

    trunks = 1  # a minibatch goes through as many

    @abstractmethod
    def loss(self, now: Evaluation, old: dict[str, Tensor], part: Part) -> tuple[Tensor, Shares]:
        """Compute the loss of a minibatch, or a part's share of it, and metrics that add up in the same way.

        Metrics best remain tensors: `gradient` reads them all at once.

        Args:
            now: What the policy says now, `(b, T)` each, with gradients.
            old: What `update` found out before its first step, `(b, T)` each, by name.
            part: Which tokens there are, and what averages divide by.
        """

    def read_ahead(self, batch: Rollout) -> dict[str, Tensor]:
        """Have the reference policy read the tokens, `(B, T)`, while the last rewards are awaited."""
        with limited_threads(*self.networks.values()):
            return {"reference_log_probs": self.reference_log_probs(batch)}

    def evaluate(self, batch: Rollout, rows: Tensor, here: Tensor) -> Evaluation:
        """Evaluate these rows of a batch with the policy as it is now, `(b, T)` each, with gradients.

        Args:
            batch: `B` episodes.
            rows: `(b,)` int64, on the host.
            here: The same where the batch is.
        """
        return self.policy.evaluate(
            batch.tokens[here],
            batch.host_starts[rows],
            batch.host_lengths[rows],
            temperature=self.config.temperature,
            entropy=self.config.entropy_coef != 0,
            action_masks=None if batch.action_masks is None else batch.action_masks[here],
        )

    def entropy_weight(self) -> float:
        """Return the weight of the entropy bonus in this iteration."""
        config = self.config
        share = 1.0 - self.iteration / max(1, config.iterations) if config.anneal_entropy else 1.0
        return config.entropy_coef * max(0.0, share)

    def minibatches(self, batch: Rollout) -> list[Tensor]:
        """Draw the minibatches of every epoch: the rows `(b,)` int64 of each, on the host."""
        config = self.config
        return minibatches(
            len(batch.tokens), config.epochs, config.minibatches, (config.seed, self.iteration)
        )

    def gradient(self, batch: Rollout, rows: Tensor, old: Mapping[str, Tensor]) -> Metrics:
        """Compute the gradient of a minibatch's loss, one micro-batch after another; no step is taken.

        Args:
            batch: `B` episodes.
            rows: `(b,)` int64, those of the minibatch.
            old: What the loss needs to know of all tokens of the batch, `(B, T)` each, by name.

        Returns:
            The metrics of the minibatch, and its `loss`.

        Raises:
            NonFiniteError: The loss, or what it was computed from, is NaN or infinite.
            ConfigError: There is not enough memory for a single episode.
        """
        rows = rows.cpu()
        device, tokens, episodes = batch.tokens.device, int(batch.host_lengths[rows].sum()), len(rows)
        first = rows[:1]
        if self.world is not None:
            ends, lengths = batch.host_ends[rows], batch.host_lengths[rows]
            rows = rows[share_rows(self.world, self.policy, ends, lengths)]
        if batch.generator_log_probs is not None and "advantages" in old:
            weights = self.importance_weights(batch, batch.generator_log_probs)
            old = {**old, "advantages": old["advantages"] * weights}
        if self.recorder is not None:
            self.recorder.note(batch, old)

        def accumulate(parts: list[Tensor]) -> list[Metrics]:
            self.optimizer.zero_grad(set_to_none=True)
            seen = []
            for part in parts:
                here = upload(rows[part], device)
                now = self.evaluate(batch, rows[part], here)
                width = now.log_probs.shape[1]  # of the longest completion among them
                known = {name: column[here, :width] for name, column in old.items()}
                share = Part(batch.mask[here, :width], tokens, episodes)
                loss, metrics = self.loss(now, known, share)
                found = {f"now {name}": column for name, column in now._asdict().items()}
                seen.append(check_loss(loss, {**found, **known}, self.iteration + 1, metrics))
                send = self.world is not None and self.shards is None and part is parts[-1]
                with self._sums.overlapped() if send else nullcontext():
                    loss.backward()
            if self.world is not None and self.shards is not None:  # all go through the blocks equally often
                for _ in range(len(parts), int(self.world.largest(len(parts)))):
                    idle = self.evaluate(batch, first, upload(first, device))
                    (0 * (idle.log_probs.sum() + idle.values.sum())).backward()
            return seen

        seen = self._splitter.run(batch.host_ends[rows], accumulate) if len(rows) else accumulate([])
        if self.world is not None:
            seen = [metrics for theirs in self._sums.add(seen) for metrics in theirs]
        total = {name: sum(metrics[name] for metrics in seen) for name in seen[0]}
        total["ratio_max"] = max(metrics["ratio_max"] for metrics in seen)
        return total

    def apply_gradients(self) -> float:
        """Take one optimizer step; clip each network's gradient to `max_grad_norm` separately.

        Returns:
            The norm of the policy's gradient before clipping.

        Raises:
            NonFiniteError: A gradient is not finite; the weights are untouched.
        """
        norm = clip_each(list(self.networks.values()), self.config.max_grad_norm, self.iteration + 1)
        self.optimizer.step()
        return norm

    def importance_weights(self, batch: Rollout, drawn: Tensor) -> Tensor:
        """Return the factors on the advantages of tokens that a generator drew, `(B, T)`.

        min(π_old(a_t|s_t) / μ(a_t|s_t), 2), with μ the generator: truncated importance sampling of each token
        (Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training").

        Args:
            batch: `B` episodes.
            drawn: `(B, T)`, nats, the generator's log-probabilities.
        """
        return (batch.log_probs - drawn).exp().clamp_max(LARGEST_WEIGHT)

    def surrogate_metrics(
        self,
        policy_loss: Tensor,
        now: Evaluation,
        log_ratio: Tensor,
        ratio: Tensor,
        clipped: Tensor,
        part: Part,
    ) -> dict[str, Tensor]:
        """Describe a minibatch's clipped surrogate: how far the policy has moved, and what was clipped.

        Args:
            policy_loss: The surrogate's loss.
            now: What the policy says now, `(b, T)` each.
            log_ratio: `(b, T)`, nats, log π(token) / π_old(token).
            ratio: `(b, T)`, of each action.
            clipped: `(b, T)`, the ratio after clipping.
            part: Which tokens there are.
        """
        with torch.no_grad():
            entropy = now.entropy if self.config.entropy_coef else -now.log_probs  # an estimate for nothing
            return {
                "policy_loss": policy_loss.detach(),
                "entropy": part.per_token(entropy),
                "clip_fraction": part.per_token((ratio - clipped).abs().gt(0).float()),
                "approx_kl": part.per_token(torch.expm1(log_ratio) - log_ratio),
                "ratio": part.per_token(ratio),
                "ratio_max": ratio.masked_fill(~part.mask, -torch.inf).max(),
            }

    def report(self, batch: Rollout, reference: Tensor, steps: list[Metrics]) -> Metrics:
        """Finish an update: average the metrics of its steps, follow reward − β·KL, adapt β.

        Args:
            batch: The `B` episodes that were learnt from.
            reference: `(B, T)`, nats, as `reference_log_probs` gave them.
            steps: The metrics of each minibatch.
        """
        kl = float(((batch.log_probs - reference) * batch.mask).sum() / len(batch.tokens))
        objective = self.track_objective(batch, reference)
        self.kl.update(kl, len(batch.tokens))
        return {
            **{name: float(np.mean([s[name] for s in steps])) for name in steps[0]},
            "kl": kl,
            "kl_per_token": kl / float(batch.host_lengths.float().mean()),
            "kl_coef": self.kl.coefficient,
            "updates": len(steps),
            **objective,
        }

    def nothing_paid(self) -> Metrics:
        """Report an update that did nothing, since no episode of the batch was paid; the KL is NaN."""
        nan = float("nan")
        return {"kl": nan, "kl_per_token": nan, "kl_coef": self.kl.coefficient, "updates": 0}

    @cached_property
    def _sums(self) -> GradientSums:
        assert self.world is not None
        return GradientSums(self.world, (p for net in self.networks.values() for p in net.parameters()))

    @cached_property
    def _splitter(self) -> Splitter:
        token_bytes = self.trunks * self.policy.token_bytes
        return Splitter(self.policy.device, self.config.micro_batch_size, token_bytes)


def minibatches(episodes: int, epochs: int, parts: int, seed: tuple[int, int]) -> list[Tensor]:
    """Draw the row indices of every minibatch of every epoch, shuffled by (seed, iteration) alone.

    >>> [len(rows) for rows in minibatches(10, epochs=2, parts=4, seed=(0, 0))]
    [3, 3, 2, 2, 3, 3, 2, 2]
    """
    generator = np.random.default_rng(seed)
    result: list[Tensor] = []
    for _ in range(epochs if episodes else 0):
        order = generator.permutation(episodes)
        result += [torch.from_numpy(part) for part in np.array_split(order, min(parts, episodes))]
    return result


def check_loss(
    loss: Tensor, tensors: Mapping[str, Tensor], iteration: int, metrics: Shares | None = None
) -> Metrics:
    """Refuse a loss that is not finite, or comes from numbers that are not; return all metrics as numbers.

    Those may leave it finite: an old log-probability of infinity only makes a ratio 0. An accelerator is
    waited for once.

    Args:
        loss: A number.
        tensors: What it was computed from, by name.
        iteration: Its number, for the error.
        metrics: More numbers, by name.

    Raises:
        NonFiniteError: The loss or a tensor is NaN or infinite; all such tensors are named.
    """
    shares = {**(metrics or {}), "loss": loss}
    unread = {name: x for name, x in shares.items() if isinstance(x, Tensor)}
    with torch.no_grad():
        sums = [tensor.sum() for tensor in tensors.values()]
        read = read_numbers([*unread.values(), *sums])
        numbers = {**shares, **dict(zip(unread, read, strict=False))}
        found: Metrics = {name: float(x) for name, x in numbers.items()}
        if all(map(math.isfinite, [found["loss"], *read[len(unread) :]])):
            return found
        bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad or not torch.isfinite(loss):
        blame = f"; not finite before it: {', '.join(bad)}" if bad else ""
        raise NonFiniteError(
            f"the loss is {loss.item()} in iteration {iteration}; nothing was updated{blame}"
        )
    return found
