from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.small_models import small_policy
from text_gym.agents import Policy
from text_gym.agents.sampling.own_code import own_code_cache
from text_gym.models.cpu import kernels
from text_gym.models.cpu.gpt2_cache import gpt2_cache
from text_gym.models.kv_cache import KeyValues, KVCache, LayerCache, Place

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


@torch.no_grad()
def unpadded(policy: Policy, rows: list[list[int]]) -> torch.Tensor:
    """The last hidden state of each text, read alone, without a cache."""
    return torch.stack([policy.hidden(torch.tensor([ids])).last_hidden_state[0, -1] for ids in rows])


def cache_of(policy: Policy, way: str, rows: int, width: int) -> KVCache:
    """A cache by the kernels (where there are any), by written out operators, or by the model's own code."""
    if way == "own code":
        return own_code_cache(policy, rows, width)
    with pytest.MonkeyPatch.context() as patch:
        if way == "operators":
            patch.setattr(kernels, "_kernels", lambda: None)
        cache = gpt2_cache(policy.model.base_model, rows, width)
    assert way == "kernels" or type(cache) is KeyValues
    return cache


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("kind", "way"),
    [
        *(("gpt2", way) for way in ("kernels", "operators", "own code")),
        *((kind, "own code") for kind in ("llama", "qwen2", "qwen3", "gemma")),
    ],
)
@pytest.mark.parametrize("ragged", [False, True])
def test_rows_read_in_a_batch_equal_texts_read_alone(
    kind: str, way: str, dtype: torch.dtype, ragged: bool
) -> None:
    policy = small_policy(kind, dtype=dtype)
    rng = np.random.default_rng(0)
    lengths = np.array([3, 1, 6, 4]) if ragged else np.full(4, 4)
    rows = [rng.integers(0, 11, n).tolist() for n in lengths]
    cache = cache_of(policy, way, 4, 24)
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


@pytest.mark.parametrize("way", ["kernels", "operators", "own code"])
def test_rows_may_be_dropped_before_anything_was_appended(way: str) -> None:
    policy = small_policy(dtype=torch.float64)
    cache = cache_of(policy, way, 3, 8)
    with torch.no_grad():
        cache.prefill(torch.tensor([[1, 2], [3, 4], [5, 6]]), np.array([2, 2, 2]))
        cache.keep(np.array([2]))
        states = cache.append(torch.tensor([7]), np.array([2]))
    assert torch.allclose(states, unpadded(policy, [[5, 6, 7]]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("way", ["kernels", "operators", "own code"])
def test_rows_may_begin_with_what_others_have_read(way: str) -> None:
    policy = small_policy()
    cache = cache_of(policy, way, 5, 8)
    sources = np.array([0, 1, 0, 3, 1])
    with torch.no_grad():
        cache.prefill(torch.tensor([[1, 2], [3, 0], [5, 6]]), np.array([2, 1, 2]), rows=np.array([0, 1, 3]))
        cache.spread(sources, 2)
        cache.append(torch.tensor([7, 8, 9, 10, 1]), np.array([2, 1, 2, 2, 1]))
        cache.keep(np.array([4, 2, 3]))
        states = cache.append(torch.tensor([2, 3, 4]), np.array([2, 3, 3]))
    expected = unpadded(policy, [[3, 1, 2], [1, 2, 9, 3], [5, 6, 10, 4]])
    assert torch.allclose(states, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("way", ["kernels", "operators", "own code"])
def test_states_can_be_trained_on(way: str) -> None:
    """What the fused reader returns is no inference tensor, which autograd would refuse."""
    policy = small_policy()
    cache = cache_of(policy, way, 1, 8)
    states = cache.prefill(torch.tensor([[1, 2]]), np.array([2]))
    policy.values(states).sum().backward()
    assert policy.value_head.weight.grad is not None
    assert torch.equal(policy.value_head.weight.grad, states)


@pytest.mark.parametrize("way", ["kernels", "operators", "own code"])
def test_extreme_activations_equal_gelu(way: str) -> None:
    """x · sigmoid(2u) at values where tanh and exp saturate."""
    policy = small_policy(dtype=torch.float64, layer_norm_epsilon=1e-12)
    with torch.no_grad():
        for block in policy.model.transformer.h:
            block.mlp.c_fc.weight.mul_(300)
    cache = cache_of(policy, way, 1, 8)
    states = cache.prefill(torch.tensor([[1, 2, 3]]), np.array([3]))
    assert torch.isfinite(states).all()
    assert torch.allclose(states, unpadded(policy, [[1, 2, 3]]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("way", ["kernels", "operators", "own code"])
def test_rows_begin_anew_while_others_go_on(way: str) -> None:
    """As libraries with loops of their own have it: a row restarts, the others grow or stand still."""
    policy = small_policy(dtype=torch.float64)
    cache = cache_of(policy, way, 3, 8)
    with torch.no_grad():
        cache.prefill(torch.tensor([[1, 2, 3], [4, 5, 0], [6, 0, 0]]), np.array([3, 2, 1]))
        cache.append(torch.tensor([7, 8, 9]), np.array([3, 2, 1]))
        cache.prefill(torch.tensor([[10, 1]]), np.array([2]), rows=np.array([1]))
        states = cache.append(torch.tensor([2, 3, 9]), np.array([4, 2, 1]))  # row 2 reads its token again
    rows = [[1, 2, 3, 7, 2], [10, 1, 3], [6, 9]]
    assert torch.allclose(states, unpadded(policy, rows), rtol=0, atol=1e-12)


@pytest.mark.parametrize("way", ["kernels", "operators", "own code"])
def test_a_renewed_cache_reads_with_the_weights_as_they_are(way: str) -> None:
    policy = small_policy()
    cache = cache_of(policy, way, 1, 8)
    with torch.no_grad():
        cache.prefill(torch.tensor([[1, 2]]), np.array([2]))
        policy.model.transformer.h[0].mlp.c_fc.weight.mul_(2)
        cache.renew()
        states = cache.prefill(torch.tensor([[1, 2]]), np.array([2]))
    assert torch.allclose(states, unpadded(policy, [[1, 2]]), rtol=0, atol=1e-5)


def test_what_lay_in_new_memory_is_never_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that was not written yet may hold NaN, and 0 · NaN is NaN."""
    empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda x, *shape: empty(x, *shape).fill_(torch.nan))
    policy = small_policy()
    cache = cache_of(policy, "operators", 2, 8)
    with torch.no_grad():
        cache.prefill(torch.tensor([[1, 2, 3], [4, 0, 0]]), np.array([3, 1]))
        for at in range(3):
            states = cache.append(torch.tensor([5, 6]), np.array([3 + at, 1 + at]))
    assert torch.isfinite(states).all()


def test_the_layers_write_where_they_are_told() -> None:
    """Numbers that tell row, column and head apart, put into the cache and looked up again."""
    place = Place(slice(None))
    layer = LayerCache(rows=3, width=4, place=place)

    def column(t: int, rows: list[int]) -> torch.Tensor:
        return torch.tensor([[[[100.0 * row + 10 * head + t]] for head in range(2)] for row in rows])

    first = torch.cat([column(t, [0, 1, 2]) for t in range(2)], dim=2)  # (3 rows, 2 heads, 2 tokens, size 1)
    keys, values = layer.update(first, -first)
    assert torch.equal(keys, first)
    assert torch.equal(values, -first)
    place.column, place.width = torch.tensor([2, 1, 2]), 3  # row 1 overwrites its second token
    keys, values = layer.update(column(2, [0, 1, 2]), -column(2, [0, 1, 2]))
    assert keys.shape == values.shape == (3, 2, 3, 1)
    assert keys[0, 1, :, 0].tolist() == [10, 11, 12]
    assert keys[1, 0, :2, 0].tolist() == [100, 102]
    assert torch.equal(values[2], -keys[2])
    layer.keep(2, target=torch.tensor([0]), source=torch.tensor([2]))
    place.column, place.width = 3, 4
    heads, _ = layer.append(column(3, [2, 1])[:, :, 0], -column(3, [2, 1])[:, :, 0])
    assert heads.shape == (4, 1, 4)  # (rows · heads, size, W), transposed
    assert heads[:2, 0].tolist() == [[200, 201, 202, 203], [210, 211, 212, 213]]
