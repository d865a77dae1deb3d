"""A pytest plugin that points Gymnasium's own environment tests at our ids instead of its own.

Gymnasium's tests are in its repository but not in its packages, so `tests/test_gymnasium_plugin.py`
runs them where `GYMNASIUM_SOURCE` names a checkout. They take their environments from a module of
theirs, which this plugin replaces.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import gymnasium as gym

import text_gym  # noqa: F401  (registers the ids)
from text_gym.tasks.task import ENV_IDS


def pytest_configure(config: Any) -> None:
    """Stand in for the module in which Gymnasium's tests look environments up."""
    module = ModuleType("tests.envs.utils")
    specs = [gym.spec(env_id) for env_id in ENV_IDS]
    vars(module).update(
        all_testing_env_specs=specs,
        all_testing_initialised_envs=[spec.make(disable_env_checker=True).unwrapped for spec in specs],
        gym_testing_env_specs=specs,
        mujoco_testing_env_specs=[],
    )
    sys.modules[module.__name__] = module
