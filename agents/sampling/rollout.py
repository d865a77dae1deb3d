"""Rollout: a batch of finished episodes with everything an update needs; what the sampler returns.

Arrays are aligned to completions: entry `[i, t]` belongs to token `t` of completion `i`, and is 0
past its end. Advantages are not here: they are an algorithm's opinion of a rollout.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from text_gym.episode import BoolArray, Episode
from text_gym.rewards.values import Rewards


@dataclass(frozen=True)
class Rollout:
    """`B` episodes played by one policy.

    Args:
        tokens: `(B, S)` int64, prompt and completion without a gap, right-padded.
        starts: `(B,)` int64, prompt lengths in tokens.
        lengths: `(B,)` int64, completion lengths in tokens (EOS included).
        log_probs: `(B, T)` float32, nats, of the tokens under the distribution they were drawn from.
        values: `(B, T)` float32, the critic's value of the state before each token.
        rewards: `(B, T)` float32, the task's reward of each token, without any KL.
        truncated: `(B,)` bool, episodes that the limit cut under `limit="truncate"`: nobody was asked about
            them.
        episodes: The `B` episodes.
        scores: What the reward source said of them.
        action_masks: `(B, T, V)` bool, the tokens that could be drawn, where the environment has a mask.
        states: `(B, T, D)`, the policy's states before each token, where they were kept.
        rows: `(B,)` int64, the episodes' rows in the batch that was played, of which these may be a part;
            None if these are all.
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
    rows: Tensor | None = None

    def __post_init__(self) -> None:
        shape = (len(self.tokens), int(self.lengths.max()))
        for name in ("log_probs", "values", "rewards"):
            found = tuple(getattr(self, name).shape)
            assert found == shape, f"{name} has shape {found}, expected {shape}"

    @cached_property
    def mask(self) -> Tensor:
        """`(B, T)` bool: True for the tokens of the completions."""
        steps = torch.arange(self.rewards.shape[1], device=self.lengths.device)
        return steps < self.lengths[:, None]

    @property
    def scored(self) -> Tensor:
        """`(B,)` bool: episodes that were paid. The others are no samples to learn from."""
        return ~self.truncated & torch.from_numpy(~self.scores.abstained).to(self.truncated.device)

    def only(self, rows: Tensor) -> Rollout:
        """The batch of these rows alone, `(B,)` bool, at least one; it is as wide as they need."""
        if bool(rows.all()):
            return self
        index = rows.cpu().numpy()
        places = torch.arange(len(rows), device=rows.device) if self.rows is None else self.rows
        longest, width = int(self.lengths[rows].max()), int((self.starts + self.lengths)[rows].max())
        columns: dict[str, Any] = {}
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                value = value[rows]
                columns[name] = (
                    value if value.ndim == 1 else value[:, : width if name == "tokens" else longest]
                )
        episodes = [episode for episode, taken in zip(self.episodes, index.tolist(), strict=True) if taken]
        columns |= {"episodes": episodes, "scores": _only(self.scores, index), "rows": places[rows]}
        return replace(self, **columns)

    @property
    def num_tokens(self) -> int:
        """Number of tokens generated."""
        return int(self.lengths.sum())


def _only(scores: Rewards, rows: BoolArray) -> Rewards:
    per_token = scores.per_token and tuple(
        t for t, taken in zip(scores.per_token, rows, strict=True) if taken
    )
    terms = {name: np.asarray(term)[rows] for name, term in scores.terms.items()}
    return Rewards(scores.values[rows], per_token, terms, scores.abstained[rows])


def rewards_per_token(scores: Rewards, lengths: Tensor) -> Tensor:
    """`(B, T)` float32: per-token rewards where they arose, the value on the last token."""
    rewards = torch.zeros(len(lengths), int(lengths.max()), dtype=torch.float64)
    if scores.per_token is not None:
        for i, per_token in enumerate(scores.per_token):
            rewards[i, : len(per_token)] = torch.from_numpy(per_token)
    rewards[torch.arange(len(lengths)), lengths.cpu() - 1] += torch.from_numpy(scores.values)
    return rewards.float().to(lengths.device)
