"""Decode steps as CUDA graphs, on a simulated device; what a real one would launch is run again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.models.test_cuda import make_env, make_policy
from tests.simulated_cuda import CUDA, SimulatedCUDA
from text_gym.agents import rollout
from text_gym.models import graphs
from text_gym.models.graphs import SWITCH, GraphedReader, graphed
from text_gym.models.sizes import sizes_of, using


def test_graphs_are_for_cuda_and_for_those_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    reader: Any = torch.zeros  # nothing is read
    assert graphed(reader, CUDA) is reader
    monkeypatch.setenv(SWITCH, "0")
    assert graphed(reader, CUDA) is reader
    monkeypatch.setenv(SWITCH, "1")
    assert isinstance(graphed(reader, CUDA), GraphedReader)
    assert graphed(reader, torch.device("cpu")) is reader


def test_a_rollout_of_graphs_is_an_eager_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows end early, so that the batch shrinks, and several buckets are filled."""
    recorded, replayed = [], []

    def capture(work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        states = work()
        recorded.append(len(states))
        states.fill_(torch.nan)  # what a graph has not been launched for is not there

        def replay() -> None:
            replayed.append(len(states))
            states.copy_(work())

        return replay, states

    monkeypatch.setattr(graphs, "capture", capture)
    with using(replace(sizes_of(CUDA), width_bucket=8), CUDA), SimulatedCUDA() as gpu:
        expected = rollout(make_policy("llama"), make_env(20), np.arange(8))
        assert not recorded
        monkeypatch.setenv(SWITCH, "1")
        found = rollout(make_policy("llama"), make_env(20), np.arange(8))
        assert torch.equal(found.log_probs.cpu(), expected.log_probs.cpu())
    assert gpu.faults == []
    assert [e.completion for e in found.episodes] == [e.completion for e in expected.episodes]
    assert len(set(recorded)) > 1, "the batch never shrank"
    assert len(replayed) > len(recorded) > 2
