from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import VectorEnv
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from text_gym import (
    AllowedTokens,
    Episode,
    Prompt,
    RewardSource,
    Task,
    TextVectorEnv,
    WordTokenizer,
    load_task,
)
from text_gym.agents import (
    KLPenalty,
    LanguageModelPolicy,
    Policy,
    SB3VecEnv,
    SequenceRolloutBuffer,
    TokenFeatures,
)
from text_gym.agents.algorithms.kl import KLController
from text_gym.errors import ConfigError
from text_gym.tasks.enumerable import optimal_policy, trajectories

FEATURES = {"features_extractor_class": TokenFeatures, "features_extractor_kwargs": {"width": 32}}


def make_env(task: str | Task = "copy", num_envs: int = 4, **kwargs: Any) -> Any:
    return SB3VecEnv(TextVectorEnv(task=task, num_envs=num_envs, autoreset_mode="SameStep", **kwargs))


@pytest.mark.parametrize("limit", ["end", "truncate"])
def test_it_plays_exactly_what_dummy_vec_env_plays(limit: str) -> None:
    """SB3's own way: one environment a row, restarted by `DummyVecEnv`."""
    ours: Any = make_env("add", num_envs=3, limit=limit)
    single: dict[str, Any] = {"id": "text_gym/Add-v0", "disable_env_checker": True, "limit": limit}
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
    limited = make_env()
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


def test_attributes_and_methods_are_the_environments() -> None:
    env = make_env(num_envs=3, render_mode="ansi")
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
    env, other = make_env(num_envs=8), make_env(num_envs=8)
    env.seed(3)
    other.seed(3)
    assert np.array_equal(env.reset()["tokens"], other.reset()["tokens"])
    assert not np.array_equal(
        env.reset()["tokens"], TextVectorEnv(task="copy", num_envs=8).reset(seed=3)[0]["tokens"]
    )
    env.set_options({"episode_index": 5})
    env.reset()
    assert [i["episode_index"] for i in env.reset_infos] == [5] * 8
    shared = make_env(num_envs=8, numbering="global")
    shared.seed(3)
    shared.reset()
    assert [i["episode_index"] for i in shared.reset_infos] == list(range(8))


def test_masks_of_the_environment_reach_maskable_ppo() -> None:
    contrib = pytest.importorskip("sb3_contrib")
    plain = make_env()
    assert np.stack(plain.env_method("action_masks")).all()
    env = make_env(mask=AllowedTokens(ids=[0]))  # a forbidden token would be an error
    env.reset()
    masks = np.stack(env.env_method("action_masks", indices=[0, 2]))
    assert masks.tolist() == [[True, False, False, True]] * 2
    model = contrib.MaskablePPO("MultiInputPolicy", env, n_steps=8, batch_size=8).learn(64)
    assert model.num_timesteps == 64
    with pytest.raises(ConfigError, match="no action masks"):
        KLPenalty(env, reference_of(load_task("copy")))


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "DQN", "MaskablePPO", "RecurrentPPO"])
def test_algorithms_run_unmodified_monitored_saved_and_evaluated(algorithm: str, tmp_path: Any) -> None:
    env = VecMonitor(make_env("reverse", num_envs=8))
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


@pytest.mark.parametrize("encoder", ["positions", "gru", "transformer"])
def test_features_depend_on_all_tokens_and_on_nothing_past_the_end(encoder: Any) -> None:
    env = make_env("copy")
    features = TokenFeatures(env.observation_space, encoder=encoder, width=16)
    obs = {k: torch.from_numpy(v[:1]).float() for k, v in env.reset().items()}  # SB3 casts to float
    with torch.no_grad():
        base = features(obs)
        assert base.shape == (1, 16)
        for place in range(int(obs["length"])):
            other = obs["tokens"].clone()
            other[0, place] = (other[0, place] + 1) % 3
            assert not torch.allclose(features(obs | {"tokens": other}), base, atol=1e-4)
        beyond = obs["tokens"].clone()
        beyond[0, int(obs["length"]) :] = 1
        assert torch.allclose(features(obs | {"tokens": beyond}), base)


@pytest.mark.parametrize("encoder", ["positions", "gru", "transformer"])
def test_features_know_how_many_tokens_are_left(encoder: Any) -> None:
    env = make_env("copy")
    features = TokenFeatures(env.observation_space, encoder=encoder, width=16)
    obs = {k: torch.from_numpy(v[:1]).float() for k, v in env.reset().items()}
    later = obs | {"remaining": obs["remaining"] - 1}
    assert torch.equal(features(later), features(obs))  # at first the clock counts for nothing …
    features(obs).sum().backward()
    assert features.clock is not None
    assert features.clock.grad is not None
    assert features.clock.grad.abs().max() > 0  # … but it is learnt
    torch.nn.init.ones_(features.clock)
    assert not torch.allclose(features(later), features(obs))
    spaces = {k: v for k, v in env.observation_space.spaces.items() if k != "remaining"}
    without = TokenFeatures(gym.spaces.Dict(spaces), encoder=encoder, width=16)
    assert without.clock is None
    assert without(obs).shape == (1, 16)


def test_features_that_make_no_sense_are_refused() -> None:
    space = make_env().observation_space
    with pytest.raises(ConfigError, match="choose positions, gru or transformer"):
        TokenFeatures(space, encoder="lstm")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="multiple of 4"):
        TokenFeatures(space, encoder="transformer", width=30)


# The KL penalty


def reference_of(task: Task, seed: int = 0) -> Policy:
    return Policy.new(task.tokenizer, layers=1, width=32, context=16, seed=seed)


def test_each_reward_is_the_tasks_minus_beta_times_the_log_ratio() -> None:
    task = load_task("copy")
    reference, acting = reference_of(task), reference_of(task, seed=1)
    plain, env = make_env(task), KLPenalty(make_env(task), reference, coefficient=0.3)
    model: Any = PPO(
        LanguageModelPolicy, env, policy_kwargs={"language_model": acting}, n_steps=2, batch_size=8
    )
    env.follow(model.policy)
    plain.seed(0)
    env.seed(0)
    obs: Any = env.reset()
    plain.reset()
    total = np.zeros(4)
    torch.manual_seed(0)
    for _ in range(12):
        actions = model.policy(model.policy.obs_to_tensor(obs)[0])[0].numpy()
        wanted = np.zeros(4)
        for i, action in enumerate(actions):
            n = int(obs["length"][i, 0])
            ids = torch.from_numpy(np.append(obs["tokens"][i, :n], action))[None]
            own, other = (p.score(ids, torch.tensor([n]), torch.tensor([1])) for p in (acting, reference))
            wanted[i] = float(own - other)
        total += wanted
        obs, rewards, dones, infos = env.step(actions)
        _, task_rewards, _, _ = plain.step(actions)
        assert rewards == pytest.approx(task_rewards - 0.3 * wanted, abs=1e-5)
        for i in np.flatnonzero(dones).tolist():
            assert infos[i]["kl"] == pytest.approx(total[i], abs=1e-4)
            total[i] = 0.0


def test_a_policy_pays_nothing_for_being_the_reference_and_any_sb3_policy_can_be_followed() -> None:
    task = load_task("copy")
    reference = reference_of(task)
    env = KLPenalty(make_env("copy"), reference, coefficient=10.0)
    model: Any = PPO(
        LanguageModelPolicy, env, policy_kwargs={"language_model": reference}, n_steps=8, batch_size=8
    )
    mean: Any = evaluate_policy(model, VecMonitor(env.follow(model.policy)), n_eval_episodes=8)[0]
    assert 0 <= mean <= 1
    other: Any = PPO("MultiInputPolicy", env, n_steps=8, batch_size=8, policy_kwargs=FEATURES)
    env.follow(other.policy)
    other.learn(32)


def test_the_coefficient_can_be_steered_and_the_policy_must_be_known() -> None:
    task = load_task("copy")
    controller = KLController(0.1, target=100.0)
    env = KLPenalty(make_env("copy"), reference_of(task), controller)
    env.reset()
    with pytest.raises(ConfigError, match="follow"):
        env.step(np.zeros(4, dtype=np.int64))
    model: Any = PPO(
        LanguageModelPolicy,
        env,
        policy_kwargs={"language_model": reference_of(task)},
        n_steps=8,
        batch_size=8,
    )
    env.follow(model.policy)
    model.learn(64)
    assert controller.coefficient < 0.1  # the KL is far below its target
    with pytest.raises(ConfigError, match="tokenizer"):
        KLPenalty(make_env("slots"), reference_of(task))


def probabilities(policy: Policy, episodes: list[Episode]) -> np.ndarray[Any, np.dtype[np.float64]]:
    tokens = torch.zeros(
        len(episodes), max(len(e.prompt_ids) + len(e.completion_ids) for e in episodes)
    ).long()
    for i, e in enumerate(episodes):
        ids = np.concatenate([e.prompt_ids, e.completion_ids])
        tokens[i, : len(ids)] = torch.from_numpy(ids)
    starts = torch.tensor([len(e.prompt_ids) for e in episodes])
    lengths = torch.tensor([len(e.completion_ids) for e in episodes])
    return np.asarray(policy.score(tokens, starts, lengths).double().sum(dim=1).exp().numpy())


def distance_from_optimum(seed: int, tokens: int, beta: float = 0.2) -> tuple[float, float]:
    """Total variation from the closed form before and after learning, over all trajectories."""
    task = load_task("enumerable", seed=seed)
    reference = reference_of(task, seed)
    episodes = trajectories(task)
    best = optimal_policy(probabilities(reference, episodes), task.reward(episodes).values, beta)
    env = KLPenalty(make_env(task, num_envs=256), reference, beta)
    model: Any = PPO(
        LanguageModelPolicy,
        env,
        policy_kwargs={"language_model": reference},
        rollout_buffer_class=SequenceRolloutBuffer,
        n_steps=12,
        batch_size=1024,
        n_epochs=4,
        learning_rate=LinearSchedule(3e-3, 0.0, 1.0),
        gamma=1.0,
        gae_lambda=1.0,
        seed=seed,
    )
    env.follow(model.policy)
    found = [float(np.abs(probabilities(p, episodes) - best).sum() / 2) for p in (reference,)]
    model.learn(tokens)
    found.append(float(np.abs(probabilities(model.policy.language_model, episodes) - best).sum() / 2))
    return found[0], found[1]


def test_ppo_approaches_the_closed_form_optimum() -> None:
    before, after = distance_from_optimum(seed=1, tokens=40_000)
    assert before > 0.4
    assert after < 0.1


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(5))
def test_ppo_reaches_the_closed_form_optimum(seed: int) -> None:
    assert distance_from_optimum(seed, tokens=200_000)[1] < 0.05


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
    env = make_env(shy_task(), num_envs=2)
    env.reset()
    env.step(np.array([0, 1]))
    _, rewards, dones, infos = env.step(np.array([2, 2]))
    assert rewards.tolist() == [0, 1]
    assert dones.tolist() == [True, True]
    assert [info.get("reward_abstained") for info in infos] == [True, None]


def test_a_redrawn_episode_goes_on_with_a_new_one_for_stable_baselines3() -> None:
    env = make_env(shy_task(), num_envs=3, on_abstain="redraw")
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
    env = VecMonitor(make_env(shy_task(), num_envs=8, on_abstain="redraw"))
    agent = PPO("MultiInputPolicy", env, n_steps=16, batch_size=64, seed=0, policy_kwargs=FEATURES)
    agent.learn(256)
    assert {episode["r"] for episode in agent.ep_info_buffer or ()} == {1.0}
    assert env.get_attr("redrawn")[0] > 10
