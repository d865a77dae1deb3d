"""Rollout: a batch of finished episodes with everything an update needs; what the sampler returns.

Arrays are aligned to completions: entry `[i, t]` belongs to token `t` of completion `i`, and is 0
past its end. Advantages are not here: they are an algorithm's opinion of a rollout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from text_gym import Episode, Rewards


@dataclass(frozen=True)
class Rollout:
    """`B` episodes played by one policy.

    Args:
        tokens: `(B, S)` int64, prompt and completion without a gap, right-padded.
        starts: `(B,)` int64, prompt lengths in tokens.
        lengths: `(B,)` int64, completion lengths in tokens (EOS included).
        log_probs: `(B, T)` float32, nats, of the tokens under the distribution they were drawn from.
        values: `(B, T)` float32, the critic's value of the state before each token.
        last_values: `(B,)` float32, value of the state after the last token where the episode was
            truncated; 0 where it terminated.
        rewards: `(B, T)` float32, the task's reward of each token, without any KL.
        episodes: The `B` episodes.
        scores: What the reward source said of them.
        action_masks: `(B, T, V)` bool, the tokens that could be drawn, where the environment has a mask.
        states: `(B, T, D)`, the policy's states before each token, where they were kept.
    """

    tokens: Tensor
    starts: Tensor
    lengths: Tensor
    log_probs: Tensor
    values: Tensor
    last_values: Tensor
    rewards: Tensor
    episodes: list[Episode]
    scores: Rewards
    action_masks: Tensor | None = None
    states: Tensor | None = None

    def __post_init__(self) -> None:
        shape = (len(self.tokens), int(self.lengths.max()))
        for name in ("log_probs", "values", "rewards"):
            found = tuple(getattr(self, name).shape)
            assert found == shape, f"{name} has shape {found}, expected {shape}"

    @property
    def mask(self) -> Tensor:
        """`(B, T)` bool: True for the tokens of the completions."""
        steps = torch.arange(self.rewards.shape[1], device=self.lengths.device)
        return steps < self.lengths[:, None]

    @property
    def num_tokens(self) -> int:
        """Number of tokens generated."""
        return int(self.lengths.sum())


def rewards_per_token(scores: Rewards, lengths: Tensor) -> Tensor:
    """`(B, T)` float32: per-token rewards where they arose, the value on the last token."""
    rewards = torch.zeros(len(lengths), int(lengths.max()), dtype=torch.float64)
    if scores.per_token is not None:
        for i, per_token in enumerate(scores.per_token):
            rewards[i, : len(per_token)] = torch.from_numpy(per_token)
    rewards[torch.arange(len(lengths)), lengths.cpu() - 1] += torch.from_numpy(scores.values)
    return rewards.float().to(lengths.device)
