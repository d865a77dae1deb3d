from __future__ import annotations

import importlib
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch

cleanrl = importlib.import_module("text_gym.agents.adapters.cleanrl")
ActorCritic, Args, train_ppo = cleanrl.ActorCritic, cleanrl.Args, cleanrl.train_ppo


def test_it_learns_a_small_copy_task_from_nothing() -> None:
    calls: list[tuple[int, float]] = []
    args = Args(env_id="text_gym/Sort-v0", total_timesteps=16_384, num_envs=32, num_steps=16)
    _, curve = train_ppo(args, lambda tokens, mean_return: calls.append((tokens, mean_return)))
    assert len(curve) == len(calls) == 32
    assert calls[-1] == (16_384, curve[-1])
    assert curve[0] < 0.25
    assert curve[-1] > 0.75


@pytest.mark.nightly
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_learns_reverse(seed: int) -> None:
    agent, curve = train_ppo(Args(seed=seed))
    assert np.mean(curve[-5:]) > 0.95
    envs = gym.make_vec("text_gym/Reverse-v0", num_envs=256, autoreset_mode="SameStep")
    observation, _ = envs.reset(seed=10_000)
    total = np.zeros(256)
    for _ in range(5):  # four symbols and EOS
        with torch.no_grad():
            action = agent(agent.encode(observation))[0].logits.argmax(dim=1)
        observation, reward, *_ = envs.step(action.numpy())
        total += reward
    assert total.mean() > 0.95


def test_the_same_seed_gives_the_same_curve() -> None:
    args = Args(total_timesteps=2_048, num_envs=16, num_steps=16)
    assert train_ppo(args)[1] == train_ppo(args)[1]


def test_what_stands_past_the_end_is_not_seen() -> None:
    envs = gym.make_vec("text_gym/Reverse-v0", num_envs=2)
    assert isinstance(envs.single_observation_space, gym.spaces.Dict)
    agent = ActorCritic(envs.single_observation_space, 4, width=8)
    observation, _ = envs.reset(seed=0)
    tokens = agent.encode(observation)
    assert (tokens[:, 4:] == 4).all()
    assert torch.equal(tokens[:, :4], torch.as_tensor(observation["tokens"][:, :4]))


def test_it_runs_as_a_program() -> None:
    command = [
        sys.executable,
        "-m",
        "text_gym.agents.adapters.cleanrl",
        "--total-timesteps",
        "256",
        "--num-envs",
        "4",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 2
    assert "256 tokens" in done.stdout


def test_nothing_flows_back_across_an_end() -> None:
    """Two rows of four steps; the second one ends at steps 1 and 3. γ = 0.5 and λ = 0.5."""
    rewards = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [4.0, 4.0]])
    dones = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
    values = torch.tensor([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0], [8.0, 8.0]])
    args = cleanrl.Args(gamma=0.5, gae_lambda=0.5)
    found = cleanrl.estimate_advantages(args, rewards, dones, values, torch.tensor([16.0, 16.0]))
    whole = [1.0, 2.0, 3.0, 4.0]  # errors: 1 + 1 - 1, 2 + 2 - 2, 3 + 4 - 4, 4 + 8 - 8
    for t in (2, 1, 0):
        whole[t] += whole[t + 1] / 4
    assert found[:, 0].tolist() == whole
    assert found[:, 1].tolist() == [1.0 + 0.0 / 4, 0.0, 3.0 - 4.0 / 4, -4.0]


def test_an_id_of_another_form_is_told_so() -> None:
    with pytest.raises(AssertionError, match=r"reads a Dict of tokens, not Box\(.*: take another id"):
        train_ppo(Args(env_id="text_gym/Reverse-onehot-v0"))
