from __future__ import annotations

import pytest

from text_gym.agents.algorithms.by_name import ALGORITHMS
from text_gym.agents.algorithms.configs import CONFIGS, settings_class
from text_gym.errors import UnknownNameError


def test_the_settings_of_each_name_are_those_of_its_algorithm() -> None:
    assert {name: algorithm.config_class for name, algorithm in ALGORITHMS.items()} == CONFIGS


def test_an_unknown_algorithm_is_named_with_the_nearest_one() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'ppo'"):
        settings_class("pop")
