from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.small_models import small_policy
from text_gym import Episode, TextVectorEnv
from text_gym.agents import PPO, PPOConfig
from text_gym.models import threads
from text_gym.models.threads import cores, limited_threads, threads_are_chosen, worthwhile_threads

SMALL = nn.Linear(10, 10)
LARGE = nn.Linear(threads.SMALL_WEIGHTS // 10, 10, device="meta")  # and biases


@pytest.fixture(autouse=True)
def sixteen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sixteen threads on eight cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(16)
    monkeypatch.setattr(threads, "cores", lambda: 8)
    yield
    torch.set_num_threads(before)


def test_small_models_get_few_threads_and_large_ones_the_cores() -> None:
    for models, expected in (((SMALL,), 4), ((LARGE,), 8), ((SMALL, LARGE), 8), ((), 4)):
        assert worthwhile_threads(models) == expected
        with limited_threads(*models):
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == 16


def test_a_smaller_choice_stays_and_an_error_changes_nothing() -> None:
    torch.set_num_threads(1)
    with limited_threads(SMALL):
        assert torch.get_num_threads() == 1
    torch.set_num_threads(3)
    with pytest.raises(ZeroDivisionError), limited_threads(LARGE):
        raise ZeroDivisionError
    assert torch.get_num_threads() == 3


def test_rollouts_and_updates_are_limited_and_rewards_are_not() -> None:
    seen: dict[str, set[int]] = {"reward": set(), "policy": set(), "after": set()}

    def reward(episodes: list[Episode]) -> list[float]:
        seen["reward"].add(torch.get_num_threads())
        return [1.0] * len(episodes)

    policy = small_policy()
    env = TextVectorEnv(["ab"], policy.tokenizer, reward, 3, num_envs=4)
    agent = PPO(policy, env, PPOConfig(iterations=1, epochs=1, minibatches=1))
    policy.model.transformer.ln_f.register_forward_hook(
        lambda *_: seen["policy"].add(torch.get_num_threads())
    )
    agent.learn(callback=lambda *_: seen["after"].add(torch.get_num_threads()))
    assert seen == {"reward": {16}, "policy": {4}, "after": {16}}


def test_a_user_chooses_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in threads.CHOICES:
        monkeypatch.delenv(name, raising=False)
    assert not threads_are_chosen()
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    assert threads_are_chosen()


def test_cores_are_those_the_process_may_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(threads, "_QUOTAS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5, 6, 7}, raising=False)
    quotas = {"max 100000": 5, "250000 100000": 3, "50000 100000": 1, "900000 100000": 5, "nonsense": 5}
    for said, expected in quotas.items():
        (tmp_path / "cpu.max").write_text(said + "\n")
        cores.cache_clear()
        assert cores() == expected
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    for quota, expected in (("200000", 2), ("-1", 5)):
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
        (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
        cores.cache_clear()
        assert cores() == expected
    cores.cache_clear()
