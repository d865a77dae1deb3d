from __future__ import annotations

import importlib
import sys
from typing import Any

import gymnasium as gym
import pytest
import torch

import text_gym  # noqa: F401
from text_gym import MinLength
from text_gym.errors import MissingLibraryError

NAME = "text_gym.agents.adapters.rllib"


def test_without_the_library_the_error_has_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    monkeypatch.setitem(sys.modules, "ray.rllib.core.columns", None)
    with pytest.raises(MissingLibraryError, match=r'pip install "ray\[rllib\]"'):
        importlib.import_module(NAME)


@pytest.mark.parametrize("observation", ["tokens", "ids"])
def test_the_module_reads_batches_and_sequences_and_obeys_masks(observation: Any) -> None:
    pytest.importorskip("ray.rllib")
    adapter = importlib.import_module(NAME)
    mask = MinLength(2) if observation == "tokens" else None
    env = gym.make("text_gym/Reverse-v0", observation=observation, mask=mask)
    module = adapter.TokenRLModule(
        observation_space=env.observation_space,
        action_space=env.action_space,
        model_config={"encoder": "gru", "width": 8},
    )
    shown: Any = env.reset(seed=0)[0]
    batch = (
        {k: torch.as_tensor(v).expand(2, 5, -1) for k, v in shown.items()}
        if observation == "tokens"
        else torch.as_tensor(shown).expand(2, 5, -1)
    )
    logits = module.forward_train({"obs": batch})["action_dist_inputs"]
    assert logits.shape == (2, 5, 4)
    assert module.compute_values({"obs": batch}).shape == (2, 5)
    if mask is not None:
        assert torch.softmax(logits, -1)[..., 3].abs().max() == 0  # EOS comes later
