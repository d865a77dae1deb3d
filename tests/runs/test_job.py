from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from text_gym import RewardSource, as_reward_source, load_task
from text_gym.agents import PPOConfig
from text_gym.errors import ConfigError
from text_gym.runs.folder import RunFolder
from text_gym.runs.job import TrainingJob
from text_gym.runs.saved_policy import read_origin

TASK = load_task("products")
LENGTH = as_reward_source(len)


def job(reward: RewardSource = LENGTH, **changes: Any) -> TrainingJob:
    """A job on the products task that starts from no policy."""
    given: dict[str, Any] = {"checkpoint_every": 10, **changes}
    return TrainingJob("ppo", PPOConfig(seed=3), TASK, reward, None, 8, "end", "cpu", **given)


def test_a_negative_interval_of_checkpoints_is_refused() -> None:
    with pytest.raises(ConfigError, match="checkpoint_every is -1"):
        job(checkpoint_every=-1)


def test_settings_name_what_decides_a_run() -> None:
    settings = job().settings()
    assert settings["task"] == "products"
    assert settings["reward"] == "len"
    assert (settings["episodes"], settings["limit"], settings["seed"]) == (8, "end", 3)
    assert {"learning_rate", "kl_coef", "iterations"} <= settings.keys()


def test_gold_is_not_watched_where_it_is_optimised_or_nobody_learns_from_a_policy() -> None:
    assert job(TASK.reward).gold_watch() is None
    assert job().gold_watch() is None  # no policy to look at


def test_a_saved_policy_names_its_task_and_reward(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", {"a": 1}) as run:
        job().save_policy(run, lambda folder: folder.mkdir(parents=True))
        origin = read_origin(run.path / "policy")
    assert origin["max_tokens"] == TASK.max_tokens
    assert "len" in str(origin)
