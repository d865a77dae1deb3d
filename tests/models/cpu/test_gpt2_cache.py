"""Reading GPT-2 with the kernels' cache; that any cache equals texts read alone is in `test_kv_cache`."""

from __future__ import annotations

import os
import shutil
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.small_models import small_policy
from text_gym.models.cpu import kernels as module
from text_gym.models.cpu.gpt2_cache import GPT2Reader, gpt2_cache, gpt2_parts
from text_gym.models.cpu.kernel_cache import KernelCache
from text_gym.models.cpu.kernels import Kernels, kernels_for
from text_gym.models.kv_cache import KeyValues, KVCache


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Kernels:
    monkeypatch.setattr(module, "cores", lambda: 2)  # two threads are tried even where there is one core
    found = kernels_for(torch.zeros(1))
    if found is None and shutil.which(os.environ.get("CC") or "cc") is None:
        pytest.skip("no compiler here")
    assert found is not None, "there is a compiler, but it did not compile kernels.c"
    return found


@pytest.mark.parametrize(("heads", "size"), [(4, 32), (4, 24), (2, 16), (1, 64), (2, 80), (3, 5)])
def test_reading_equals_that_without_kernels(kernels: Kernels, heads: int, size: int) -> None:
    """Rows of different lengths, of a model with each size of a head, and unequal epsilons."""
    policy = small_policy(n_embd=heads * size, n_head=heads, scale_attn_by_inverse_layer_idx=True)
    policy.model.transformer.h[0].ln_2.eps, policy.model.transformer.ln_f.eps = 1e-2, 1e-1
    rng = np.random.default_rng(0)
    tokens, lengths = torch.from_numpy(rng.integers(0, 11, (4, 6))), np.array([3, 1, 6, 4])
    trunk = policy.model.base_model
    without = KeyValues(GPT2Reader(trunk), len(trunk.h), 4, 24, like=trunk.wte.weight)
    caches: list[KVCache] = [KernelCache(kernels, partial(gpt2_parts, trunk), 4, 24), without]
    with torch.no_grad():
        states = [cache.prefill(tokens, lengths) for cache in caches]
        for t in range(18):
            found, wanted = states
            assert torch.allclose(found, wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())
            if t == 6:
                for cache in caches:
                    cache.keep(np.array([2, 1]))
                lengths = lengths[[2, 1]]
            new = torch.from_numpy(rng.integers(0, 11, len(lengths)))
            states = [cache.append(new, np.minimum(lengths + t, 23)) for cache in caches]


@pytest.mark.parametrize("threads", [1, 2])
def test_more_tokens_than_are_read_at_a_time_are_all_read(kernels: Kernels, threads: int) -> None:
    """60 texts of 20 tokens; 256 go through the layers together."""
    kernels.share(threads, threads)
    policy = small_policy(n_embd=32, n_head=2)
    tokens = torch.randint(11, (60, 20), generator=torch.Generator().manual_seed(0))
    lengths, trunk = np.arange(60) % 8 + 13, policy.model.base_model
    with torch.no_grad():
        found = KernelCache(kernels, partial(gpt2_parts, trunk), 60, 20).prefill(tokens, lengths)
        hidden = policy.hidden(tokens).last_hidden_state
    wanted = hidden[torch.arange(60), torch.from_numpy(lengths - 1)]
    assert torch.allclose(found, wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())


def test_some_rows_are_read_anew_in_their_own_places(kernels: Kernels) -> None:
    """Rows 2 and 1 of those that were kept; the other goes on with what it had read."""
    policy, rng = small_policy(n_embd=32, n_head=2), np.random.default_rng(0)
    cache = KernelCache(kernels, partial(gpt2_parts, policy.model.base_model), 5, 12)
    texts = [rng.integers(0, 11, n).tolist() for n in (3, 4, 2, 5, 3)]

    def read(rows: list[int] | None) -> torch.Tensor:
        given = texts if rows is None else [texts[i] for i in rows]
        tokens = torch.tensor([t + [0] * (12 - len(t)) for t in given])
        return cache.prefill(
            tokens, np.array([len(t) for t in given]), None if rows is None else np.array(rows)
        )

    with torch.no_grad():
        read(None)
        cache.keep(np.array([3, 0, 4]))
        texts = [texts[i] for i in (3, 0, 4)]
        texts[1:] = [rng.integers(0, 11, n).tolist() for n in (6, 2)]
        read([2, 1])
        texts = [[*text, token] for text, token in zip(texts, (7, 8, 9), strict=True)]
        found = cache.append(torch.tensor([7, 8, 9]), np.array([len(t) - 1 for t in texts]))
        for state, text in zip(found, texts, strict=True):
            assert torch.allclose(
                state, policy.hidden(torch.tensor([text])).last_hidden_state[0, -1], atol=1e-4
            )


def test_bits_do_not_depend_on_the_other_rows(kernels: Kernels) -> None:
    """Texts are the same bits alone and in a batch, read at once or token by token."""
    policy = small_policy(n_embd=48, n_head=2)
    tokens, lengths = (
        torch.randint(11, (40, 9), generator=torch.Generator().manual_seed(0)),
        np.arange(40) % 9 + 1,
    )

    def read(rows: slice, prompts: npt.NDArray[np.int64]) -> torch.Tensor:
        cache = gpt2_cache(policy.model.base_model, len(prompts), 16)
        states = cache.prefill(tokens[rows], prompts)
        while (prompts < lengths[rows]).any():
            new = np.minimum(prompts + 1, lengths[rows])
            at = torch.from_numpy(new - 1)
            states = cache.append(tokens[rows].gather(1, at[:, None])[:, 0], new - 1)
            prompts = new
        return states

    with torch.no_grad():
        together = read(slice(None), lengths)
        kernels.share(1, 1)
        for row in range(0, 40, 7):
            alone = read(slice(row, row + 1), lengths[row : row + 1])
            assert torch.equal(alone[0], together[row])
        assert torch.equal(read(slice(None), np.ones(40, dtype=np.int64)), together)


def test_reading_on_two_threads_gives_the_same_bits_every_time(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk = small_policy(n_embd=48, n_head=2).model.base_model
    tokens = torch.randint(11, (40, 9), generator=torch.Generator().manual_seed(0))

    def read() -> torch.Tensor:
        return gpt2_cache(trunk, 40, 9).prefill(tokens, np.full(40, 9))

    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    by_one = read()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    for _ in range(50):
        assert torch.equal(read(), by_one)
    assert kernels.threads() == 2


@pytest.mark.parametrize(("token", "at"), [(11, 2), (-1, 2), (3, 8)])
def test_what_has_no_place_in_memory_is_refused(kernels: Kernels, token: int, at: int) -> None:
    policy = small_policy()
    cache = gpt2_cache(policy.model.base_model, 1, 8)
    with torch.no_grad():
        cache.prefill(torch.tensor([[1, 2]]), np.array([2]))
        with pytest.raises(IndexError, match=r"not below 11.*not below 8"):
            cache.append(torch.tensor([token]), np.array([at]))
        if at < 8:
            with pytest.raises(IndexError, match="not below"):
                cache.prefill(torch.tensor([[1, token]]), np.array([2]))


@pytest.mark.usefixtures("kernels")
def test_memory_of_kernels_is_only_taken_where_it_lies_in_a_row() -> None:
    """Weights that were transposed in place are read by PyTorch, which knows about strides."""
    trunk = small_policy().model.base_model
    assert isinstance(gpt2_cache(trunk, 1, 8), KernelCache)
    up = trunk.h[0].mlp.c_fc.weight
    up.data = up.data.t().contiguous().t()
    assert not isinstance(gpt2_cache(trunk, 1, 8), KernelCache)
