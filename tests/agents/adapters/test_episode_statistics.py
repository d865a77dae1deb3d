from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from text_gym import TextVectorEnv, load_task
from text_gym.agents.adapters.episode_statistics import EpisodeStatistics


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("old", [False, True])
def test_returns_and_lengths_are_sums_over_the_steps(mode: AutoresetMode, old: bool) -> None:
    """Also with the Gymnasium of 1.2, which takes every mode for NextStep."""
    env: Any = EpisodeStatistics(TextVectorEnv(task=load_task("copy"), num_envs=4, autoreset_mode=mode))
    if old:
        env._autoreset_mode = AutoresetMode.NEXT_STEP
    if old and mode == AutoresetMode.DISABLED:
        pytest.skip("resets by hand are the same in both")
    env.reset(seed=0)
    env.action_space.seed(0)
    returns, lengths = np.zeros(4), np.zeros(4, dtype=int)
    began, ended = np.zeros(4, dtype=bool), 0
    for _ in range(40):
        if mode == AutoresetMode.DISABLED and began.any():
            env.reset(options={"reset_mask": began})
            began = np.zeros(4, dtype=bool)
        _, rewards, terminated, truncated, info = env.step(env.action_space.sample())
        counted = ~began
        returns[counted] += rewards[counted]
        lengths[counted] += 1
        done = terminated | truncated
        if done.any():
            np.testing.assert_allclose(info["episode"]["r"][done], returns[done])
            assert info["episode"]["l"][done].tolist() == lengths[done].tolist()
        returns[done], lengths[done] = 0.0, 0
        ended += int(done.sum())
        began = done if mode != AutoresetMode.SAME_STEP else began
    assert ended > 20
