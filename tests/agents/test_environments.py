"""What agents take for a policy and an environment: played alike, or refused with the line to write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from gymnasium.wrappers import TransformReward
from gymnasium.wrappers.vector import TransformReward as VectorTransformReward

from text_gym import FunctionReward, TextVectorEnv, as_reward_source, load_task
from text_gym.agents import GRPO, PPO, GRPOConfig, Policy, PPOConfig, evaluate, rollout
from text_gym.agents.environments import as_text_vector_env
from text_gym.errors import ConfigError, RewardError, UnknownNameError

REVERSE = load_task("reverse", length=3)
PPO_ONCE = PPOConfig(iterations=1)


def policy(seed: int = 0) -> Policy:
    return Policy.new(REVERSE.tokenizer, layers=1, width=16, heads=2, context=16, seed=seed, device="cpu")


def single(**settings: Any) -> Any:
    return gym.make("text_gym/Reverse-v0", length=3, **settings)


def polite(completion: str) -> float:
    return float(completion.count("a"))


EQUAL: dict[str, tuple[Callable[[], Any], int]] = {
    "gymnasium.make": (single, 64),
    "make_vec": (lambda: gym.make_vec("text_gym/Reverse-v0", 8, length=3), 8),
    "SyncVectorEnv": (lambda: SyncVectorEnv([single] * 8), 8),
    "make_vec, sync": (lambda: gym.make_vec("text_gym/Reverse-v0", 8, "sync", length=3), 8),
    "a task": (lambda: REVERSE, 64),
}


@pytest.mark.parametrize("name", EQUAL)
def test_they_are_played_as_the_vector_environment_is(name: str) -> None:
    make, rows = EQUAL[name]
    learnt = PPO(policy(), make(), PPO_ONCE)
    learnt.learn()
    same = PPO(policy(), TextVectorEnv(task=REVERSE, num_envs=rows), PPO_ONCE)
    same.learn()
    assert learnt.env.num_envs == rows
    for own, other in zip(learnt.policy.parameters(), same.policy.parameters(), strict=True):
        assert (own == other).all()


@pytest.mark.parametrize("name", ["reverse", "text_gym/Reverse-v0"])
def test_names_are_tasks(name: str) -> None:
    agent = GRPO(policy(), name, GRPOConfig(group_size=8))
    assert agent.env.num_envs == 64
    assert agent.env.task is not None
    assert agent.env.task.name == "reverse"


def test_options_and_rewards_go_along() -> None:
    reward = FunctionReward(polite)
    env = as_text_vector_env(single(reward=reward, stop="b", limit="truncate", on_abstain="redraw"))
    assert env.reward is reward
    assert env.batch.options.stop == "b"
    assert env.batch.options.limit == "truncate"
    assert env.options.on_abstain == "redraw"
    sync = as_text_vector_env(SyncVectorEnv([lambda: single(reward=polite)] * 3))
    batch = rollout(policy(), sync, np.arange(3), seed=0)
    assert batch.scores.totals.tolist() == [polite(e.completion) for e in batch.episodes]


def test_a_policy_may_be_a_folder(tmp_path: Path) -> None:
    saved = policy(seed=3)
    saved.save(tmp_path)
    agent = PPO(tmp_path, single(), PPO_ONCE)
    assert all((a == b).all() for a, b in zip(agent.policy.parameters(), saved.parameters(), strict=True))
    assert PPO(str(tmp_path), REVERSE).policy.tokenizer.fingerprint == REVERSE.tokenizer.fingerprint


def test_an_evaluation_takes_the_same() -> None:
    own = evaluate(policy(), TextVectorEnv(task=REVERSE), REVERSE.held_out, seed=2)
    other = evaluate(policy(), single(), REVERSE.held_out, seed=2)
    assert [e.completion for e in own.episodes] == [e.completion for e in other.episodes]


def ppo(policy: Any, env: Any) -> Any:
    return PPO(policy, env)


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "SB3's policy name": (
        lambda: ppo("MlpPolicy", REVERSE),
        ConfigError,
        r"write Policy\.new\(env\.tokenizer, context=7\)",
    ),
    "the wrong way round": (lambda: ppo(single(), policy()), ConfigError, r"write Agent\(policy, env\)"),
    "both environments": (lambda: ppo(single(), REVERSE), ConfigError, r"write Agent\(policy, env\)"),
    "a model": (lambda: ppo(policy().model, REVERSE), ConfigError, r"Policy\(model, tokenizer\)"),
    "a policy that is none": (lambda: ppo(3, REVERSE), ConfigError, "needs a Policy, not int"),
    "another environment": (
        lambda: ppo(policy(), gym.make("CartPole-v1")),
        ConfigError,
        r'CartPoleEnv is no text environment; write TextVectorEnv\(task="products", num_envs=64\)',
    ),
    "another vector environment": (
        lambda: ppo(policy(), gym.make_vec("CartPole-v1", 2)),
        ConfigError,
        "CartPoleVectorEnv is no text environment",
    ),
    "an environment that is none": (lambda: ppo(policy(), 3), ConfigError, "not int; write TextVectorEnv"),
    "a name of no task": (lambda: ppo(policy(), "revers"), UnknownNameError, "did you mean 'reverse'"),
    "a wrapper": (
        lambda: ppo(policy(), TransformReward(single(), lambda r: -float(r))),
        ConfigError,
        "the wrapper TransformReward would be passed over",
    ),
    "a wrapper of many": (
        lambda: ppo(policy(), VectorTransformReward(TextVectorEnv(task=REVERSE, num_envs=2), np.negative)),
        ConfigError,
        "the wrapper TransformReward would be passed over",
    ),
    "wrapped parts": (
        lambda: ppo(policy(), SyncVectorEnv([lambda: TransformReward(single(), lambda r: -float(r))])),
        ConfigError,
        "TransformReward",
    ),
    "different rewards": (
        lambda: ppo(policy(), SyncVectorEnv([single, lambda: single(reward=polite)])),
        ConfigError,
        "environments 0 and 1 of the SyncVectorEnv have different rewards",
    ),
    "different options": (
        lambda: ppo(policy(), SyncVectorEnv([single, single, lambda: single(stop="a")])),
        ConfigError,
        "environments 0 and 2 of the SyncVectorEnv have different options",
    ),
    "a reward's name, elsewhere": (
        lambda: as_reward_source(cast("Any", "length")),
        RewardError,
        r"from text_gym\.reward_models import load_reward` and reward=load_reward\('length'\)",
    ),
    "a reward's name": (
        lambda: single(reward="length"),
        ConfigError,
        r"text_gym\.reward_models\.load_reward\('length'\)",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_played_is_refused_with_the_line_to_write(what: str) -> None:
    act, kind, said = REFUSED[what]
    with pytest.raises(kind, match=said):
        act()


def test_environments_of_other_processes_are_refused() -> None:
    env = AsyncVectorEnv([single])
    try:
        with pytest.raises(ConfigError, match="AsyncVectorEnv plays its environments in other processes"):
            PPO(policy(), env)
    finally:
        env.close()


@pytest.mark.parametrize(
    "line", ["Policy.new(env.tokenizer, context=7)", 'TextVectorEnv(task="products", num_envs=64)']
)
def test_the_lines_to_write_run(line: str) -> None:
    env = TextVectorEnv(task=REVERSE, num_envs=2)
    made = eval(line, {"Policy": Policy, "TextVectorEnv": TextVectorEnv, "env": env})
    if isinstance(made, Policy):
        PPO(made, env, PPO_ONCE).learn()
    else:
        assert made.num_envs == 64


@pytest.mark.parametrize(
    ("agent", "config", "told"),
    [
        (PPO, {"iterations": 1}, r"the settings are dict; write PPOConfig\(...\)"),
        (PPO, GRPOConfig(), r"the settings are GRPOConfig; write PPOConfig\(...\)"),
        (GRPO, PPOConfig, r"the settings are the class PPOConfig; write GRPOConfig\(...\)"),
    ],
)
def test_settings_of_another_agent_are_named(agent: Any, config: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        agent(policy(), REVERSE, config)
    assert type(agent(policy(), REVERSE).config) is agent.config_class
