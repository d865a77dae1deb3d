from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecMonitor

from tests.sb3_world import FEATURES, reference_of, task_env
from text_gym import AllowedTokens, Episode, Task, TextVectorEnv, load_task
from text_gym.agents import (
    KLPenalty,
    LanguageModelPolicy,
    Policy,
    SB3VecEnv,
    SequenceRolloutBuffer,
    trajectory_log_probs,
)
from text_gym.agents.adapters.episode_statistics import EpisodeStatistics
from text_gym.agents.adapters.sb3.kl_penalty import sb3_log_probs
from text_gym.errors import ConfigError
from text_gym.tasks.enumerable import optimal_policy, trajectories


def penalised(task: Task, reference: Policy, kl_coef: float, num_envs: int = 4, **kwargs: Any) -> KLPenalty:
    env = TextVectorEnv(task=task, num_envs=num_envs, autoreset_mode="SameStep", **kwargs)
    return KLPenalty(EpisodeStatistics(env), reference, kl_coef)


def test_each_reward_is_the_tasks_minus_beta_times_the_log_ratio() -> None:
    """Through SB3's calls, with the texts of SB3's own draws scored whole."""
    task = load_task("copy")
    reference, acting = reference_of(task), reference_of(task, seed=1)
    env = penalised(task, reference, 0.3)
    plain, shown = task_env(task), SB3VecEnv(env)
    model: Any = PPO(
        LanguageModelPolicy, shown, policy_kwargs={"language_model": acting}, n_steps=2, batch_size=8
    )
    shown.follow(model.policy)
    plain.seed(0)
    shown.seed(0)
    obs: Any = shown.reset()
    assert not any("episode_kl" in info for info in shown.reset_infos)
    plain.reset()
    total, returns = np.zeros(4), np.zeros(4)
    ended = 0
    torch.manual_seed(0)
    for _ in range(24):
        actions = model.policy(model.policy.obs_to_tensor(obs)[0])[0].numpy()
        wanted = np.zeros(4)
        for i, action in enumerate(actions):
            n = int(obs["length"][i, 0])
            ids = torch.from_numpy(np.append(obs["tokens"][i, :n], action))[None]
            own, other = (p.score(ids, torch.tensor([n]), torch.tensor([1])) for p in (acting, reference))
            wanted[i] = float(own - other)
        total += wanted
        obs, rewards, dones, infos = shown.step(actions)
        _, task_rewards, _, _ = plain.step(actions)
        returns += task_rewards
        assert rewards == pytest.approx(task_rewards - 0.3 * wanted, abs=1e-5)
        for i in range(4):
            assert infos[i]["token_kl"] == pytest.approx(wanted[i], abs=1e-5)
            assert infos[i]["episode_kl"] == pytest.approx(total[i], abs=1e-4)
            assert infos[i]["kl_coef"] == 0.3
            assert ("episode" in infos[i]) == dones[i]
            assert "episode_kl" not in shown.reset_infos[i]
            if dones[i]:
                assert infos[i]["episode"]["r"] == pytest.approx(returns[i], abs=1e-6)  # the task's own
                total[i] = returns[i] = 0.0
                ended += 1
    assert ended > 8


def test_a_policy_pays_nothing_for_being_the_reference() -> None:
    task = load_task("copy")
    reference = reference_of(task)
    env = KLPenalty(TextVectorEnv(task=task, num_envs=4, autoreset_mode="SameStep"), reference, kl_coef=10.0)
    model: Any = PPO(
        LanguageModelPolicy,
        VecMonitor(SB3VecEnv(env)),
        policy_kwargs={"language_model": reference},
        n_steps=8,
        batch_size=8,
    )
    env.follow(sb3_log_probs(model.policy))
    mean: Any = evaluate_policy(model, model.get_env(), n_eval_episodes=8)[0]
    assert 0 <= mean <= 1


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "MaskablePPO"])
def test_any_policy_with_an_action_distribution_can_be_followed(algorithm: str) -> None:
    """It tells the very log-probabilities that SB3 itself stores."""
    task = load_task("copy")
    kwargs: dict[str, Any] = {}
    if algorithm == "MaskablePPO":
        algorithm_class = getattr(pytest.importorskip("sb3_contrib"), algorithm)
        kwargs["mask"] = AllowedTokens(ids=[0, 1])
    else:
        algorithm_class = {"PPO": PPO, "A2C": A2C}[algorithm]
    env = penalised(task, reference_of(task), 0.5, reward=lambda completion: 0.0, **kwargs)
    told: list[Any] = []
    model: Any = algorithm_class(
        "MultiInputPolicy", SB3VecEnv(env), n_steps=8, policy_kwargs=FEATURES, gamma=1.0, seed=0
    )
    follow = sb3_log_probs(model.policy)

    def log_probs(observation: Any, actions: Any) -> Any:
        told.append(follow(observation, actions))
        return told[-1]

    env.follow(log_probs)
    model.learn(32)
    stored = model.rollout_buffer.log_probs.reshape(-1)  # by rows, once SB3 has learnt from them
    assert torch.stack(told, dim=1).numpy().reshape(-1) == pytest.approx(stored, abs=1e-5)
    assert np.abs(stored).max() > 0.1


def test_policies_without_a_distribution_are_refused() -> None:
    task = load_task("copy")
    model: Any = DQN("MultiInputPolicy", task_env(task), policy_kwargs=FEATURES, buffer_size=100)
    with pytest.raises(ConfigError, match="MultiInputPolicy cannot be asked"):
        sb3_log_probs(model.policy)
    recurrent = pytest.importorskip("sb3_contrib").RecurrentPPO(
        "MultiInputLstmPolicy", task_env(task), policy_kwargs=FEATURES
    )
    with pytest.raises(ConfigError, match="cannot be asked"):
        sb3_log_probs(recurrent.policy)


def test_networks_themselves_and_vec_envs_are_refused_with_the_way_out() -> None:
    task = load_task("copy")
    env = penalised(task, reference_of(task), 0.1)
    model: Any = PPO("MultiInputPolicy", SB3VecEnv(env), policy_kwargs=FEATURES)
    with pytest.raises(ConfigError, match=r"follow\(model\.policy\) of the SB3VecEnv"):
        env.follow(model.policy)
    for wrong in (lambda: KLPenalty(task_env(task), reference_of(task)), lambda: task_env(task).follow(None)):
        with pytest.raises(ConfigError, match=r"SB3VecEnv\(KLPenalty\(env, reference\)\)"):
            wrong()


def test_the_coefficient_can_be_steered_while_sb3_learns() -> None:
    task = load_task("copy")
    env = KLPenalty(
        TextVectorEnv(task=task, num_envs=4, autoreset_mode="SameStep"),
        reference_of(task),
        kl_coef=0.1,
        kl_target=100.0,
        kl_batch=4,
    )
    model: Any = PPO(
        LanguageModelPolicy,
        SB3VecEnv(env),
        policy_kwargs={"language_model": reference_of(task)},
        n_steps=8,
        batch_size=8,
    )
    env.follow(sb3_log_probs(model.policy))
    model.learn(64)
    assert env.controller.coefficient < 0.1  # the KL is far below its target


def probabilities(policy: Policy, episodes: list[Episode]) -> npt.NDArray[np.float64]:
    return np.asarray(trajectory_log_probs(policy, episodes).detach().double().exp().numpy())


def distance_from_optimum(seed: int, tokens: int, beta: float = 0.2) -> tuple[float, float]:
    """Total variation from the closed form before and after learning, over all trajectories."""
    task = load_task("enumerable", seed=seed)
    reference = reference_of(task, seed)
    episodes = trajectories(task)
    best = optimal_policy(probabilities(reference, episodes), task.reward(episodes).values, beta)
    env = SB3VecEnv(penalised(task, reference, beta, num_envs=256))
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
