from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.agents.algorithms.test_ppo import world
from tests.small_models import small_policy
from text_gym.agents import GRPO, PPO, RLOO, BestOfN, BestOfNConfig, GRPOConfig, RLOOConfig, Rollout
from text_gym.agents.algorithms.groups import grouped_returns, play_in_groups
from text_gym.errors import ConfigError

BATCH = GRPO(small_policy(), world(12), GRPOConfig(group_size=4)).collect()


def some(rows: list[int]) -> Rollout:
    """These episodes of the batch, in order."""
    taken = torch.zeros(12, dtype=torch.bool)
    taken[rows] = True
    return BATCH.only(taken)


@given(st.sets(st.integers(0, 11), min_size=1).map(sorted), st.randoms())
def test_returns_stand_in_the_row_of_their_prompt_and_nowhere_else(rows: list[int], random: Any) -> None:
    left = some(rows)
    paid = torch.tensor([random.uniform(-9, 9) for _ in rows], dtype=torch.float64)
    rewards = torch.zeros(*left.rewards.shape, dtype=torch.float64)
    rewards[range(len(rows)), left.lengths - 1] = paid
    returns, present, places = grouped_returns(left, rewards, 4)
    prompts = sorted({row // 4 for row in rows})
    assert returns.shape == present.shape == (len(prompts), 4)
    for row, value in zip(rows, paid.tolist(), strict=True):
        assert float(returns[prompts.index(row // 4), row % 4]) == value
    assert int(present.sum()) == len(rows)
    assert not returns[~present].any()
    assert returns[places].tolist() == paid.tolist()


def test_a_batch_that_was_not_played_in_groups_is_refused() -> None:
    batch = PPO(small_policy(), world(12)).collect()
    with pytest.raises(ConfigError, match="groups of 4 episodes that share a prompt"):
        grouped_returns(batch, batch.rewards, 4)
    with pytest.raises(ConfigError, match="groups of 5 episodes"):
        grouped_returns(replace(BATCH, rows=None), BATCH.rewards, 5)


def test_who_compares_plays_in_groups_and_nobody_else() -> None:
    assert GRPO(small_policy(), world(12), GRPOConfig(group_size=3)).env.batch.group_size == 3
    assert RLOO(small_policy(), world(12), RLOOConfig(group_size=6)).env.batch.group_size == 6
    assert BestOfN(small_policy(), world(12), BestOfNConfig(n=2)).env.batch.group_size == 2
    env = world(12, group_size=3)
    assert PPO(small_policy(), env).env.batch.group_size == 3  # as it was
    with pytest.raises(ConfigError, match=r"num_envs=12.*group_size=5"):
        play_in_groups(env, 5)


@pytest.mark.parametrize(
    ("config", "name"), [(GRPOConfig, "group_size"), (RLOOConfig, "group_size"), (BestOfNConfig, "n")]
)
def test_a_group_of_one_has_nobody_to_be_compared_with(config: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is 1; a group needs at least 2 episodes"):
        config(**{name: 1})
