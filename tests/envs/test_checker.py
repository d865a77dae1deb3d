from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tests.worlds import SMALL, WORLDS, Abstains, PerToken, Terms
from text_gym import (
    TASKS,
    Episode,
    Rewards,
    RewardSource,
    TextEnv,
    TextVectorEnv,
    check_reward_source,
    check_text_env,
    load_task,
)
from text_gym.envs.checker import random_episodes
from text_gym.episode import FloatArray
from text_gym.errors import CheckError, RewardError, TextGymError
from text_gym.rewards.values import TokenBatch
from text_gym.tasks.task import ENV_IDS

COPY = load_task("copy", length=6)
LONG = random_episodes(load_task("products"))


# What is right passes


@pytest.mark.parametrize("env_id", ENV_IDS)
def test_every_registered_environment_passes(env_id: str) -> None:
    check_text_env(gym.make(env_id), steps=60)


@pytest.mark.parametrize("world", [w for w in WORLDS if not w.startswith("text_gym/") and w != "one token"])
def test_every_kind_of_environment_passes(world: str) -> None:
    check_text_env(TextEnv(**WORLDS[world]), TextVectorEnv(**WORLDS[world], num_envs=2), steps=60)


def test_vector_environments_of_every_mode_pass() -> None:
    for mode in gym.vector.AutoresetMode:
        check_text_env(TextEnv(**SMALL), TextVectorEnv(**SMALL, num_envs=2, autoreset_mode=mode), steps=60)


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


def test_random_episodes_have_every_length() -> None:
    assert [len(e.completion_ids) for e in LONG] == list(range(1, 65))
    assert all(e.done for e in LONG)
    assert {e.finish_reason for e in LONG} == {"eos", "length"}


def test_the_checkers_leave_the_global_random_state_as_it_was() -> None:
    random.seed(5)
    before = random.getstate()
    check_reward_source(len, COPY)
    check_text_env(TextEnv(task="copy"), steps=20)
    assert random.getstate() == before


# Rewards that break a law


RNG = np.random.default_rng(0)


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


# Environments that break a law


class Broken(TextEnv):
    """A TextEnv whose step or reset is tampered with."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**SMALL, **kwargs})
        self.taken = 0

    def reset(self, **kwargs: Any) -> Any:
        self.taken = 0
        return super().reset(**kwargs)

    def step(self, action: Any) -> Any:
        result = super().step(action)
        self.taken += 1
        return self.tamper(*result)

    def tamper(self, *result: Any) -> Any:
        return result


class RandomFromTheSecondToken(Broken):
    def tamper(self, *result: Any) -> Any:
        noise = float(RNG.random()) if self.taken > 1 else 0.0
        return result[0], result[1] + noise, *result[2:]


class GlobalNoise(Broken):
    def tamper(self, *result: Any) -> Any:
        return result[0], result[1] + random.random(), *result[2:]


class NoReward(Broken):
    def tamper(self, *result: Any) -> Any:
        return result[0], None, *result[2:]


class NaNReward(Broken):
    def tamper(self, *result: Any) -> Any:
        return result[0], float("nan"), *result[2:]


class IdOutOfRange(Broken):
    def tamper(self, *result: Any) -> Any:
        return {**result[0], "tokens": result[0]["tokens"] + 3}, *result[1:]


class WrongMask(Broken):
    def tamper(self, *result: Any) -> Any:
        return {**result[0], "attention_mask": result[0]["attention_mask"][::-1].copy()}, *result[1:]


class WrongType(Broken):
    def tamper(self, *result: Any) -> Any:
        return {**result[0], "length": result[0]["length"].astype(np.float64)}, *result[1:]


class WritesSomethingElse(Broken):
    def step(self, action: Any) -> Any:
        super().step(action)  # refuses what is wrong
        self.vector.batch.tokens[0, self.vector.batch.lengths[0] - 1] = 1
        return self.result()

    def result(self) -> Any:
        observation = {k: v[0] for k, v in self.vector._observe().items()}
        return observation, 0.0, bool(self.vector.batch.done[0]), False, {}


class IgnoresEOS(Broken):
    def __init__(self) -> None:
        super().__init__()
        self.vector.batch._is_eos[:] = False


class BothEndings(Broken):
    def tamper(self, *result: Any) -> Any:
        ended = result[2] or result[3]
        return *result[:2], ended, ended, result[4]


class TakesAnything(Broken):
    def step(self, action: Any) -> Any:
        return super().step(action if action in range(4) else 0)


class GoesOnAfterTheEnd(Broken):
    def step(self, action: Any) -> Any:
        if self.vector.batch.done[0]:
            return {k: v[0] for k, v in self.vector._observe().items()}, 0.0, True, False, {}
        return super().step(action)


class ChangesBeforeItRefuses(Broken):
    def step(self, action: Any) -> Any:
        self.taken += action == -1
        result = super().step(action)
        return result[0], float(self.taken), *result[2:]


class IgnoresTheSeed(Broken):
    def reset(self, **kwargs: Any) -> Any:
        return super().reset(**{**kwargs, "seed": int(RNG.integers(99))})


class SeedsFromTheGlobalState(Broken):
    def reset(self, **kwargs: Any) -> Any:
        return super().reset(**{**kwargs, "seed": random.randrange(99)})


class RemembersEarlierEpisodes(Broken):
    episodes = 0

    def reset(self, **kwargs: Any) -> Any:
        self.episodes += 1
        observation, info = super().reset(**kwargs)
        return observation, {**info, "episodes": self.episodes}


class NeverEnds(Broken):
    def tamper(self, *result: Any) -> Any:
        if result[2] or result[3]:
            super().reset()
        return *result[:2], False, False, result[4]


BROKEN: list[tuple[type[Broken], str]] = [
    (RandomFromTheSecondToken, "reward differs at step"),
    (GlobalNoise, "reward differs at step"),
    (NoReward, "a reward is NoneType"),
    (NaNReward, "a reward is nan"),
    (IdOutOfRange, r"holds the id \d, outside \[0, 4\)"),
    (WrongMask, "attention_mask"),
    (WrongType, "outside the observation space"),
    (WritesSomethingElse, "append exactly the action"),
    (IgnoresEOS, "must terminate"),
    (BothEndings, "terminated and truncated"),
    (TakesAnything, "not refused"),
    (GoesOnAfterTheEnd, "after the end"),
    (ChangesBeforeItRefuses, "changed the state"),
    (IgnoresTheSeed, "with the same seed and actions"),
    (SeedsFromTheGlobalState, "with the same seed and actions"),
    (RemembersEarlierEpisodes, "info differs at step 0"),
    (NeverEnds, "when the observation is full"),
]


@pytest.mark.parametrize(("broken", "says"), BROKEN, ids=lambda x: getattr(x, "__name__", ""))
def test_a_broken_environment_is_told_what_to_mend(broken: type[Broken], says: str) -> None:
    with pytest.raises(CheckError, match=says):
        check_text_env(broken())


def test_an_environment_that_only_draws_from_the_global_state() -> None:
    class Draws(Broken):
        def tamper(self, *result: Any) -> Any:
            random.random()
            return result

    with pytest.raises(CheckError, match="draws from the global"):
        check_text_env(Draws())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"action_space": gym.spaces.Box(0, 1)}, "Discrete"),
        ({"observation_space": gym.spaces.Discrete(3)}, "Dict of tokens"),
        (
            {
                "observation_space": gym.spaces.Dict(
                    {k: gym.spaces.Box(0, 1, (3,)) for k in ("tokens", "attention_mask", "length")}
                )
            },
            "Box of integers",
        ),
    ],
)
def test_spaces_of_another_form(change: dict[str, Any], says: str) -> None:
    env = Broken()
    env.__dict__.update(change)
    with pytest.raises(CheckError, match=says):
        check_text_env(env)


def test_a_vector_environment_that_is_not_its_single_ones() -> None:
    class Shifted(TextVectorEnv):
        def step(self, actions: Any) -> Any:
            observation, reward, *rest = super().step(actions)
            return observation, np.roll(reward, 1), *rest

    with pytest.raises(CheckError, match=r"reward is .*, not"):
        check_text_env(TextEnv(**SMALL), Shifted(**SMALL, num_envs=3))
    with pytest.raises(CheckError, match="of the vector environment"):
        check_text_env(TextEnv(**SMALL), TextVectorEnv(**{**SMALL, "max_tokens": 4}, num_envs=3))


def test_gymnasiums_own_complaints_come_through() -> None:
    env = Broken()
    env.metadata = None  # type: ignore[assignment]
    with pytest.raises((CheckError, TextGymError), match="Gymnasium's check_env"):
        check_text_env(env)
