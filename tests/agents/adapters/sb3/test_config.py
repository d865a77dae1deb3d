from __future__ import annotations

from typing import Any

import pytest

from text_gym.agents import SB3Config
from text_gym.errors import ConfigError


@pytest.mark.parametrize("name", ["iterations", "num_envs", "n_steps", "batch_size", "n_epochs", "width"])
def test_numbers_below_1_are_named(name: str) -> None:
    settings: dict[str, Any] = {name: 0}
    with pytest.raises(ConfigError, match=f"{name} is 0; it must be at least 1"):
        SB3Config(**settings)


def test_steps_and_learning_rate_may_be_left_to_the_task() -> None:
    config = SB3Config()
    assert (config.n_steps, config.learning_rate) == (None, None)
