from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest
import torch

from text_gym import AllowedTokens, load_task
from text_gym.errors import ConfigError

skrl = pytest.importorskip("skrl")

from text_gym.agents.adapters.skrl import skrl_env, token_models  # noqa: E402


def test_models_read_what_skrl_has_flattened() -> None:
    env = skrl_env("text_gym/Reverse-v0", num_envs=5)
    shown, _ = env.reset()
    models = token_models(env)
    with torch.no_grad():
        logits, _ = models["policy"].compute({"observations": shown})
        observation, _ = gym.make_vec("text_gym/Reverse-v0", num_envs=5).reset()
        values, _ = models["value"].act({"observations": shown}, role="value")
    assert logits.shape == (5, load_task("reverse").tokenizer.vocab_size)
    assert values.shape == (5, 1)
    assert set(observation) == set(env.observation_space.spaces)
    names = sorted(observation)  # skrl flattens a Dict in the order of its keys
    parts = dict(zip(names, shown.split([observation[k].shape[1] for k in names], dim=1), strict=True))
    with torch.no_grad():
        expected = models["policy"].network(parts["tokens"], parts["attention_mask"], parts["remaining"])
    assert torch.equal(logits, expected)


def test_every_step_is_a_transition_and_ends_are_terminations() -> None:
    env = skrl_env("text_gym/Reverse-v0", num_envs=3)
    env.reset()
    ended = 0
    for _ in range(20):
        _, _, terminated, truncated, _ = env.step(torch.zeros(3, 1, dtype=torch.int64))
        ended += int(terminated.sum())
        assert not truncated.any()
    limit = load_task("reverse").max_tokens
    assert ended == 3 * (20 // limit)


@pytest.mark.parametrize("mode", ["NextStep", "Disabled"])
def test_other_ways_to_restart_are_refused(mode: str) -> None:
    with pytest.raises(ConfigError, match='autoreset_mode="SameStep"'):
        skrl_env(gym.make_vec("text_gym/Reverse-v0", num_envs=2, autoreset_mode=mode))


def test_forbidden_tokens_are_not_drawn() -> None:
    env = skrl_env("text_gym/Reverse-v0", num_envs=50, mask=AllowedTokens(ids=[1]))
    models: dict[str, Any] = token_models(env)
    shown, _ = env.reset()
    for _ in range(4):
        actions, _ = models["policy"].act({"observations": shown}, role="policy")
        assert set(actions.flatten().tolist()) <= {1, 3}
        shown, *_ = env.step(actions)
