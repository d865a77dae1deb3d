from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.small_models import small_policy
from text_gym.agents import Policy
from text_gym.agents.sampling.kv_cache import AnyReader, KeyValues
from text_gym.models.cpu.gpt2_reader import GPT2Reader

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


@torch.no_grad()
def unpadded(policy: Policy, rows: list[list[int]]) -> torch.Tensor:
    """The last hidden state of each text, read alone, without a cache."""
    return torch.stack([policy.hidden(torch.tensor([ids])).last_hidden_state[0, -1] for ids in rows])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("gpt2", GPT2Reader),
        ("gpt2", AnyReader),
        *((k, AnyReader) for k in ("llama", "qwen2", "qwen3", "gemma")),
    ],
)
@pytest.mark.parametrize("ragged", [False, True])
def test_rows_read_in_a_batch_equal_texts_read_alone(
    kind: str, make: type[AnyReader | GPT2Reader], dtype: torch.dtype, ragged: bool
) -> None:
    policy = small_policy(kind, dtype=dtype)
    rng = np.random.default_rng(0)
    lengths = np.array([3, 1, 6, 4]) if ragged else np.full(4, 4)
    rows = [rng.integers(0, 11, n).tolist() for n in lengths]
    reader = AnyReader(policy) if make is AnyReader else GPT2Reader(policy.model.base_model)
    cache = KeyValues(policy, 4, 24, reader)
    padded = torch.tensor([ids + [0] * (6 - len(ids)) for ids in rows])

    def check(states: torch.Tensor) -> None:
        expected = unpadded(policy, rows)
        assert torch.allclose(states, expected, rtol=0, atol=TOLERANCE[dtype] * expected.abs().max().item())

    with torch.no_grad():
        check(cache.prefill(padded, lengths))
        for t in range(12):
            if t in (1, 5):  # right after the first token, and well under way
                kept = np.array([0, 3, 2]) if t == 1 else np.array([1, 0])
                cache.keep(kept)
                rows, lengths = [rows[i] for i in kept], lengths[kept]
            tokens = rng.integers(0, 11, len(rows))
            states = cache.append(torch.from_numpy(tokens), lengths)
            rows = [[*ids, int(token)] for ids, token in zip(rows, tokens, strict=True)]
            lengths = lengths + 1
            check(states)


def test_rows_may_be_dropped_before_anything_was_appended() -> None:
    policy = small_policy(dtype=torch.float64)
    cache = KeyValues(policy, 3, 8, GPT2Reader(policy.model.base_model))
    with torch.no_grad():
        cache.prefill(torch.tensor([[1, 2], [3, 4], [5, 6]]), np.array([2, 2, 2]))
        cache.keep(np.array([2]))
        states = cache.append(torch.tensor([7]), np.array([2]))
    assert torch.allclose(states, unpadded(policy, [[5, 6, 7]]), rtol=0, atol=1e-12)


def test_states_can_be_trained_on() -> None:
    """What the fused reader returns is no inference tensor, which autograd would refuse."""
    policy = small_policy()
    cache = KeyValues(policy, 1, 8, GPT2Reader(policy.model.base_model))
    states = cache.prefill(torch.tensor([[1, 2]]), np.array([2]))
    policy.values(states).sum().backward()
    assert policy.value_head.weight.grad is not None
    assert torch.equal(policy.value_head.weight.grad, states)


def test_extreme_activations_equal_gelu() -> None:
    """x · sigmoid(2u) at values where tanh and exp saturate."""
    policy = small_policy(dtype=torch.float64, layer_norm_epsilon=1e-12)
    with torch.no_grad():
        for block in policy.model.transformer.h:
            block.mlp.c_fc.weight.mul_(300)
    cache = KeyValues(policy, 1, 8, GPT2Reader(policy.model.base_model))
    states = cache.prefill(torch.tensor([[1, 2, 3]]), np.array([3]))
    assert torch.isfinite(states).all()
    assert torch.allclose(states, unpadded(policy, [[1, 2, 3]]), rtol=1e-10, atol=1e-10)
