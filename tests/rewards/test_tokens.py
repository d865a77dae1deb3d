from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tests.reward_tools import Says
from tests.worlds import PerToken
from text_gym import Episode, Prompt, WordTokenizer
from text_gym.errors import RewardError
from text_gym.rewards.tokens import checked_tokens
from text_gym.rewards.values import TokenBatch


def token_batch() -> TokenBatch:
    tokenizer = WordTokenizer("ab", separator="")
    ids = np.array([[0, 1], [1, 1]])
    episodes = [Episode(Prompt("a"), ids[0][:1], row, tokenizer) for row in ids]
    rows, steps = np.zeros(2, dtype=np.int64), np.array([2, 2])
    return TokenBatch([Prompt("a")], rows, ids[:, 1], steps, tokenizer, lambda: episodes)


def test_token_rewards_are_the_last_of_the_per_token_rewards() -> None:
    assert checked_tokens(PerToken(causal=True), token_batch()).tolist() == [1.0, 1.0]
    assert checked_tokens(Says([1.0, 2.0]), token_batch()).tolist() == [0.0, 0.0]  # none per token


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_token_rewards_that_raise_are_wrapped(error: type[BaseException]) -> None:
    class Raises(PerToken):
        def token_rewards(self, batch: TokenBatch) -> Any:
            raise error("oh")

    with pytest.raises(RewardError, match=f"{error.__name__}: oh") as caught:
        checked_tokens(Raises(causal=True), token_batch())
    assert isinstance(caught.value.__cause__, error)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
def test_a_bad_token_reward_that_is_dropped_pays_nothing_and_its_neighbour_is_paid(bad: float) -> None:
    class Mixed(PerToken):
        def token_rewards(self, batch: TokenBatch) -> Any:
            return np.array([2.0, bad])

    batch = token_batch()
    with pytest.raises(RewardError, match="episode 1 has the token reward"):
        checked_tokens(Mixed(causal=True), batch)
    dropping = dataclasses.replace(batch, on_bad_reward="drop")
    assert checked_tokens(Mixed(causal=True), dropping).tolist() == [2.0, 0.0]
