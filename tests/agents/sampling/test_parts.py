"""A rollout that an accelerator has no memory for is played in parts, and is the same rollout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.models.test_cuda import make_env, make_policy
from text_gym.agents import Policy, rollout
from text_gym.agents.sampling import sampler
from text_gym.agents.sampling.decoder import Decoder
from text_gym.errors import ConfigError


class Scarce(Decoder):
    """A decoder that runs out of memory where there are more than `ROOM` rows, after some steps."""

    ROOM = 3
    sizes: list[int]
    read = 0

    def __init__(self, policy: Policy, tokens: Any, *args: Any, **kwargs: Any) -> None:
        self.sizes.append(len(tokens))
        super().__init__(policy, tokens, *args, **kwargs)

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        self.read += 1
        if self.read == 2 and len(tokens) > self.ROOM:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")
        return super().step(tokens)


@pytest.fixture
def scarce(monkeypatch: pytest.MonkeyPatch) -> type[Scarce]:
    class Fresh(Scarce):
        sizes: list[int] = []  # noqa: RUF012

    monkeypatch.setattr(sampler, "Decoder", Fresh)
    return Fresh


def test_a_rollout_without_memory_is_halved_and_stays_the_same(
    scarce: type[Scarce], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = make_policy("gpt2", "cpu")
    found = rollout(policy, make_env(), np.arange(8), seed=3)
    assert scarce.sizes == [8, 4, 2, 2, 2, 2]
    again = rollout(policy, make_env(), np.arange(8), seed=3)
    assert scarce.sizes[6:] == [2, 2, 2, 2], "what did not fit was tried again"
    monkeypatch.setattr(sampler, "Decoder", Decoder)
    expected = rollout(make_policy("gpt2", "cpu"), make_env(), np.arange(8), seed=3)
    for batch in (found, again):
        assert [e.completion for e in batch.episodes] == [e.completion for e in expected.episodes]
        assert torch.equal(batch.rewards, expected.rewards)
        assert torch.allclose(batch.log_probs, expected.log_probs, atol=1e-5)
        assert torch.allclose(batch.values, expected.values, atol=1e-5)


def test_a_single_row_without_memory_is_an_error(
    scarce: type[Scarce], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scarce, "ROOM", 0)
    with pytest.raises(ConfigError, match=r"not enough memory for a single text of \d+ tokens.*9\.00 GiB"):
        rollout(make_policy("gpt2", "cpu"), make_env(), np.arange(8))
