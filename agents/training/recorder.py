"""Recorder: what an update knew of each token and did to it, handed on for somebody to look at.

An agent without a recorder does nothing of this. With one, the iterations that it wants cost two more passes
forward and nothing in between; what is learnt stays the same to the bit. Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from text_gym.agents.policies.memory import Splitter
from text_gym.agents.policies.policy import Policy
from text_gym.agents.sampling.rollout import Rollout
from text_gym.episode import Episode, FloatArray
from text_gym.models.runtime import upload
from text_gym.models.sizes import sizes_of

from .metrics import Metrics


class Updating(Protocol):
    """What a recorder needs of an agent."""

    policy: Policy
    config: Any
    env: Any
    iteration: int

    def update(self, batch: Rollout) -> Metrics:
        """Learn from a batch."""

    def reference_log_probs(self, batch: Rollout) -> Tensor:
        """Score the batch's tokens with the reference policy: `(B, T)`, nats."""


@dataclass(frozen=True)
class IterationRecord:
    """The `B` episodes of one iteration with the numbers of each token.

    Args:
        iteration: Its number, from 1.
        group_size: `k`: each `k` episodes in a row share a prompt.
        episodes: The `B` episodes.
        rewards: `(B,)` float64, what an episode was paid in all; NaN for one that was not paid.
        terms: The parts of the rewards by name, `(B,)` float64 each.
        columns: Numbers of the agent's tokens by name, `(B, T)` float32 each, NaN where there is none.
            `log_prob` (nats) is under the distribution that the token was drawn from. `kl` is log_prob less
            the reference's, in nats; an episode's sum is its estimate of the KL. `entropy` (nats) is that of
            the policy's distribution before the update, and `ratio` is the policy's probability after the
            last step of the update over that at which the token was drawn. `reward` is what the task paid.
            `advantage` is what the loss was weighed with, whitened and weighted if it was. `value` is the
            critic's, of the state before the token, where a critic learns. Episodes that were not paid have
            none of these two and no `kl`: nothing was learnt from them.
    """

    iteration: int
    group_size: int
    episodes: list[Episode]
    rewards: FloatArray
    terms: Mapping[str, FloatArray]
    columns: Mapping[str, npt.NDArray[np.float32]]


class Recorder:
    """Records the updates of an agent, as `agent.recorder`.

    Args:
        wants: Says of an iteration's number, from 1, whether to record it.
        keep: Takes each record, after the update and before the next iteration.
    """

    def __init__(self, wants: Callable[[int], bool], keep: Callable[[IterationRecord], None]) -> None:
        self.wants, self.keep = wants, keep
        self._noted: tuple[Rollout, Mapping[str, Tensor]] | None = None

    def update(self, agent: Updating, batch: Rollout) -> Metrics:
        """Have an agent learn from a batch, record it if it is wanted, and return the agent's metrics."""
        self._noted = None
        if not self.wants(agent.iteration + 1):
            return agent.update(batch)
        columns = {"log_prob": batch.log_probs, "entropy": self._evaluate(agent, batch, entropy=True)}
        metrics = agent.update(batch)
        columns["ratio"] = (self._evaluate(agent, batch) - batch.log_probs).exp()
        columns["reward"] = batch.rewards
        found = {name: _on_host(column, batch) for name, column in columns.items()}
        totals = np.where(batch.scored.numpy(), batch.scores.totals_or_nan, np.nan)
        terms = {name: np.asarray(term, dtype=np.float64) for name, term in batch.scores.terms.items()}
        found |= self._of_the_loss(agent, batch)
        group = int(agent.env.batch.group_size)
        self.keep(IterationRecord(agent.iteration + 1, group, batch.episodes, totals, terms, found))
        self._noted = None
        return metrics

    def note(self, batch: Rollout, old: Mapping[str, Tensor]) -> None:
        """Take note of what a loss is computed from; the first minibatch of an update says it all.

        Args:
            batch: The episodes that are learnt from.
            old: `log_probs`, `reference`, `advantages`, and with a critic `returns`, `(B, T)` each.
        """
        if self._noted is None:
            self._noted = batch, old

    def _of_the_loss(self, agent: Updating, batch: Rollout) -> dict[str, npt.NDArray[np.float32]]:
        """Return the columns `kl`, `advantage` and `value`, as far as the algorithm has them."""
        learnt, old = self._noted or (batch, {})  # an algorithm with an update all of its own notes nothing
        reference = old["reference"] if "reference" in old else agent.reference_log_probs(learnt)
        found = {"kl": learnt.log_probs - reference}
        if "advantages" in old:
            found["advantage"] = old["advantages"]
        if "returns" in old:
            found["value"] = learnt.values
        rows: Any = slice(None) if learnt.rows is None else learnt.rows.numpy()
        columns = {}
        for name, column in found.items():
            columns[name] = np.full(batch.log_probs.shape, np.nan, dtype=np.float32)
            columns[name][rows, : column.shape[1]] = _on_host(column, learnt)
        return columns

    @torch.no_grad()
    def _evaluate(self, agent: Updating, batch: Rollout, *, entropy: bool = False) -> Tensor:
        """Return log-probabilities, or entropies, of the tokens under the policy as it is: `(B, T)`, nats."""
        starts, lengths, policy = batch.host_starts, batch.host_lengths, agent.policy
        widths = torch.full((len(batch.tokens),), batch.tokens.shape[1])
        result = torch.zeros(batch.log_probs.shape, dtype=policy.dtype, device=batch.tokens.device)

        def fill(parts: list[Tensor]) -> None:
            for part in parts:
                here = upload(part, batch.tokens.device)
                said = policy.evaluate(
                    batch.tokens[here],
                    starts[part],
                    lengths[part],
                    temperature=agent.config.temperature,
                    entropy=entropy,
                    action_masks=None if batch.action_masks is None else batch.action_masks[here],
                )
                column = said.entropy if entropy else said.log_probs
                result[here, : column.shape[1]] = column

        Splitter(policy.device, sizes_of(policy.device).scored_rows).run(widths, fill)
        return result


def _on_host(column: Tensor, batch: Rollout) -> npt.NDArray[np.float32]:
    """Return a column `(B, T)` as float32 on the host, NaN where a batch has no tokens."""
    found: npt.NDArray[np.float32] = column.detach().float().masked_fill(~batch.mask, torch.nan).cpu().numpy()
    return found
