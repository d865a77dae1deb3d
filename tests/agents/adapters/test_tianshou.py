from __future__ import annotations

import importlib
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from text_gym import AllowedTokens
from text_gym.errors import MissingLibraryError

NAME = "text_gym.agents.adapters.tianshou"


def test_without_the_library_the_error_has_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    monkeypatch.setitem(sys.modules, "tianshou.data", None)
    with pytest.raises(MissingLibraryError, match='pip install "tianshou"'):
        importlib.import_module(NAME)


@pytest.mark.parametrize("observation", ["tokens", "ids"])
def test_networks_read_what_a_vector_environment_of_tianshou_shows(observation: Any) -> None:
    pytest.importorskip("tianshou")
    adapter, venv = importlib.import_module(NAME), importlib.import_module("tianshou.env")
    data = importlib.import_module("tianshou.data")
    kwargs = {"observation": observation, "infos": "none"}
    envs = venv.DummyVectorEnv([lambda: gym.make("text_gym/Reverse-v0", **kwargs)] * 3)
    actor, critic = adapter.token_networks(envs.observation_space[0], envs.action_space[0], "gru", width=8)
    shown = envs.reset(seed=0)[0]
    shown = shown if observation == "ids" else data.Batch(list(shown))
    logits, state = actor(shown)
    assert (logits.shape, state) == ((3, 4), None)
    assert critic(shown).shape == (3, 1)
    one = np.asarray(shown[1]) if observation == "ids" else shown[1]
    with torch.no_grad():
        alone = actor.preprocess(data.Batch([one]) if observation == "tokens" else one[None])[0]
        assert torch.allclose(actor.preprocess(shown)[0][1], alone[0], atol=1e-6)


def test_forbidden_tokens_are_not_drawn() -> None:
    pytest.importorskip("tianshou")
    adapter, venv = importlib.import_module(NAME), importlib.import_module("tianshou.env")
    data = importlib.import_module("tianshou.data")
    kwargs: Any = {"infos": "none", "mask": AllowedTokens(ids=[1])}
    envs = venv.DummyVectorEnv([lambda: gym.make("text_gym/Reverse-v0", **kwargs)] * 3)
    actor, _ = adapter.token_networks(envs.observation_space[0], envs.action_space[0], width=8)
    logits, _ = actor(data.Batch(list(envs.reset(seed=0)[0])))
    assert torch.isfinite(logits).tolist() == [[False, True, False, True]] * 3  # 3 is EOS
