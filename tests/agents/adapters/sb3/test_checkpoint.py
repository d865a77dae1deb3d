"""An interrupted run of Stable-Baselines3 that is resumed ends as one that was never interrupted."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.envs.test_conversation import WORDS, Chance
from text_gym import Episode, Prompt, Reply, as_reward_source, load_task
from text_gym.agents import Policy, SB3Config, train_sb3
from text_gym.agents.adapters.sb3.config import SB3_ALGORITHMS
from text_gym.agents.adapters.sb3.training import SB3Learner, SB3Run
from text_gym.errors import CheckpointError, ConfigError, RaterLeftError, RewardError
from text_gym.rewards.transforms import RunningStandardize
from text_gym.tasks.task import Task

TINY: dict[str, Any] = {
    "iterations": 6,
    "num_envs": 6,
    "n_steps": 12,
    "batch_size": 24,
    "n_epochs": 2,
    "width": 16,
}
LANGUAGE_MODELS = ("ppo", "a2c", "maskable_ppo")


def sort_task() -> Task:
    return load_task("sort", length=4)


class Unreliable:
    """Pays for every a, and fails once, at the call that it is told."""

    def __init__(self, fails_at: int, error: Exception) -> None:
        self.calls, self.fails_at, self.error = 0, fails_at, error

    def __call__(self, completions: list[str]) -> list[float]:
        self.calls += 1
        if self.calls == self.fails_at:
            raise self.error
        return [float(text.count("a")) for text in completions]


def weights(run: SB3Run) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in run.model.policy.state_dict().items()}


def same_bits(a: SB3Run, b: SB3Run) -> None:
    one, two = weights(a), weights(b)
    assert one.keys() == two.keys()
    different = [name for name in one if not torch.equal(one[name], two[name])]
    assert not different
    assert a.after.rewards.tolist() == b.after.rewards.tolist()
    assert a.tokens == b.tokens


def settings(algorithm: str, lm: bool) -> dict[str, Any]:
    task = sort_task()
    policy = Policy.new(task.tokenizer, width=16, layers=1, context=16, seed=3) if lm else None
    return {"algorithm": algorithm, "task": task, "config": SB3Config(**TINY), "policy": policy}


CASES = [(name, False) for name in sorted(SB3_ALGORITHMS)] + [(name, True) for name in LANGUAGE_MODELS]


@pytest.mark.parametrize(("algorithm", "lm"), CASES)
def test_a_run_that_fails_anywhere_goes_on_to_the_same_bits(
    algorithm: str, lm: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if SB3_ALGORITHMS[algorithm].startswith("sb3_contrib"):
        pytest.importorskip("sb3_contrib")
    if "dqn" in algorithm:  # let it learn, from the replay buffer too, within this short run
        from text_gym.agents.adapters.sb3 import make

        own = make._settings
        short = {"learning_starts": 60, "buffer_size": 300, "target_update_interval": 50}
        monkeypatch.setattr(make, "_settings", lambda *args: own(*args) | short)
    given = settings(algorithm, lm)
    whole = train_sb3(**given, reward=Unreliable(0, ValueError()), checkpoints=tmp_path / "whole")
    fails_at = 37 if "dqn" in algorithm or algorithm == "a2c" else 21
    with pytest.raises(RewardError, match="no longer here"):
        train_sb3(
            **given, reward=Unreliable(fails_at, ValueError("no longer here")), checkpoints=tmp_path / "two"
        )
    assert list((tmp_path / "two").iterdir())
    resumed = train_sb3(**given, reward=Unreliable(0, ValueError()), checkpoints=tmp_path / "two")
    same_bits(whole, resumed)
    assert resumed.iterations == 6


def test_a_callback_stops_between_iterations_and_every_third_is_saved(tmp_path: Path) -> None:
    given = settings("ppo", False)
    whole = train_sb3(**given)
    rows: list[Any] = []

    def stop_after_four(metrics: Any) -> bool:
        rows.append(metrics)
        return int(metrics["iteration"]) < 4

    first = train_sb3(**given, callback=stop_after_four, checkpoints=tmp_path, checkpoint_every=3)
    assert (first.iterations, first.tokens) == (4, 4 * 12 * 6)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["00000003", "00000004"]
    second = train_sb3(**given, callback=rows.append, checkpoints=tmp_path, checkpoint_every=3)
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4, 5, 6]
    same_bits(whole, second)


def test_without_checkpoints_nothing_is_different(tmp_path: Path) -> None:
    given = settings("ppo", True)
    same_bits(train_sb3(**given), train_sb3(**given, checkpoints=tmp_path, checkpoint_every=1))


def test_raters_who_leave_end_the_run_and_it_is_saved(tmp_path: Path) -> None:
    given = settings("ppo", False)
    whole = train_sb3(**given, reward=Unreliable(0, ValueError()))
    left = Unreliable(15, RaterLeftError("the raters left"))
    run = train_sb3(**given, reward=left, checkpoints=tmp_path)
    assert 0 < run.iterations < 6
    resumed = train_sb3(**given, reward=Unreliable(0, ValueError()), checkpoints=tmp_path)
    same_bits(whole, resumed)


def test_a_reward_with_a_memory_is_restored_with_it(tmp_path: Path) -> None:
    def reward(fails_at: int) -> RunningStandardize:
        return RunningStandardize(as_reward_source(Unreliable(fails_at, ValueError("no longer here"))))

    given = settings("ppo", False)
    whole = train_sb3(**given, reward=reward(0))
    with pytest.raises(RewardError, match="no longer here"):
        train_sb3(**given, reward=reward(30), checkpoints=tmp_path)
    same_bits(whole, train_sb3(**given, reward=reward(0), checkpoints=tmp_path))


def test_tokens_that_were_paid_before_are_not_paid_again(tmp_path: Path) -> None:
    """The task pays token by token; episodes run on from one rollout to the next, and over a resume."""
    given = settings("ppo", False)
    assert given["task"].reward.causal
    whole = train_sb3(**given)
    train_sb3(**given, callback=lambda _: False, checkpoints=tmp_path)
    same_bits(whole, train_sb3(**given, checkpoints=tmp_path))


class Remembers(Chance):
    """Replies by chance, and remembers what it replied to."""

    def __init__(self) -> None:
        self.heard: list[tuple[int | None, int | None, str]] = []

    def respond(self, episodes: Sequence[Episode], generators: Sequence[Any]) -> list[Reply]:
        self.heard += [(e.seed, e.index, e.completion) for e in episodes]
        return super().respond(episodes, generators)


def test_a_run_goes_on_in_mid_conversation(tmp_path: Path) -> None:
    def given(respondent: Remembers) -> dict[str, Any]:
        prompts = [Prompt("ab"), Prompt("c")]
        reward = as_reward_source(lambda completion: completion.count("a"))
        turns: dict[str, Any] = {"turn_stop": (".", "a"), "max_turns": 4, "max_context": 26}
        task = Task("talk", prompts, prompts, WORDS, reward, 12, respondent=respondent, **turns)
        policy = Policy.new(WORDS, width=16, layers=1, context=26, seed=3)
        config = SB3Config(**{**TINY, "iterations": 3})
        return {"algorithm": "ppo", "task": task, "config": config, "policy": policy}

    first, second = Remembers(), Remembers()
    whole = train_sb3(**given(Remembers()))
    train_sb3(**given(first), callback=lambda _: False, checkpoints=tmp_path)
    same_bits(whole, train_sb3(**given(second), checkpoints=tmp_path))
    again = set(first.heard) & set(second.heard)  # what ran when it was saved is replied to once more
    assert len({(seed, index) for seed, index, _ in again}) > 1


def test_checkpoints_of_another_run_are_refused(tmp_path: Path) -> None:
    given = settings("ppo", False)
    train_sb3(**given, callback=lambda _: False, checkpoints=tmp_path)
    with pytest.raises(ConfigError, match=r"a run with gamma=1\.0, and this one has 0\.5"):
        train_sb3(**{**given, "config": SB3Config(**TINY, gamma=0.5)}, checkpoints=tmp_path)
    task = given["task"]
    turned = dataclasses.replace(task, prompts=list(reversed(task.prompts)))
    learner = SB3Learner("ppo", turned, given["config"])
    with pytest.raises(CheckpointError, match="begin with other prompts"):
        learner.keep_in(tmp_path)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = settings("ppo", False)
    whole = train_sb3(**given, checkpoints=tmp_path, checkpoint_every=1)
    newest = tmp_path / "00000006" / "sb3.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(bytes(content))
    same_bits(whole, train_sb3(**given, checkpoints=tmp_path, checkpoint_every=1))
    assert "going on from checkpoint 00000005" in caplog.text
