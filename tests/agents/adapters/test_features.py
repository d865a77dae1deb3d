from __future__ import annotations

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pytest
import torch
from gymnasium.vector import AutoresetMode

from text_gym import ByteTokenizer, TextEnv, TextVectorEnv
from text_gym.agents import Policy
from text_gym.agents.adapters.features import FeatureObservation, VectorFeatures
from text_gym.errors import ConfigError


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy.new(ByteTokenizer(), layers=2, width=16, context=24)


def direct(policy: Policy, tokens: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        states = policy.model.base_model(input_ids=torch.from_numpy(tokens[None, :length])).last_hidden_state
    state: npt.NDArray[np.float32] = states[0, -1].numpy()
    return state


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_features_are_the_uncached_hidden_states(policy: Policy, mode: AutoresetMode) -> None:
    def make() -> TextVectorEnv:
        prompts = ["Hello", "Hi", "A longer one"]
        return TextVectorEnv(prompts, ByteTokenizer(), lambda c: 0.0, 6, num_envs=3, autoreset_mode=mode)

    plain, features = make(), VectorFeatures(make(), policy)
    tokens, _ = plain.reset(seed=0)
    seen, _ = features.reset(seed=0)
    rng = np.random.default_rng(0)
    finals = 0
    for _ in range(20):
        for i in range(3):
            wanted = direct(policy, tokens["tokens"][i], int(tokens["length"][i, 0]))
            np.testing.assert_allclose(seen[i], wanted, atol=1e-5)
        actions = rng.integers(250, 258, 3)
        tokens, *_, info = plain.step(actions)
        seen, *_, own = features.step(actions)
        assert seen in features.observation_space
        for i in np.flatnonzero(info.get("_final_obs", np.zeros(3))).tolist():
            last = info["final_obs"][i]
            wanted = direct(policy, last["tokens"], int(last["length"][0]))
            np.testing.assert_allclose(own["final_obs"][i], wanted, atol=1e-5)
            finals += 1
    assert finals > 0 or mode is AutoresetMode.NEXT_STEP


def test_single_environment(policy: Policy) -> None:
    env = FeatureObservation(TextEnv(["Hello"], ByteTokenizer(), lambda c: 0.0, 6), policy)
    state, _ = env.reset(seed=0)
    np.testing.assert_allclose(state, direct(policy, np.array(list(b"Hello")), 5), atol=1e-5)
    state, *_ = env.step(np.int64(33))
    np.testing.assert_allclose(state, direct(policy, np.array(list(b"Hello!")), 6), atol=1e-5)


def test_wrong_order_tokenizer_or_environment_is_named(policy: Policy) -> None:
    with pytest.raises(ConfigError, match="different tokenizers"):
        FeatureObservation(gym.make("text_gym/Copy-v0"), policy)
    with pytest.raises(ConfigError, match="CartPoleEnv"):
        FeatureObservation(gym.make("CartPole-v1"), policy)
    env = FeatureObservation(TextEnv(["Hello"], ByteTokenizer(), lambda c: 0.0, 6), policy)
    with pytest.raises(ConfigError, match="put the feature wrapper on first"):
        FeatureObservation(env, policy)
