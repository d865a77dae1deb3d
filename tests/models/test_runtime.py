"""Guards that catch planted bugs: dropout left on, a reference that learns, numbers gone bad; and threads."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.small_models import KINDS, parameters_of, same_parameters, small_policy
from text_gym import Episode, RewardSource, TextVectorEnv, WordTokenizer
from text_gym.agents import GRPO, PPO, RLOO, GRPOConfig, Policy, PPOConfig, RLOOConfig, Rollout
from text_gym.agents.training.metrics import Metrics
from text_gym.errors import GuardError, NonFiniteError
from text_gym.models import runtime
from text_gym.models.runtime import (
    check_dropout_off,
    check_finite,
    cores,
    fingerprint,
    limited_threads,
    memory_mib,
    reward_modules,
    threads_are_chosen,
    unchanged,
    worthwhile_threads,
)
from text_gym.rewards.transforms import Clip


def world(**changes: Any) -> TextVectorEnv:
    settings: dict[str, Any] = {"prompts": ["a", "bcd"], "reward": lambda completion: completion.count("a")}
    tokenizer = WordTokenizer("abcdefghi", separator="")
    return TextVectorEnv(tokenizer=tokenizer, max_tokens=6, num_envs=16, **settings | changes)


def agent(policy: Policy | None = None, env: TextVectorEnv | None = None, **settings: Any) -> PPO:
    settings = {"iterations": 3, "learning_rate": 1e-2, "warmup": 0} | settings
    return PPO(policy or small_policy(), env or world(), PPOConfig(**settings))


# Weights that are not finite


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_a_weight_that_is_not_finite_is_named(broken: float) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    check_finite(model)
    with torch.no_grad():
        model.get_parameter("1.bias")[0] = broken
    with pytest.raises(NonFiniteError, match=r"1\.bias holds NaN or infinity"):
        check_finite(model)


# Dropout

DROPOUT: dict[str, dict[str, Any]] = {
    "gpt2": {"resid_pdrop": 0.1},
    "llama": {"attention_dropout": 0.1},
    "qwen2": {"attention_dropout": 0.1},
    "gemma": {"attention_dropout": 0.1},
}


@pytest.mark.parametrize("kind", DROPOUT)
def test_dropout_left_on_is_found_wherever_a_model_hides_it(kind: str) -> None:
    policy = small_policy(kind, **DROPOUT[kind])
    check_dropout_off(policy, "the policy")
    policy.train()
    tokens = torch.randint(0, 9, (8, 12))
    assert not torch.equal(
        policy.hidden(tokens)[0], policy.hidden(tokens)[0]
    )  # it does what it is feared for
    with pytest.raises(GuardError, match=r"dropout is on in the policy \(model\..*call .eval\(\)"):
        check_dropout_off(policy, "the policy")
    small = agent(small_policy(kind, **DROPOUT[kind]))
    small.policy.train()
    with pytest.raises(GuardError, match="dropout is on in the policy"):
        small.learn(1)
    assert small.episodes_played == 0


def test_attention_dropout_of_gpt2_hides_behind_a_module_that_is_off() -> None:
    policy = small_policy(attn_pdrop=0.5)
    policy.train()
    for module in policy.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    tokens = torch.randint(0, 9, (8, 12))
    assert not torch.equal(policy.hidden(tokens)[0], policy.hidden(tokens)[0])
    with pytest.raises(GuardError, match="attn"):
        check_dropout_off(policy, "the policy")


@pytest.mark.parametrize("kind", KINDS)
def test_training_mode_without_dropout_is_allowed(kind: str) -> None:
    policy = small_policy(kind)
    policy.train()
    check_dropout_off(policy, "the policy")


def test_the_reference_and_reward_models_are_looked_at_too() -> None:
    ppo = agent()
    ppo.reference = small_policy(resid_pdrop=0.1)
    ppo.reference.train()
    with pytest.raises(GuardError, match="dropout is on in the reference policy"):
        ppo.learn(1)
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    ppo = agent(env=world(reward=Learned(model)))
    with pytest.raises(GuardError, match="dropout is on in the model of reward 'learned'"):
        ppo.learn(1)


# Models that must not learn


class Learned(RewardSource):
    """A reward that keeps a network."""

    name = "learned"

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def score(self, episodes: Any) -> list[float]:
        return [float(len(e.completion)) for e in episodes]


def test_networks_inside_rewards_are_found() -> None:
    model = nn.Linear(2, 2)
    source = Clip(Learned(model) + 2 * Learned(nn.Linear(1, 1)), 0, 1)
    assert model in reward_modules(source).values()
    assert reward_modules(Learned(model)) == {"the model of reward 'learned'": model}


def test_a_reference_that_is_the_policy_is_refused() -> None:
    policy = small_policy()
    with pytest.raises(GuardError, match=r"the reference policy shares .* with the policy"):
        PPO(policy, world(), reference=policy)
    with pytest.raises(GuardError, match="the model of reward 'learned' shares"):
        agent(policy, world(reward=Learned(policy.model)))


class Careless(PPO):
    """An agent whose update touches another model as well."""

    victim: nn.Module

    def update(self, batch: Rollout) -> Metrics:
        metrics = super().update(batch)
        with torch.no_grad():
            parameters = list(self.victim.parameters())
            parameters[len(parameters) // 2].view(-1)[0] += 1e-6
        return metrics


def test_a_reference_that_learns_along_is_caught() -> None:
    careless = Careless(small_policy(), world(), PPOConfig(iterations=1))
    careless.victim = careless.reference
    with pytest.raises(GuardError, match="the reference policy changed while the policy learnt: model"):
        careless.learn(1)
    assert not careless.between_iterations


def test_a_reward_model_that_learns_along_is_caught() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    careless = Careless(small_policy(), world(reward=Learned(model)), PPOConfig(iterations=1))
    careless.victim = model
    with pytest.raises(GuardError, match="the model of reward 'learned' changed"):
        careless.learn(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_one_bit_of_one_weight_changes_the_fingerprint(dtype: torch.dtype) -> None:
    policy = small_policy(dtype=dtype)
    before = fingerprint(policy)
    assert fingerprint(policy.frozen()) == before
    for i, (_, parameter) in enumerate(policy.named_parameters()):
        view = parameter.data.view(-1).view(torch.uint8)
        view[1] ^= 4
        after = fingerprint(policy)
        assert [j for j, (a, b) in enumerate(zip(before, after, strict=True)) if a != b] == [i]
        view[1] ^= 4
    with unchanged({"it": policy}):
        pass


# Numbers that are not finite


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["advantages", "returns", "values", "log_probs", "reference"])
def test_what_made_a_loss_nan_is_named(name: str, poison: float) -> None:
    class Poisoned(PPO):
        def loss(self, now: Any, old: dict[str, Tensor], part: Any) -> Any:
            old[name][0, 0] = poison
            return super().loss(now, old, part)

    settings = PPOConfig(iterations=1, kl_in="loss", kl_estimator="k3", minibatches=1, value_clip=None)
    ppo = Poisoned(small_policy(), world(), settings)
    before = parameters_of(ppo.policy)
    with pytest.raises(NonFiniteError, match=rf"in iteration 1; nothing was updated.*before it: {name}$"):
        ppo.learn(1)
    assert same_parameters(ppo.policy, before)


def test_logits_of_an_update_are_named_as_todays() -> None:
    """An overflow in the update alone: the rollout was fine."""

    class Overflowing(PPO):
        def update(self, batch: Rollout) -> Metrics:
            with torch.no_grad():
                self.policy.value_head.weight.fill_(3e38)
            return super().update(batch)

    with pytest.raises(NonFiniteError, match="not finite before it: now values"):
        Overflowing(small_policy(), world(), PPOConfig(iterations=1)).learn(1)


@pytest.mark.parametrize("agent_class", [PPO, GRPO, RLOO])
def test_steps_that_break_the_weights_stop_the_run_and_are_never_saved(
    agent_class: Any, tmp_path: Any
) -> None:
    class Breaking(agent_class):  # type: ignore[misc]
        def update(self, batch: Rollout) -> Metrics:
            metrics: Metrics = super().update(batch)
            with torch.no_grad():
                self.policy.value_head.weight[0, 0] = math.nan
            return metrics

    configs: dict[Any, Any] = {PPO: PPOConfig, GRPO: GRPOConfig, RLOO: RLOOConfig}
    broken = Breaking(small_policy(), world(), configs[agent_class](iterations=5))
    with pytest.raises(NonFiniteError, match=r"value_head\.weight holds NaN"):
        broken.learn()
    assert broken.iteration == 1
    with pytest.raises(NonFiniteError, match="neither trained nor saved"):
        broken.save(tmp_path / "x", resumable=True)
    assert list(tmp_path.iterdir()) == []


# Metrics


def test_metrics_that_every_run_logs() -> None:
    seen: list[Metrics] = []
    agent(iterations=1, entropy_coef=0.01).learn(callback=lambda _, metrics: seen.append(metrics))
    expected = (
        "entropy clip_fraction explained_variance ratio ratio_max kl kl_per_token length length_max eos "
        "truncated reward reward_std grad_norm tokens_per_second memory_mib policy_loss value_loss"
    )
    assert set(expected.split()) <= seen[0].keys()
    assert all(math.isfinite(value) for value in seen[0].values())
    assert seen[0]["eos"] + seen[0]["truncated"] == 1
    assert abs(seen[0]["ratio"] - 1) < 0.2


def test_memory_is_that_of_this_process() -> None:
    found = memory_mib(torch.device("cpu"))["memory_mib"]
    assert 50 < found < 100_000
    held = np.ones(2**28, dtype=np.uint8)  # 256 MiB, touched
    assert memory_mib(torch.device("cpu"))["memory_mib"] >= min(found + 50, 300)
    del held


# Threads

SMALL = nn.Linear(10, 10)
LARGE = nn.Linear(runtime.SMALL_WEIGHTS // 10, 10, device="meta")  # and biases


@pytest.fixture
def sixteen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sixteen threads on eight cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(16)
    monkeypatch.setattr(runtime, "cores", lambda: 8)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("sixteen")
def test_small_models_get_few_threads_and_large_ones_the_cores() -> None:
    for models, expected in (((SMALL,), 4), ((LARGE,), 8), ((SMALL, LARGE), 8), ((), 4)):
        assert worthwhile_threads(models) == expected
        with limited_threads(*models):
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == 16


@pytest.mark.usefixtures("sixteen")
def test_a_smaller_choice_stays_and_an_error_changes_nothing() -> None:
    torch.set_num_threads(1)
    with limited_threads(SMALL):
        assert torch.get_num_threads() == 1
    torch.set_num_threads(3)
    with pytest.raises(ZeroDivisionError), limited_threads(LARGE):
        raise ZeroDivisionError
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("sixteen")
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


@pytest.mark.usefixtures("sixteen")
def test_a_user_chooses_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in runtime.CHOICES:
        monkeypatch.delenv(name, raising=False)
    assert not threads_are_chosen()
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    assert threads_are_chosen()


@pytest.mark.usefixtures("sixteen")
def test_cores_are_those_the_process_may_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runtime, "_QUOTAS", tmp_path)
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


# Freed memory

FAULTS = """
from tests.page_faults import faults
from text_gym.models.runtime import keep_freed_memory

faults()
print(faults(), keep_freed_memory(), faults() and faults())
"""


def told_by_a_process(**choices: str) -> list[str]:
    """What a process of its own prints: page faults before, what it did, page faults after."""
    own = {name: value for name, value in os.environ.items() if name not in runtime.ALLOCATOR_CHOICES}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], env={**own, **choices}, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_touched_once() -> None:
    before, kept, after = told_by_a_process()
    assert kept == "True"
    assert int(before) > 10_000  # 240 MiB in pages of 4 KiB are 61,440
    assert int(after) < 100


def test_who_has_tuned_the_allocator_is_left_alone() -> None:
    _, kept, _ = told_by_a_process(MALLOC_TOP_PAD_="131072")
    assert kept == "False"
