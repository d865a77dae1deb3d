from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import VectorEnv
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from tests.sb3_world import FEATURES, task_env
from text_gym import (
    AllowedTokens,
    Episode,
    Prompt,
    RewardSource,
    Task,
    TextVectorEnv,
    WordTokenizer,
)
from text_gym.agents import SB3VecEnv
from text_gym.errors import ConfigError


@pytest.mark.parametrize("limit", ["end", "truncate"])
def test_it_plays_exactly_what_dummy_vec_env_plays(limit: str) -> None:
    """SB3's own way: one environment a row, restarted by `DummyVecEnv`."""
    ours: Any = task_env("add", num_envs=3, limit=limit)
    single: dict[str, Any] = {"id": "text_gym/Add-v0", "disable_env_checker": True, "limit": limit}
    single["infos"] = ours.env.options.infos
    theirs: Any = DummyVecEnv([lambda: gym.make(**single)] * 3)
    ours.seed(7)
    theirs.seed(7)
    a, b = ours.reset(), theirs.reset()
    rng = np.random.default_rng(0)
    endings = {True: 0, False: 0}
    for _ in range(400):
        assert {k: v.tolist() for k, v in a.items()} == {k: v.tolist() for k, v in b.items()}
        assert ours.reset_infos == theirs.reset_infos
        actions = rng.integers(0, ours.action_space.n, 3)
        (a, *x), (b, *y) = ours.step(actions), theirs.step(actions)
        assert x[0] == pytest.approx(y[0])
        assert x[0].dtype == np.float32
        assert x[1].tolist() == y[1].tolist()
        for i in range(3):
            mine, other = x[2][i], dict(y[2][i])
            if not x[1][i]:
                assert mine == {}
                continue
            assert other.pop("TimeLimit.truncated") == mine.pop("TimeLimit.truncated")
            end, their_end = mine.pop("terminal_observation"), other.pop("terminal_observation")
            assert {k: v.tolist() for k, v in end.items()} == {k: v.tolist() for k, v in their_end.items()}
            assert mine == other
            endings[bool(end["tokens"][end["length"][0] - 1] in ours.env.tokenizer.eos_ids)] += 1
    assert min(endings.values()) > 10


def test_truncation_and_termination_are_told_apart() -> None:
    two: Any = (["a"], WordTokenizer("ab", pad=False), len, 2, 2)
    env = SB3VecEnv(TextVectorEnv(*two, autoreset_mode="SameStep", limit="truncate"))
    env.reset()
    env.step(np.array([0, 0]))
    _, _, dones, infos = env.step(np.array([0, 2]))  # the limit in row 0; EOS on the last token in row 1
    assert dones.tolist() == [True, True]
    assert [i["TimeLimit.truncated"] for i in infos] == [True, False]
    assert infos[0]["terminal_observation"]["tokens"].tolist() == [0, 0, 0]
    limited = task_env()
    limited.reset()
    for _ in range(limited.env.max_tokens):
        _, _, dones, infos = limited.step(np.zeros(4, dtype=np.int64))
    assert dones.all()
    assert not any(i["TimeLimit.truncated"] for i in infos)


def test_only_same_step_resets_are_taken() -> None:
    with pytest.raises(ConfigError, match="autoreset_mode='SameStep'"):
        SB3VecEnv(TextVectorEnv(task="copy", num_envs=2))


def test_gymnasium_vector_wrappers_may_stand_in_between() -> None:
    env: VectorEnv[Any, Any, Any] = gym.make_vec("text_gym/Copy-v0", num_envs=2, autoreset_mode="SameStep")
    wrapped = SB3VecEnv(gym.wrappers.vector.RecordEpisodeStatistics(env))
    wrapped.reset()
    infos = wrapped.step(np.array([3, 0]))[3]
    assert infos[0]["episode"]["l"] == 1
    assert wrapped.get_attr("max_tokens") == [5, 5]


def test_pictures_of_all_rows_are_one_picture_as_sb3s_video_recorder_wants_it() -> None:
    kwargs: dict[str, Any] = {"num_envs": 3, "autoreset_mode": "SameStep", "render_mode": "rgb_array"}
    env: Any = SB3VecEnv(gym.make_vec("text_gym/Reverse-v0", **kwargs))
    theirs: Any = DummyVecEnv([lambda: gym.make("text_gym/Reverse-v0", render_mode="rgb_array")] * 3)
    for vec_env in (env, theirs):
        vec_env.seed(3)
        vec_env.reset()
        vec_env.step(np.array([0, 1, 2]))
    assert np.array_equal(env.render(), theirs.render())
    assert [image.shape for image in env.get_images()] == [(320, 640, 3)] * 3
    assert list(task_env().get_images()) == [None] * task_env().num_envs


def test_each_row_has_a_prompt_and_a_completion_of_its_own() -> None:
    env: Any = task_env("reverse", num_envs=3)
    theirs: Any = DummyVecEnv([lambda: gym.make("text_gym/Reverse-v0")] * 3)
    for vec_env in (env, theirs):
        vec_env.seed(3)
        vec_env.reset()
        vec_env.step(np.array([0, 1, 2]))
    for name in ("prompt", "completion"):
        assert env.has_attr(name)
        assert env.get_attr(name) == theirs.get_attr(name)
        assert env.get_attr(name, indices=[2]) == theirs.get_attr(name, indices=[2])
    assert env.get_attr("completion") == ["a", "b", "c"]


@pytest.mark.parametrize("wrong", ["text_gym/Reverse-v0", gym.make("text_gym/Reverse-v0")])
def test_what_is_no_vector_environment_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"takes a vector environment, not \w+; write SB3VecEnv\(gymnasium"):
        SB3VecEnv(wrong)


def test_attributes_and_methods_are_the_environments() -> None:
    env = task_env(num_envs=3, render_mode="ansi")
    env.seed(0)
    env.reset()
    assert env.get_attr("max_tokens", indices=[0, 2]) == [5, 5]
    assert env.get_attr("max_tokens", indices=1) == [5]
    assert env.has_attr("tokenizer")
    assert not env.has_attr("nothing")
    with pytest.raises(AttributeError):
        env.get_attr("nothing")
    frames = env.env_method("render")
    assert len(set(frames)) > 1
    assert env.env_method("render", indices=[2]) == [frames[2]]
    assert env.render() == "\n".join(frames)
    assert env.env_is_wrapped(gym.Wrapper, indices=[0, 1]) == [False, False]
    env.set_attr("render_mode", None)
    assert env.env.render_mode is None
    with pytest.raises(ConfigError, match="share one environment"):
        env.set_attr("render_mode", "ansi", indices=[0])
    env.close()


def test_seeds_and_options_reach_the_environment() -> None:
    env, other = task_env(num_envs=8), task_env(num_envs=8)
    env.seed(3)
    other.seed(3)
    assert np.array_equal(env.reset()["tokens"], other.reset()["tokens"])
    assert not np.array_equal(
        env.reset()["tokens"], TextVectorEnv(task="copy", num_envs=8).reset(seed=3)[0]["tokens"]
    )
    env.set_options({"episode_index": 5})
    env.reset()
    assert [i["episode_index"] for i in env.reset_infos] == [5] * 8
    shared = task_env(num_envs=8, numbering="global")
    shared.seed(3)
    shared.reset()
    assert [i["episode_index"] for i in shared.reset_infos] == list(range(8))


def test_masks_of_the_environment_reach_maskable_ppo() -> None:
    contrib = pytest.importorskip("sb3_contrib")
    plain = task_env()
    assert np.stack(plain.env_method("action_masks")).all()
    env = task_env(mask=AllowedTokens(ids=[0]))  # a forbidden token would be an error
    env.reset()
    masks = np.stack(env.env_method("action_masks", indices=[0, 2]))
    assert masks.tolist() == [[True, False, False, True]] * 2
    model = contrib.MaskablePPO("MultiInputPolicy", env, n_steps=8, batch_size=8).learn(64)
    assert model.num_timesteps == 64


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "DQN", "MaskablePPO", "RecurrentPPO"])
def test_algorithms_run_unmodified_monitored_saved_and_evaluated(algorithm: str, tmp_path: Any) -> None:
    env = VecMonitor(task_env("reverse", num_envs=8))
    kwargs: dict[str, Any] = {"policy_kwargs": FEATURES, "seed": 0}
    if algorithm in ("MaskablePPO", "RecurrentPPO"):
        algorithm_class = getattr(pytest.importorskip("sb3_contrib"), algorithm)
    else:
        algorithm_class = {"PPO": PPO, "A2C": A2C, "DQN": DQN}[algorithm]
    if algorithm == "DQN":
        kwargs |= {"buffer_size": 500, "learning_starts": 50}
    else:
        kwargs["n_steps"] = 8
    if algorithm.endswith("PPO"):
        kwargs["batch_size"] = 32
    name = "MultiInputLstmPolicy" if algorithm == "RecurrentPPO" else "MultiInputPolicy"
    model: Any = algorithm_class(name, env, **kwargs).learn(200)
    assert len(model.ep_info_buffer) > 0
    mean: Any = evaluate_policy(model, env, n_eval_episodes=16)[0]
    assert 0 <= mean <= 1
    model.save(tmp_path / "model.zip")
    loaded = algorithm_class.load(tmp_path / "model.zip", env=env)
    obs = env.reset()
    assert np.array_equal(
        model.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0]
    )


def test_importing_the_agents_does_not_import_stable_baselines3() -> None:
    code = (
        "import sys, text_gym.agents; print(any(m.split('.')[0] == 'stable_baselines3' for m in sys.modules))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "False\n"
    )


# Abstentions


class Shy(RewardSource):
    """Pays 1, and has no opinion on texts that begin with an `a`."""

    name, abstains = "shy", True

    def score(self, episodes: Sequence[Episode]) -> list[float | None]:
        return [None if e.completion.startswith("a") else 1.0 for e in episodes]


def shy_task() -> Task:
    tokenizer = WordTokenizer("ab", separator="", pad=False)
    return Task("shy", [Prompt("a"), Prompt("b")], [Prompt("a")], tokenizer, Shy(), max_tokens=4)


def test_an_episode_that_was_not_judged_is_paid_zero_and_marked() -> None:
    env = task_env(shy_task(), num_envs=2)
    env.reset()
    env.step(np.array([0, 1]))
    _, rewards, dones, infos = env.step(np.array([2, 2]))
    assert rewards.tolist() == [0, 1]
    assert dones.tolist() == [True, True]
    assert [info.get("reward_abstained") for info in infos] == [True, None]


def test_a_redrawn_episode_goes_on_with_a_new_one_for_stable_baselines3() -> None:
    env = task_env(shy_task(), num_envs=3, on_abstain="redraw")
    env.reset()
    before = [dict(info) for info in env.reset_infos]
    env.step(np.array([0, 1, 0]))
    observation, rewards, dones, infos = env.step(np.array([2, 2, 0]))
    assert rewards.tolist() == [0, 1, 0]
    assert dones.tolist() == [False, True, False]
    prompt = shy_task().tokenizer.encode(infos[0].pop("prompt"))
    assert infos[0] == {"redrawn": 1, "episode_index": 1}
    assert observation["tokens"][0, :1].tolist() == prompt
    assert observation["length"].ravel().tolist() == [1, 1, 3]
    assert infos[2] == {}
    assert set(infos[1]) == {"completion", "terminal_observation", "TimeLimit.truncated"}
    assert env.reset_infos[0] == before[0]  # of the row's last reset, as in SB3
    assert env.reset_infos[1]["episode_index"] == 1
    assert env.get_attr("redrawn") == [1, 1, 1]


def test_ppo_of_stable_baselines3_learns_although_half_of_the_texts_are_not_judged() -> None:
    env = VecMonitor(task_env(shy_task(), num_envs=8, on_abstain="redraw"))
    agent = PPO("MultiInputPolicy", env, n_steps=16, batch_size=64, seed=0, policy_kwargs=FEATURES)
    agent.learn(256)
    assert {episode["r"] for episode in agent.ep_info_buffer or ()} == {1.0}
    assert env.get_attr("redrawn")[0] > 10
