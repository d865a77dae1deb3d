"""What PPO, GRPO, RLOO and REINFORCE share; their gradients are tested in their own files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from text_gym import TextVectorEnv, WordTokenizer
from text_gym.agents import PPO, Policy, PolicyGradientConfig, PPOConfig, minibatches
from text_gym.errors import ConfigError


@given(
    episodes=st.integers(1, 50), epochs=st.integers(1, 3), parts=st.integers(1, 8), seed=st.integers(0, 99)
)
def test_every_epoch_takes_every_episode_once(episodes: int, epochs: int, parts: int, seed: int) -> None:
    batches = minibatches(episodes, epochs, parts, (seed, 0))
    per_epoch = min(parts, episodes)
    assert len(batches) == epochs * per_epoch
    for e in range(epochs):
        rows = torch.cat(batches[e * per_epoch : (e + 1) * per_epoch])
        assert sorted(rows.tolist()) == list(range(episodes))
    again = minibatches(episodes, epochs, parts, (seed, 0))
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"minibatches": 0}, "minibatches is 0"),
        ({"clip": 0.0}, "clip is 0"),
        ({"clip_higher": -0.1}, "clip_higher is -0.1"),
        ({"kl_in": "loss"}, "no gradient on average"),
    ],
)
def test_settings_without_sense_are_named(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PolicyGradientConfig(**wrong)  # type: ignore[arg-type]


def test_an_episode_that_was_not_judged_teaches_nothing() -> None:
    """Half of the episodes get no reward: what they were paid instead of one must not matter."""
    tokenizer = WordTokenizer("abc", separator="", pad=False)

    def weights(filler: float) -> list[torch.Tensor]:
        def reward(episodes):  # type: ignore[no-untyped-def]
            return [float("nan") if e.index % 2 else e.completion.count("a") for e in episodes]

        env = TextVectorEnv(
            ["a"], tokenizer, reward, 3, num_envs=32, numbering="global", on_bad_reward="drop"
        )
        policy = Policy.new(tokenizer, layers=1, width=16, context=8)
        agent = PPO(policy, env, PPOConfig(iterations=1, kl_coef=0.0, epochs=1, minibatches=1))
        batch = agent.collect()
        assert batch.scores.abstained.sum() == 16
        batch.rewards[np.flatnonzero(batch.scores.abstained)] = filler
        agent.update(batch)
        return [p.detach().clone() for p in policy.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(weights(0.0), weights(7.0), strict=True))


def test_updates_stop_when_the_policy_has_moved_far_enough() -> None:
    tokenizer = WordTokenizer("abc", separator="", pad=False)
    env = TextVectorEnv(["a"], tokenizer, lambda completion: completion.count("a"), 3, num_envs=32)
    config = PPOConfig(learning_rate=0.05, warmup=0, target_kl=1e-4, epochs=4, minibatches=2)
    agent = PPO(Policy.new(tokenizer, layers=1, width=16, context=8), env, config)
    assert agent.update(agent.collect())["updates"] < 8
