from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence

from tests.worlds import SMALL, WORLDS
from text_gym import TextEnv, TextVectorEnv
from text_gym.envs.single import register_envs
from text_gym.errors import ConfigError, EpisodeError, TokenError
from text_gym.tasks.task import ENV_IDS

# Gymnasium's own test modules are not in its wheel; these are the laws of its tests/envs/test_envs.py,
# test_env_implementation.py and utils_envs, for our ids.


@pytest.fixture(params=ENV_IDS)
def env_id(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_gymnasiums_checker_has_nothing_to_say(env_id: str, recwarn: pytest.WarningsRecorder) -> None:
    check_env(gym.make(env_id, render_mode="ansi", disable_env_checker=True).unwrapped)
    # Garbage of other tests may be collected here; it is not what the checker says.
    assert [str(w.message) for w in recwarn if w.category is not ResourceWarning] == []


def test_stable_baselines3s_checker_has_nothing_to_say(env_id: str) -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checker.check_env(gym.make(env_id).unwrapped, warn=True)


def test_torchrls_checker_has_nothing_to_say(env_id: str) -> None:
    torchrl = pytest.importorskip("torchrl.envs")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = torchrl.GymWrapper(gym.make(env_id), categorical_action_encoding=True)
        torchrl.check_env_specs(env, seed=0)


def test_the_passive_checker_has_nothing_to_say(env_id: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(env_id, render_mode="ansi")  # with PassiveEnvChecker and OrderEnforcing
        env.action_space.seed(0)
        env.reset(seed=0)
        for _ in range(100):
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            env.render()
            if terminated or truncated:
                env.reset()
        env.close()


def test_rollouts_of_one_seed_are_equal_and_within_the_spaces(env_id: str) -> None:
    one, two = (gym.make(env_id) for _ in range(2))
    first, info = one.reset(seed=5)
    assert data_equivalence((first, info), two.reset(seed=5), exact=True)
    one.action_space.seed(5)
    for _ in range(100):
        action = one.action_space.sample()
        a, b = one.step(action), two.step(action)
        assert data_equivalence(a, b, exact=True)
        assert a[0] in one.observation_space
        assert type(a[1]) is float
        assert type(a[2]) is type(a[3]) is bool
        if a[2] or a[3]:
            assert data_equivalence(one.reset(), two.reset(), exact=True)


def test_an_environment_survives_pickling_and_copying_in_mid_episode(env_id: str) -> None:
    env = gym.make(env_id)
    env.reset(seed=1)
    env.step(5 % int(env.action_space.n - 1))  # type: ignore[attr-defined]
    for clone in (pickle.loads(pickle.dumps(env)), copy.deepcopy(env)):
        assert data_equivalence(copy.deepcopy(env).step(1), clone.step(1), exact=True)


def test_spec_and_task_parameters() -> None:
    env = gym.make("text_gym/Reverse-v0", length=2, symbols="xy")
    assert env.spec is not None
    assert env.spec.id == "text_gym/Reverse-v0"
    assert env.action_space == gym.spaces.Discrete(3)
    assert gym.make(env.spec).action_space == env.action_space
    assert gym.make("text_gym:text_gym/Reverse-v0").unwrapped.__class__ is TextEnv


def test_registering_twice_is_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_envs()


@pytest.mark.parametrize("world", WORLDS)
def test_a_single_environment_is_row_0_of_a_vector(world: str) -> None:
    single, vector = TextEnv(**WORLDS[world]), TextVectorEnv(**WORLDS[world], autoreset_mode="Disabled")
    rng = np.random.default_rng(0)
    single.reset(seed=2)
    vector.reset(seed=2)
    for _ in range(50):
        action = rng.integers(single.action_space.n)  # type: ignore[attr-defined]
        a, b = single.step(action), vector.step([action])
        assert all(np.array_equal(a[0][k], b[0][k][0]) for k in b[0])
        assert a[1:4] == tuple(x[0] for x in b[1:4])
        if a[2] or a[3]:
            single.reset()
            vector.reset()


@pytest.mark.parametrize(
    "action", [-1, 4, 2**70, 1.0, np.float32(1), True, np.bool_(False), None, "1", [1], np.array([1])]
)
def test_an_action_that_is_no_token_changes_nothing(action: Any) -> None:
    env = TextEnv(**SMALL)
    env.reset(seed=0)
    before = pickle.dumps(env.vector.batch.tokens), env.vector.batch.lengths.tolist()
    with pytest.raises(TokenError):
        env.step(action)
    assert (pickle.dumps(env.vector.batch.tokens), env.vector.batch.lengths.tolist()) == before
    env.step(1)  # type: ignore[arg-type]  # a Python int will do


def test_stepping_before_reset_and_after_the_end() -> None:
    env = TextEnv(**SMALL)
    with pytest.raises(EpisodeError, match="before reset"):
        env.step(np.int64(0))
    with pytest.raises(gym.error.ResetNeeded):
        env.step(np.int64(0))
    env.reset(seed=0)
    env.step(np.int64(2))
    with pytest.raises(EpisodeError, match="are over"):
        env.step(np.int64(0))
    env.reset()
    env.step(np.int64(0))


def test_rendering() -> None:
    env = TextEnv(**{**SMALL, "prompts": ["ab"]}, render_mode="ansi")
    env.reset(seed=0)
    env.step(np.int64(1))
    assert env.render() == "ab│b▁"
    assert TextEnv(**SMALL).render() is None


def test_unseeded_environments_differ() -> None:
    def first_prompts() -> tuple[str, ...]:
        env = TextEnv(**SMALL)
        return tuple(env.reset()[1]["prompt"] for _ in range(12))

    assert len({first_prompts() for _ in range(5)}) > 1


@pytest.mark.parametrize("name", ["num_envs", "autoreset_mode"])
def test_options_of_vector_environments_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is of vector environments"):
        TextEnv(**SMALL, **{name: 2})


def test_gymnasium_wrappers_for_single_environments() -> None:
    env = gym.wrappers.RecordEpisodeStatistics(gym.wrappers.FlattenObservation(TextEnv(**SMALL)))
    env.reset(seed=0)
    env.step(np.int64(1))
    *_, info = env.step(np.int64(2))
    assert (info["episode"]["r"], info["episode"]["l"]) == (1.0, 2)
