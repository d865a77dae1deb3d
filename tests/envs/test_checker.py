from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from tests.worlds import SMALL, WORLDS
from text_gym import (
    TextEnv,
    TextVectorEnv,
    as_reward_source,
    check_text_env,
    load_task,
)
from text_gym.envs.checker import random_episodes
from text_gym.errors import CheckError, ConfigError, TextGymError
from text_gym.tasks.task import ENV_IDS

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


def test_a_task_is_checked_as_its_environment_and_what_is_none_is_refused() -> None:
    for name in ("copy", "text_gym/Copy-v0"):
        check_text_env(name, steps=20)
    task = load_task("copy")
    with pytest.raises(CheckError, match="reward that is not deterministic"):
        check_text_env(replace(task, reward=as_reward_source(lambda completion: random.random())))
    with pytest.raises(ConfigError, match="a vector environment is checked beside a single one"):
        check_text_env(TextVectorEnv(task=task))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="an environment, a task or a task's name, not list"):
        check_text_env([])  # type: ignore[arg-type]


def test_random_episodes_have_every_length() -> None:
    assert [len(e.completion_ids) for e in LONG] == list(range(1, 65))
    assert all(e.done for e in LONG)
    assert {e.finish_reason for e in LONG} == {"eos", "length"}


def test_the_checker_leaves_the_global_random_state_as_it_was() -> None:
    random.seed(5)
    before = random.getstate()
    check_text_env(TextEnv(task="copy"), steps=20)
    assert random.getstate() == before


# Environments that break a law


RNG = np.random.default_rng(0)


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
        observation = {k: v[0] for k, v in self.vector.observer.all().items()}
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
            return {k: v[0] for k, v in self.vector.observer.all().items()}, 0.0, True, False, {}
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
        def step(self, actions: Any, active: Any = None) -> Any:
            observation, reward, *rest = super().step(actions, active)
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
