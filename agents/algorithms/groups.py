"""Groups of episodes that share a prompt: GRPO, RLOO and best-of-n compare the returns within each group.

How the returns of a group become advantages is each algorithm's own business and stands in its own file.
"""

from __future__ import annotations

from collections.abc import Callable

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


def turn_advantages(
    batch: Rollout, rewards: Tensor, group_size: int, compare: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Compare for each turn what was paid from its first token on, among the episodes that came as far.

    Args:
        batch: The episodes that were played, or those of them that were paid.
        rewards: `(B, T)`, of each token.
        group_size: `k`, episodes per prompt.
        compare: Makes advantages of returns `(G, k)` and of which of them there are, `(G, k)` bool.

    Returns:
        The advantage of each token's turn, 0 past the ends, and the turn's number from 0 on, `(B, T)` each.
    """
    turns = turn_numbers(batch)
    to_go = rewards.flip(1).cumsum(1).flip(1)
    advantages = torch.zeros_like(rewards)
    _, present, (group, place) = grouped_returns(batch, rewards, group_size)
    for turn in range(int(turns.max()) + 1):
        here = (turns == turn) & batch.mask
        came = here.any(dim=1)  # (B,)
        worth = to_go.gather(1, here.to(torch.int64).argmax(dim=1, keepdim=True))[:, 0]
        returns, there = rewards.new_zeros(present.shape), torch.zeros_like(present)
        returns[group, place], there[group, place] = torch.where(came, worth, 0.0), came
        advantages = torch.where(here, compare(returns, there)[group, place][:, None], advantages)
    return advantages, turns


def turn_numbers(batch: Rollout) -> Tensor:
    """Return the number of the turn that each of the agent's tokens is in, `(B, T)` int64 from 0 on."""
    numbers = torch.zeros(batch.mask.shape, dtype=torch.int64)
    for row, episode in zip(numbers, batch.episodes, strict=True):
        lengths = torch.tensor([len(turn.ids) for turn in episode.turns if turn.role == "assistant"])
        own = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        row[: len(own)] = own
    return upload(numbers, batch.mask.device)


def turn_sums(x: Tensor, turns: Tensor) -> Tensor:
    """Sum `(B, T)` over the tokens of each turn, and return the sum at each of them.

    Past the ends turns are 0, and so must `x` be.

    >>> turn_sums(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[0, 0, 1]]))
    tensor([[3., 3., 4.]])
    """
    sums = x.new_zeros(len(x), int(turns.max()) + 1).scatter_add(1, turns, x)
    return sums.gather(1, turns)
