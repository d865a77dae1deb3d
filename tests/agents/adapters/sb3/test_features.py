from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest
import torch

from tests.sb3_world import task_env
from text_gym.agents import TokenFeatures
from text_gym.errors import ConfigError


@pytest.mark.parametrize("encoder", ["positions", "gru", "transformer"])
def test_features_depend_on_all_tokens_and_on_nothing_past_the_end(encoder: Any) -> None:
    env = task_env("copy")
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
    env = task_env("copy")
    features = TokenFeatures(env.observation_space, encoder=encoder, width=16)
    obs = {k: torch.from_numpy(v[:1]).float() for k, v in env.reset().items()}
    later = obs | {"remaining": obs["remaining"] - 1}
    assert torch.equal(features(later), features(obs))  # at first the clock counts for nothing …
    features(obs).sum().backward()
    assert features.encoder.clock is not None
    assert features.encoder.clock.grad is not None
    assert features.encoder.clock.grad.abs().max() > 0  # … but it is learnt
    torch.nn.init.ones_(features.encoder.clock)
    assert not torch.allclose(features(later), features(obs))
    spaces = {k: v for k, v in env.observation_space.spaces.items() if k != "remaining"}
    without = TokenFeatures(gym.spaces.Dict(spaces), encoder=encoder, width=16)
    assert without.encoder.clock is None
    assert without(obs).shape == (1, 16)


def test_features_that_make_no_sense_are_refused() -> None:
    space = task_env().observation_space
    with pytest.raises(ConfigError, match="choose positions, gru or transformer"):
        TokenFeatures(space, encoder="lstm")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="multiple of 4"):
        TokenFeatures(space, encoder="transformer", width=30)
