from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tests.worlds import Abstains, PerToken, Terms
from text_gym import Episode, Rewards, RewardSource, check_reward_source, load_task
from text_gym.envs.checker import random_episodes
from text_gym.episode import FloatArray
from text_gym.errors import CheckError, RewardError
from text_gym.rewards.values import TokenBatch
from text_gym.tasks.task import TASKS

COPY = load_task("copy", length=6)
LONG = random_episodes(load_task("products"))
RNG = np.random.default_rng(0)


# What is right passes


@pytest.mark.parametrize("name", TASKS)
def test_the_rewards_of_every_task_pass(name: str) -> None:
    check_reward_source(load_task(name).reward, name)


@pytest.mark.parametrize("source", [Terms(), PerToken(True), PerToken(False), Abstains(), len])
def test_rewards_of_every_kind_pass(source: Any) -> None:
    check_reward_source(source, COPY)


def test_a_reward_that_says_it_is_random_may_be() -> None:
    class Noise(RewardSource):
        deterministic = False

        def __init__(self) -> None:
            self.rng = np.random.default_rng(0)

        def score(self, episodes: Sequence[Episode]) -> FloatArray:
            return self.rng.random(len(episodes))

    check_reward_source(Noise(), COPY)
    liar = Noise()
    liar.deterministic = True
    with pytest.raises(CheckError, match="when asked again"):
        check_reward_source(liar, COPY)


def test_the_checker_leaves_the_global_random_state_as_it_was() -> None:
    random.seed(5)
    before = random.getstate()
    check_reward_source(len, COPY)
    assert random.getstate() == before


# Rewards that break a law


@pytest.mark.parametrize("planted", range(1, 33))
def test_a_reward_that_is_random_from_a_token_on_is_found(planted: int) -> None:
    def reward(episode: Episode) -> float:
        return float(RNG.random()) if len(episode.completion_ids) >= planted else 0.5

    with pytest.raises(CheckError, match="when asked again"):
        check_reward_source(reward, LONG)


def from_the_global_state(completion: str) -> float:
    return random.random() if len(completion) > 40 else 0.0


def from_numpys_global_state(completion: str) -> float:
    return float(np.random.rand()) if completion else 0.0  # noqa: NPY002


def place_in_the_batch(completions: list[str]) -> list[float]:
    return [float(i) for i, _ in enumerate(completions)]


def against_the_mean(completions: list[str]) -> list[float]:
    lengths = np.array([float(len(c)) for c in completions])
    return [float(x) for x in lengths - lengths.mean()]


def size_of_the_batch(completions: list[str]) -> list[float]:
    return [float(len(completions))] * len(completions)


def rises(completion: str, calls: list[int] = []) -> float:  # noqa: B006
    calls.append(len(completion))
    return float(len(calls))


def test_an_opinion_that_depends_on_the_batch_is_found_although_it_is_worth_nothing() -> None:
    class Shy(RewardSource):
        abstains = True

        def score(self, episodes: Sequence[Episode]) -> list[float | None]:
            return [None if len(episodes) == 1 else 0.0 for _ in episodes]

    with pytest.raises(CheckError, match="alone than in a batch"):
        check_reward_source(Shy(), LONG)


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        (from_the_global_state, "global random state"),
        (from_numpys_global_state, "global random state"),
        (place_in_the_batch, "another order|reverse order"),
        (against_the_mean, "alone than in a batch"),
        (size_of_the_batch, "alone than in a batch"),
        (rises, "when asked again"),
    ],
)
def test_a_reward_that_depends_on_something_else(reward: Callable[..., Any], says: str) -> None:
    with pytest.raises(CheckError, match=says):
        check_reward_source(reward, LONG)


def test_a_reward_from_torchs_global_state() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(CheckError, match="global random state"):
        check_reward_source(lambda completion: torch.rand(()).item() * bool(completion), COPY)


@pytest.mark.parametrize("value", [float("nan"), None, "1"])
def test_rewards_that_are_no_numbers(value: Any) -> None:
    with pytest.raises(RewardError):
        check_reward_source(lambda completion: value if len(completion) > 3 else 0.0, COPY)


def test_terms_count_as_well() -> None:
    class Term(RewardSource):
        def score(self, episodes: Sequence[Episode]) -> Rewards:
            return Rewards(np.zeros(len(episodes)), terms={"x": np.arange(float(len(episodes)))})

    with pytest.raises(CheckError, match="order"):
        check_reward_source(Term(), COPY)


def test_a_reward_that_changes_its_episodes() -> None:
    def reward(episode: Episode) -> float:
        episode.completion_ids[0] = 0
        return 1.0

    with pytest.raises(CheckError, match="changes the episodes"):
        check_reward_source(reward, [*random_episodes(COPY, 1), *random_episodes(COPY, 2)])


class LooksAhead(PerToken):
    def score(self, episodes: Sequence[Episode]) -> Rewards:
        per_token = tuple(np.full(len(e.completion_ids), float(len(e.completion_ids))) for e in episodes)
        return Rewards(np.zeros(len(episodes)), per_token)


class WrongToken(PerToken):
    def token_rewards(self, batch: TokenBatch) -> FloatArray:
        return np.asarray(batch.tokens + (batch.steps > 4), dtype=np.float64)


def test_causal_rewards_that_are_not() -> None:
    with pytest.raises(CheckError, match="once later ones are there"):
        check_reward_source(LooksAhead(causal=True), COPY)
    check_reward_source(LooksAhead(causal=False), COPY)
    with pytest.raises(CheckError, match="token_rewards"):
        check_reward_source(WrongToken(causal=True), COPY)
    nothing = Terms()
    nothing.causal = True
    with pytest.raises(CheckError, match="no per-token rewards"):
        check_reward_source(nothing, COPY)


def test_one_episode_is_too_few() -> None:
    with pytest.raises(CheckError, match="at least two"):
        check_reward_source(len, LONG[:1])
