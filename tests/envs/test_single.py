from __future__ import annotations

import copy
import io
import os
import pickle
import shutil
import sys
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence

from tests.worlds import SMALL, WORLDS
from text_gym import TextEnv, TextVectorEnv, load_task
from text_gym.envs.rendering import print_episode
from text_gym.envs.single import register_envs
from text_gym.errors import ConfigError, DataError, EpisodeError, TokenError, UnknownNameError
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


def test_infos_of_ids_are_numbers_under_the_same_keys_at_every_reset_and_step(env_id: str) -> None:
    env = gym.make(env_id)
    env.action_space.seed(0)
    seen, over = set(), True
    for _ in range(60):
        if over:
            info = env.reset(seed=0)[1]
        else:
            *_, terminated, truncated, info = env.step(env.action_space.sample())
        over = not over and bool(terminated or truncated)
        seen.add(tuple((key, type(value)) for key, value in sorted(info.items())))
    assert seen == {(("episode_index", int), ("prompt_tokens_dropped", int), ("reward_abstained", bool))}


def test_texts_are_attributes_of_an_environment() -> None:
    env, told = gym.make("text_gym/Reverse-v0"), gym.make("text_gym/Reverse-v0", infos="changing")
    text: Any = env.unwrapped
    with pytest.raises(EpisodeError, match="no episode has begun"):
        text.prompt  # noqa: B018
    env.reset(seed=5)
    assert text.prompt == told.reset(seed=5)[1]["prompt"]
    for token, written in ((2, "c"), (0, "ca"), (1, "cab"), (3, "cab")):  # 3 is EOS
        env.step(token)
        *_, ended = told.step(token)
        assert env.get_wrapper_attr("completion") == written
    assert ended["completion"] == "cab"


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
    with pytest.raises(EpisodeError, match=r"the episode is over; call env.reset\(\) before"):
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


# What other libraries type first


@pytest.mark.parametrize("make", [gym.make, gym.make_vec])
def test_an_unknown_argument_is_a_type_error_in_pythons_words(make: Any) -> None:
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'frameskip'") as raised:
        make("text_gym/Reverse-v0", frameskip=4)
    assert isinstance(raised.value, ConfigError)


def test_an_option_that_was_nearly_right_is_suggested() -> None:
    with pytest.raises(TypeError, match=r"'observations' .did you mean 'observation'"):
        gym.make("text_gym/Reverse-v0", observations="ids")
    with pytest.raises(TypeError, match=r"'max_token' .did you mean 'max_tokens'"):
        gym.make("text_gym/Reverse-v0", max_token=3)


def test_an_unknown_render_mode_is_told_all_there_are() -> None:
    with pytest.raises(ConfigError, match="render_mode is 'text'; choose None, 'human', 'ansi', 'rgb_array'"):
        gym.make("text_gym/Reverse-v0", render_mode="text")


def test_stable_baselines3_makes_environments_by_id() -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    env_util = pytest.importorskip("stable_baselines3.common.env_util")
    sb3.PPO("MultiInputPolicy", "text_gym/Reverse-v0", n_steps=8, batch_size=8).learn(8)
    many = env_util.make_vec_env("text_gym/Reverse-v0", 2, env_kwargs={"observation": "onehot"})
    sb3.A2C("MlpPolicy", many).learn(10)


def test_torchrl_makes_environments_by_id() -> None:
    torchrl = pytest.importorskip("torchrl.envs")
    assert torchrl.GymEnv("text_gym/Reverse-v0").rollout(3)["next", "tokens"].shape[-1] == 9


def test_ids_say_when_they_are_solved_and_have_no_other_limit_than_their_own(env_id: str) -> None:
    spec = gym.spec(env_id)
    kwargs: dict[str, Any] = {**ENV_IDS[env_id]}
    optimum = load_task(kwargs.pop("task"), **kwargs).optimum
    assert optimum is not None
    assert spec.reward_threshold == pytest.approx(0.95 * optimum)
    assert spec.max_episode_steps is None


def test_a_spec_with_a_reward_by_name_survives_json() -> None:
    env = gym.make("text_gym/Reverse-v0", reward="tests.worlds:count_b", observation="ids", length=2)
    assert env.spec is not None
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert again.observation_space == env.observation_space
    again.reset(seed=0)
    again.step(1)
    assert again.step(3)[1] == 1.0  # one b
    many = gym.make_vec("text_gym/Reverse-v0", num_envs=2, reward="tests.worlds:Terms")
    assert many.spec is not None
    assert "tests.worlds:Terms" in many.spec.to_json()


@pytest.mark.parametrize(
    ("reward", "error", "says"),
    [
        ("length", ConfigError, r"load_reward\('length'\)"),
        ("mine.py:reward", ConfigError, r"load_reward\('mine.py:reward'\)"),
        ("tests.worlds:cont_b", UnknownNameError, "did you mean 'count_b'"),
        ("no_such_module:reward", DataError, "no module 'no_such_module'"),
    ],
)
def test_a_reward_by_a_name_that_is_none(reward: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        gym.make("text_gym/Reverse-v0", reward=reward)


def test_a_time_limit_that_cuts_unpaid_texts_warns_once() -> None:
    env = gym.make("text_gym/Reverse-v0", max_episode_steps=3)
    with pytest.warns(UserWarning, match=r"after 3 steps, before the token limit of 5.*max_tokens=3") as told:
        env.reset(seed=0)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env.reset(seed=0)
        gym.make("text_gym/Reverse-v0", max_episode_steps=5).reset(seed=0)
        gym.wrappers.TimeLimit(gym.make("CartPole-v1"), 3).reset(seed=0)
        TextEnv(**SMALL).reset(seed=0)
    wrapped = gym.wrappers.TimeLimit(gym.wrappers.FlattenObservation(TextEnv(**SMALL)), 4)
    with pytest.warns(UserWarning, match="after 4 steps"):
        gym.wrappers.RecordEpisodeStatistics(wrapped).reset(seed=0)


def test_a_step_limit_of_many_environments_says_what_to_write() -> None:
    with pytest.raises(ConfigError, match=r"'max_episode_steps'.*write max_tokens=3"):
        gym.make_vec("text_gym/Reverse-v0", max_episode_steps=3)


def test_wrappers_and_vector_arguments_need_environments_side_by_side() -> None:
    wrappers = [gym.wrappers.FlattenObservation]
    for kwargs in ({"wrappers": wrappers}, {"vector_kwargs": {"copy": False}}):
        with pytest.raises(gym.error.Error, match="vector"):
            gym.make_vec("text_gym/Reverse-v0", num_envs=2, **kwargs)
    envs = gym.make_vec(
        "text_gym/Reverse-v0", num_envs=2, vectorization_mode="sync", wrappers=wrappers,
        vector_kwargs={"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP},
    )  # fmt: skip
    observation, _ = envs.reset(seed=0)
    assert observation.shape == envs.observation_space.shape


# For people who watch


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def watched(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> str:
    monkeypatch.setattr(sys, "stdout", stream)
    env = TextEnv(**{**SMALL, "prompts": ["ab"]}, render_mode="human")
    env.reset(seed=0)
    env.step(np.int64(1))
    assert env.render() is None
    env.step(np.int64(2))
    env.close()
    return stream.getvalue()


def test_people_see_the_text_grow_in_a_terminal_and_its_end_in_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert watched(monkeypatch, io.StringIO()) == "ab│b■ +1\n"
    lines = watched(monkeypatch, Terminal()).split("\r\x1b[2K")
    assert lines == ["", "ab│▁", "ab│b▁", "ab│b■ +1\n"]


def test_a_long_text_keeps_to_one_line_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((10, 4)))
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    print_episode("a" * 30 + "│the end", 0.0, done=False)
    assert stream.getvalue() == "\r\x1b[2K…│the end"


def test_ids_with_one_hot_observations_need_no_arguments() -> None:
    """Each letter of the prompt is a 1 in its place, and there is nothing in infos, until the end."""
    env = gym.make("text_gym/Reverse-onehot-v0")
    assert isinstance(env.observation_space, gym.spaces.Box)
    observation, info = env.reset(seed=0)
    plain, told = gym.make("text_gym/Reverse-v0").reset(seed=0)
    assert (info, told["episode_index"]) == ({}, 0)
    shown = observation.reshape(len(plain["tokens"]), 4)
    prompt = plain["tokens"][: plain["length"][0]].tolist()
    assert shown.argmax(axis=1)[shown.any(axis=1)].tolist() == prompt
    terminated = False
    while not terminated:
        _, _, terminated, _, info = env.step(3)
        assert info == {}
