"""Rollouts that several processes play together: each its own rows, and all know the whole batch afterwards.

Tokens that others drew are replayed through the environment's own transition, as those of a generator are.
So every process has the same batch as one process alone would have, and advantages, baselines, metrics and
whatever else is of the whole batch need no communication at all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from text_gym.envs.episode_batch import EpisodeBatch
from text_gym.episode import Episode, IntArray
from text_gym.errors import ConfigError
from text_gym.models.world import World
from text_gym.rewards.calls import concatenate
from text_gym.rewards.source import RewardSource
from text_gym.rewards.values import Rewards


def share_tokens(world: World, batch: EpisodeBatch, columns: dict[str, Tensor], mine: IntArray) -> None:
    """Complete a batch, of which this process has played its rows, by what the others played.

    Args:
        world: The processes.
        batch: `B` rows, all of which have begun.
        columns: What a `Rollout` has of the policy, `(B, T, …)`, by name; completed in place.
        mine: `(n,)` int64, this process's rows, which are done.
    """
    tokens = torch.from_numpy(batch.tokens.copy())
    lengths = torch.from_numpy(batch.lengths.copy())
    ours = torch.from_numpy(mine)
    world.fill([tokens, lengths, *columns.values()], ours)
    ids, ends = tokens.numpy(), lengths.numpy()
    rows = np.setdiff1d(np.arange(batch.num_rows), mine)
    while len(rows):
        rows = rows[~batch.advance(rows, ids[rows, batch.lengths[rows]])]
    assert np.array_equal(batch.lengths, ends), "an episode replayed ended elsewhere"


def share_scores(
    world: World, batch: EpisodeBatch, mine: IntArray, known: Rewards | None = None
) -> tuple[list[Episode], Rewards]:
    """Have each process score its rows, and return all episodes with what all of them are worth.

    A source that remembers anything is asked by rank 0 alone, about the whole batch: its memory is then that
    of a single process.

    Args:
        world: The processes.
        batch: `B` rows, which are done.
        mine: `(n,)` int64, this process's.
        known: What these are worth, where they were scored while others were played.

    Raises:
        RewardError: The reward source failed.
    """
    every = np.arange(batch.num_rows)
    asked = every[: len(every) * (world.rank == 0)] if remembers(batch.reward) else mine
    asked, episodes = asked if known is None else mine, batch.episodes(every)
    if known is None and len(asked):
        known = batch.judge([episodes[row] for row in asked.tolist()], batch.truncated[asked])
    texts = [[row, episodes[row].decoded] for row in asked.tolist() if episodes[row].decoded is not None]
    ours = [_as_json(known)] if known is not None and len(asked) else []
    found = world.gather([ours, texts])
    for row, text in (pair for _, theirs in found for pair in theirs):  # quicker than decoding them here
        episodes[row].know(text)
    # A part may lack terms or rewards of tokens: its texts were all cut, or no reply in it paid anything.
    return episodes, concatenate([_of_json(part) for theirs, _ in found for part in theirs], episodes)


def remembers(source: RewardSource) -> bool:
    """Return True if a source has a memory of earlier calls, or one that cannot be had."""
    try:
        return bool(source.state_dict())
    except ConfigError:  # out of reach in another process
        return True


def _as_json(rewards: Rewards) -> dict[str, Any]:
    return {
        "values": rewards.values.tolist(),
        "per_token": rewards.per_token and [tokens.tolist() for tokens in rewards.per_token],
        "terms": {name: np.asarray(term, np.float64).tolist() for name, term in rewards.terms.items()},
        "abstained": rewards.abstained.tolist(),
    }


def _of_json(part: dict[str, Any]) -> Rewards:
    values, abstained = np.array(part["values"], np.float64), np.array(part["abstained"], np.bool_)
    per_token = part["per_token"] and tuple(np.array(tokens, np.float64) for tokens in part["per_token"])
    return Rewards(
        values, per_token, {name: np.array(term) for name, term in part["terms"].items()}, abstained
    )
