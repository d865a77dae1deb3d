"""Rollout: a batch of finished episodes with everything an update needs, as the sampler returns it.

Arrays are aligned to what the agent wrote: entry `[i, t]` belongs to its token `t` in episode `i`, and is 0
past its end. An environment's replies are in `tokens` alone, so that nothing has to mask them out.
Advantages are not here: they are an algorithm's opinion of a rollout.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from text_gym.agents.policies.columns import ends_of
from text_gym.envs.episode_batch import EpisodeBatch
from text_gym.episode import BoolArray, Episode, FloatArray, IntArray, share_cut
from text_gym.models.runtime import on_host, upload
from text_gym.pages.notebook import card, episodes_table
from text_gym.rewards.values import Rewards


@dataclass(frozen=True, repr=False)
class Rollout:
    """`B` episodes played by one policy.

    Args:
        tokens: `(B, S)` int64, prompt and completion without a gap, right-padded.
        starts: `(B,)` int64, prompt lengths in tokens.
        lengths: `(B,)` int64, tokens that the agent wrote (EOS included); without replies, the completion's.
        log_probs: `(B, T)` float32, nats, of the tokens under the distribution they were drawn from.
        values: `(B, T)` float32, the critic's value of the state before each token.
        rewards: `(B, T)` float32, the task's reward of each token, without any KL.
        truncated: `(B,)` bool, episodes that the limit cut under `limit="truncate"`, which nobody scored.
        episodes: The `B` episodes.
        scores: What the reward source said of them.
        action_masks: `(B, T, V)` bool, the tokens that could be drawn, where the environment has a mask.
        states: `(B, T, D)`, the policy's states before each token, where they were kept.
        generator_log_probs: `(B, T)`, nats, by whoever drew the tokens if that was not the policy as it is: a
            generator, or the policy with weights rounded to 8 bits.
        columns: `(B, T)` int64 on the host, where in `tokens` each of the agent's tokens stands, in
            conversations; None where they follow the prompt without a gap.
        rows: `(B,)` int64 on the host, the episodes' rows in the batch that was played, of which these may be
            a part; None if these are all.
        reference_log_probs: `(B, T)`, nats, of the tokens under the reference policy, where an agent has
            computed them while the rewards were waited for.
    """

    tokens: Tensor
    starts: Tensor
    lengths: Tensor
    log_probs: Tensor
    values: Tensor
    rewards: Tensor
    truncated: Tensor
    episodes: list[Episode]
    scores: Rewards
    action_masks: Tensor | None = None
    states: Tensor | None = None
    generator_log_probs: Tensor | None = None
    columns: Tensor | None = None
    rows: Tensor | None = None
    reference_log_probs: Tensor | None = None

    def __post_init__(self) -> None:
        shape = (len(self.tokens), int(self.host_lengths.max()))
        for name in ("log_probs", "values", "rewards"):
            found = tuple(getattr(self, name).shape)
            assert found == shape, f"{name} has shape {found}, expected {shape}"

    def __repr__(self) -> str:
        reward = f"mean reward {self.metrics()['reward']:.3g}"
        return f"Rollout({len(self.episodes):,} episodes, {self.num_tokens:,} tokens, {reward})"

    def _repr_html_(self) -> str:
        facts: dict[str, object] = {"episodes": len(self.episodes), "tokens": self.num_tokens}
        facts |= {name: self.metrics()[name] for name in ("reward", "reward_std", "length", "truncated")}
        silent = self.scores.per_token is None or self.columns is not None
        per_token = None if silent else self.rewards.tolist()
        totals = {"reward": self.scores.totals_or_nan.tolist()}
        return card("Rollout", facts, episodes_table(self.episodes, totals, per_token))

    @cached_property
    def mask(self) -> Tensor:
        """The mask of the agent's tokens, `(B, T)` bool."""
        steps = torch.arange(self.rewards.shape[1], device=self.lengths.device)
        return steps < self.lengths[:, None]

    @cached_property
    def _on_host(self) -> tuple[Tensor, ...]:
        return on_host(self.starts, self.lengths, self.truncated.to(self.starts.dtype))

    @cached_property
    def host_starts(self) -> Tensor:
        """`starts` on the host, or `columns` where there are any; `Policy.evaluate` takes either.

        They are read once, since who reads them on an accelerator makes it wait.
        """
        return self._on_host[0] if self.columns is None else self.columns

    @cached_property
    def host_lengths(self) -> Tensor:
        """`lengths` on the host, likewise."""
        return self._on_host[1]

    @cached_property
    def host_ends(self) -> Tensor:
        """Where the agent's last tokens end in `tokens`, `(B,)` int64 on the host."""
        starts, lengths = self.host_starts, self.host_lengths
        return starts + lengths if starts.ndim == 1 else ends_of(starts, lengths)

    @property
    def scored(self) -> Tensor:
        """The episodes that were paid, `(B,)` bool on the host; the others are no samples to learn from."""
        return ~self._on_host[2].bool() & torch.from_numpy(~self.scores.abstained)

    def only(self, rows: Tensor) -> Rollout:
        """Return the batch of these rows alone, `(B,)` bool, at least one, as wide as they need.

        Past an episode's end all numbers are 0 in it, whatever a generator or a critic left there.
        """
        rows = rows.cpu()
        batch = self if bool(rows.all()) else self._taken(rows)
        columns = {name: getattr(batch, name) for name in ("log_probs", "values", "rewards")}
        if self.generator_log_probs is not None:
            columns["generator_log_probs"] = batch.generator_log_probs
        found = replace(batch, **{name: x.masked_fill(~batch.mask, 0.0) for name, x in columns.items()})
        vars(found).update(mask=batch.mask, _on_host=batch._on_host)  # read once
        return found

    def _taken(self, rows: Tensor) -> Rollout:
        index = rows.numpy()
        places = torch.arange(len(rows)) if self.rows is None else self.rows.cpu()
        lengths = self.host_lengths[rows]
        longest, width = int(lengths.max()), int(self.host_ends[rows].max())
        taken_rows = upload(rows.nonzero()[:, 0], self.tokens.device)
        columns: dict[str, Any] = {}
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                value = value[taken_rows] if value.device == taken_rows.device else value[rows]
                columns[name] = (
                    value if value.ndim == 1 else value[:, : width if name == "tokens" else longest]
                )
        episodes = [episode for episode, taken in zip(self.episodes, index.tolist(), strict=True) if taken]
        columns |= {"episodes": episodes, "scores": _only(self.scores, index), "rows": places[rows]}
        return replace(self, **columns)

    @property
    def num_tokens(self) -> int:
        """The number of tokens generated."""
        return int(self.host_lengths.sum())

    def metrics(self) -> dict[str, float]:
        """Summarise the batch for the logs: reward, its terms, lengths, and how episodes ended.

        Rewards are of the episodes that were paid; `truncated` is the share of texts that the limit cut, paid
        or not. A term leaves out NaN, which marks episodes on which a part abstained.
        """
        scores, judged = self.scores, self.scored.numpy()
        terms = {f"reward/{name}": np.asarray(term, dtype=np.float64) for name, term in scores.terms.items()}
        known = {name: term[~np.isnan(term)] for name, term in terms.items()}
        return {
            "reward": float(scores.totals[judged].mean()) if judged.any() else float("nan"),
            "reward_std": float(scores.totals[judged].std()) if judged.any() else float("nan"),
            "abstained": int(scores.abstained.sum()),
            "length": float(self.host_lengths.float().mean()),
            "length_max": int(self.host_lengths.max()),
            "truncated": share_cut(self.episodes),
            "eos": sum(e.finish_reason == "eos" for e in self.episodes) / len(self.episodes),
            **(
                {}
                if self.columns is None
                else {"turns": float(np.mean([e.agent_turns for e in self.episodes]))}
            ),
            **{name: float(term.mean()) if len(term) else float("nan") for name, term in known.items()},
            **self.generator_metrics(),
        }

    def generator_metrics(self) -> dict[str, float]:
        """Return how far the generator's log-probabilities are from the policy's; empty without a generator.

        `generator_gap` and `generator_gap_max` are the mean and largest difference, in nats a token;
        `generator_ratio` is the mean of π(token) / μ(token), by the policy and by the generator;
        `generator_kl` estimates KL(μ ‖ π) in nats a token (k3, never negative); `generator_ess` is the share
        of the tokens that the effective sample size is, (Σ ratio)² / Σ ratio² of them (Kish 1965).
        """
        if self.generator_log_probs is None:
            return {}
        log_ratio = (self.log_probs - self.generator_log_probs)[self.mask].double()
        return {
            "generator_gap": float(log_ratio.abs().mean()),
            "generator_gap_max": float(log_ratio.abs().max()),
            "generator_ratio": float((ratio := log_ratio.exp()).mean()),
            "generator_kl": float((ratio - 1 - log_ratio).mean()),
            "generator_ess": float(ratio.mean() ** 2 / ratio.square().mean()),
        }


def _only(scores: Rewards, rows: BoolArray) -> Rewards:
    per_token = scores.per_token and tuple(
        t for t, taken in zip(scores.per_token, rows, strict=True) if taken
    )
    terms = {name: np.asarray(term)[rows] for name, term in scores.terms.items()}
    return Rewards(scores.values[rows], per_token, terms, scores.abstained[rows])


def assemble(
    batch: EpisodeBatch, columns: dict[str, Tensor], episodes: list[Episode], scores: Rewards
) -> Rollout:
    """Put together what the batch holds, what came from the policy, by name, and what the rewards said."""
    device = columns["values"].device

    def tensor(array: npt.NDArray[Any]) -> Tensor:
        return upload(array.copy(), device)

    lengths, places, paid = batch.lengths - batch.starts, None, scores
    if batch.conversation is not None:
        lengths, places = columns_of(batch.conversation.agent)
        paid = replace(scores, per_token=own_rewards(scores, episodes))
    longest = int(lengths.max())
    return Rollout(
        tokens=tensor(batch.tokens[:, : int(batch.lengths.max())]),
        starts=tensor(batch.starts),
        lengths=tensor(lengths),
        **{name: column[:, :longest] for name, column in columns.items()},
        rewards=upload(rewards_per_token(paid, torch.from_numpy(lengths)), device),
        truncated=tensor(batch.truncated),
        episodes=episodes,
        scores=scores,
        columns=places,
    )


def columns_of(agent: BoolArray) -> tuple[IntArray, Tensor]:
    """Return how many tokens the agent wrote in each row, and in which columns, `(B,)` and `(B, T)` int64.

    Past a row's end the last column is repeated.

    >>> columns_of(np.array([[False, True, True, False, True], [False, True, False, False, False]]))[1]
    tensor([[1, 2, 4],
            [1, 1, 1]])
    """
    rows, columns = np.nonzero(agent)
    lengths = np.bincount(rows, minlength=len(agent))
    steps = np.minimum(np.arange(lengths.max()), lengths[:, None] - 1)
    return lengths, torch.from_numpy(columns[(np.cumsum(lengths) - lengths)[:, None] + steps])


def own_rewards(scores: Rewards, episodes: list[Episode]) -> tuple[FloatArray, ...] | None:
    """Return the per-token rewards on the agent's tokens; what a reply's are paid falls to the one before."""
    if scores.per_token is None:
        return None
    found = []
    for rewards, episode in zip(scores.per_token, episodes, strict=True):
        assert episode.agent_mask is not None
        own = np.bincount(np.cumsum(episode.agent_mask) - 1, rewards)
        found.append(np.asarray(own, dtype=np.float64))
    return tuple(found)


def rewards_per_token(scores: Rewards, lengths: Tensor) -> Tensor:
    """Return `(B, T)` float32: per-token rewards where they arose, the value on the last token."""
    rewards = torch.zeros(len(lengths), int(lengths.max()), dtype=torch.float64)
    if scores.per_token is not None:
        for i, per_token in enumerate(scores.per_token):
            rewards[i, : len(per_token)] = torch.from_numpy(per_token)
    rewards[torch.arange(len(lengths)), lengths.cpu() - 1] += torch.from_numpy(scores.values)
    return rewards.float().to(lengths.device)
