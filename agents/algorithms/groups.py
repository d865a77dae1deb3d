"""Groups of episodes that share a prompt: GRPO, RLOO and best-of-n compare the returns within each group.

How the returns of a group become advantages is each algorithm's own business and stands in its own file.
"""

from __future__ import annotations

import torch
from torch import Tensor

from text_gym.agents.sampling.rollout import Rollout
from text_gym.envs.vector import TextVectorEnv
from text_gym.errors import ConfigError
from text_gym.models.runtime import upload


def play_in_groups(env: TextVectorEnv, group_size: int) -> None:
    """Have the environment play groups of `group_size` episodes that share a prompt.

    Raises:
        ConfigError: The environment's rows do not divide into groups.
    """
    if env.num_envs % group_size:
        raise ConfigError(
            f"num_envs={env.num_envs} (episodes per iteration) is not a multiple of group_size={group_size}"
        )
    env.batch.group_size = group_size


def grouped_returns(
    batch: Rollout, rewards: Tensor, group_size: int
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Put the returns of a batch into one row per prompt, with gaps for episodes that are not in the batch.

    Args:
        batch: The episodes that were played, or those of them that were paid.
        rewards: `(B, T)`, of each token.
        group_size: `k`, episodes per prompt.

    Returns:
        returns: `(G, k)`, a row for each of the `G` prompts that are left.
        present: `(G, k)` bool, the entries that an episode of the batch stands behind.
        places: The index of each episode in such a table: `table[places]` is `(B,)`.

    Raises:
        ConfigError: The batch is not made of groups that share a prompt.
    """
    rows = torch.arange(len(rewards)) if batch.rows is None else batch.rows.cpu()
    groups, group = torch.unique(rows // group_size, return_inverse=True)
    places = (upload(group, rewards.device), upload(rows % group_size, rewards.device))
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
    present[places] = torch.ones_like(rewards[:, 0], dtype=torch.bool)
    return returns, present, places
