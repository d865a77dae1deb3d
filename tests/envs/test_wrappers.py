from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from text_gym import ByteTokenizer, TextEnv, TextObservation
from text_gym.envs.wrappers import AnyText
from text_gym.errors import ConfigError


def test_the_observation_is_the_text_so_far() -> None:
    env = TextObservation(TextEnv(["Say: "], ByteTokenizer(), lambda completion: 0.0, 4))
    text, _ = env.reset(seed=0)
    assert text == "Say: "
    for token, wanted in zip("hé".encode(), ["Say: h", "Say: h\ufffd", "Say: hé"], strict=True):
        text, *_ = env.step(np.int64(token))
        assert text == wanted
    assert env.step(np.int64(256))[0] == "Say: hé"


@pytest.mark.filterwarnings("error", "ignore:.*is different from the unwrapped version")
def test_gymnasiums_checker_is_content() -> None:
    check_env(
        TextObservation(gym.make("text_gym/Products-v0", render_mode="ansi").unwrapped),
        skip_render_check=True,
    )


def test_other_environments_are_refused() -> None:
    with pytest.raises(ConfigError, match="CartPoleEnv"):
        TextObservation(gym.make("CartPole-v1"))


def test_the_space_of_all_strings() -> None:
    space = AnyText(seed=1)
    assert all(space.sample() in space for _ in range(20))
    assert "\x1b🙂" in space
    assert 3 not in space
    assert space == AnyText(5)
    assert AnyText(seed=3).sample() == AnyText(seed=3).sample()
