from __future__ import annotations

import os
import shutil

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.small_models import small_policy
from text_gym.agents.sampling.kv_cache import KeyValues
from text_gym.models.cpu import kernels as module
from text_gym.models.cpu.gpt2_reader import GPT2Reader
from text_gym.models.cpu.kernels import Kernels, Texts, kernels_for


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Kernels:
    monkeypatch.setattr(module, "cores", lambda: 2)  # two threads are tried even where there is one core
    found = kernels_for(torch.zeros(1))
    if found is None and shutil.which(os.environ.get("CC") or "cc") is None:
        pytest.skip("no compiler here")
    assert found is not None, "there is a compiler, but it did not compile kernels.c"
    return found


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape) * scale).float()


def test_gelu_equals_pytorchs_in_float64_even_where_it_saturates(kernels: Kernels) -> None:
    x = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([-1e30, -1e4, -88.0, 88.0, 1e4, 1e18])])
    double = x.double().requires_grad_()
    wanted = torch.nn.functional.gelu(double, approximate="tanh")
    found = kernels.gelu(x).double()
    assert torch.isfinite(found).all()
    assert torch.allclose(found, wanted, rtol=1e-6, atol=1e-6)
    gradient = random(len(x))
    (slope,) = torch.autograd.grad(wanted, double, gradient.double())
    near = slice(0, -6)  # further out PyTorch's own derivative is NaN
    found = kernels.gelu_backward(x, gradient).double()
    assert torch.allclose(found[near], slope[near], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("extreme", [-1e30, -1e4, 1e4, 1e18])
def test_gelu_is_flat_or_straight_far_out(kernels: Kernels, extreme: float) -> None:
    slope = kernels.gelu_backward(torch.tensor([extreme]), torch.tensor([3.0]))
    assert float(slope) == pytest.approx(3.0 if extreme > 0 else 0.0, abs=1e-6)


@pytest.mark.parametrize(("heads", "size"), [(4, 32), (4, 24), (2, 16), (1, 64), (2, 80), (3, 5)])
def test_reading_equals_that_without_kernels(kernels: Kernels, heads: int, size: int) -> None:
    """Rows of different lengths, of a model with each size of a head, and unequal epsilons."""
    policy = small_policy(n_embd=heads * size, n_head=heads, scale_attn_by_inverse_layer_idx=True)
    policy.model.transformer.h[0].ln_2.eps, policy.model.transformer.ln_f.eps = 1e-2, 1e-1
    rng = np.random.default_rng(0)
    tokens, lengths = torch.from_numpy(rng.integers(0, 11, (4, 6))), np.array([3, 1, 6, 4])
    with_kernels, without = GPT2Reader(policy.model.base_model), GPT2Reader(policy.model.base_model)
    assert with_kernels._kernels is not None
    without._kernels = None
    caches = [KeyValues(policy, 4, 24, reader) for reader in (with_kernels, without)]
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


@pytest.mark.parametrize("rows", [1, 2, 5, 17, 130])
@pytest.mark.parametrize("inputs", [1, 31, 1030])
@pytest.mark.parametrize("outputs", [1, 16, 31, 33, 100])
def test_products_are_those_of_float64(kernels: Kernels, rows: int, inputs: int, outputs: int) -> None:
    x, matrix, bias, there = (
        random(*shape, seed=i)
        for i, shape in enumerate([(rows, inputs), (inputs, outputs), (outputs,), (rows, outputs)])
    )
    wanted, bound = x.double() @ matrix.double(), 1e-6 * inputs
    transposed = matrix.T.contiguous().T
    for a in (x, x.T.contiguous().T, random(rows, inputs + 3, seed=0)[:, 3:].copy_(x)):
        for b in (matrix, transposed, torch.cat([transposed, matrix], 1)[:, outputs:]):
            panels = kernels.pack(b)
            assert (kernels.multiply(a, panels).double() - wanted).abs().max() < bound
            with_bias = kernels.multiply(a, panels, bias)
            assert (with_bias.double() - wanted - bias.double()).abs().max() < bound
            out = there.clone()
            assert kernels.multiply(a, panels, out=out, add=True) is out
            assert (out.double() - wanted - there.double()).abs().max() < bound
            kernels.multiply(a, panels, out=out)
            assert (out.double() - wanted).abs().max() < bound


def test_what_is_not_finite_stays_in_its_row_of_a_product(kernels: Kernels) -> None:
    x, panels = random(9, 40), kernels.pack(random(40, 33, seed=1))
    clean = kernels.multiply(x, panels)
    x[3, 7], x[5, 1] = torch.nan, torch.inf
    found = kernels.multiply(x, panels)
    assert torch.isfinite(found).all(1).tolist() == [i not in (3, 5) for i in range(9)]
    others = [0, 1, 2, 4, 6, 7, 8]
    assert torch.equal(found[others], clean[others])


def test_bits_depend_neither_on_threads_nor_on_the_other_rows(kernels: Kernels) -> None:
    """Texts are the same bits alone and in a batch, read at once or token by token."""
    policy = small_policy(n_embd=48, n_head=2)
    tokens, lengths = (
        torch.randint(11, (40, 9), generator=torch.Generator().manual_seed(0)),
        np.arange(40) % 9 + 1,
    )

    def read(rows: slice, prompts: npt.NDArray[np.int64]) -> torch.Tensor:
        cache = KeyValues(policy, len(prompts), 16, GPT2Reader(policy.model.base_model))
        states: torch.Tensor = cache.prefill(tokens[rows], prompts)
        while (prompts < lengths[rows]).any():
            new = np.minimum(prompts + 1, lengths[rows])
            at = torch.from_numpy(new - 1)
            states = cache.append(tokens[rows].gather(1, at[:, None])[:, 0], new - 1)
            prompts = new
        return states

    with torch.no_grad():
        together = read(slice(None), lengths)
        kernels.share(1)
        for row in range(0, 40, 7):
            alone = read(slice(row, row + 1), lengths[row : row + 1])
            assert torch.equal(alone[0], together[row])
        assert torch.equal(read(slice(None), np.ones(40, dtype=np.int64)), together)
    x, gradient = random(200, 96), random(200, 32, seed=1)
    texts = Texts(
        *(torch.arange(0, 200, 20), torch.full((10,), 20), torch.zeros(10, dtype=torch.int64)),
        tokens=20,
        heads=2,
        size=16,
        scale=0.25,
    )

    def everything() -> list[torch.Tensor]:
        q, k, v = x.chunk(3, 1)
        attended, log_sums = kernels.attention(texts, q, k, v)
        of_qkv = torch.empty_like(x)
        kernels.attention_backward(texts, (q, k, v), log_sums, gradient, of_qkv.chunk(3, 1))
        large = random(300, 300)
        of_gelu = kernels.gelu_backward(large, kernels.gelu(large))
        product = kernels.multiply(x.T, kernels.pack(gradient))
        return [attended, log_sums, of_qkv, of_gelu, product]

    kernels.share(1)
    by_one = everything()
    kernels.share(2)
    assert all(torch.equal(a, b) for a, b in zip(everything(), by_one, strict=True))


@pytest.mark.parametrize(("token", "at"), [(11, 2), (-1, 2), (3, 8)])
def test_what_has_no_place_in_memory_is_refused(kernels: Kernels, token: int, at: int) -> None:
    policy = small_policy()
    cache = KeyValues(policy, 1, 8, GPT2Reader(policy.model.base_model))
    with torch.no_grad():
        cache.prefill(torch.tensor([[1, 2]]), np.array([2]))
        with pytest.raises(IndexError, match=r"not below 11.*not below 8"):
            cache.append(torch.tensor([token]), np.array([at]))
        if at < 8:
            with pytest.raises(IndexError, match="not below"):
                cache.prefill(torch.tensor([[1, token]]), np.array([2]))


def naive_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, texts: list[tuple[int, int, int]], heads: int
) -> torch.Tensor:
    """The definition, a query at a time; texts are (first query, queries, key of the first one)."""
    tokens, size = len(k) // len(texts), q.shape[1] // heads
    out = torch.zeros_like(q)
    for row, (begin, count, first) in enumerate(texts):
        for i in range(count):
            seen = slice(row * tokens, row * tokens + first + i + 1)
            for head in range(heads):
                part = slice(head * size, (head + 1) * size)
                weights = torch.softmax(k[seen, part] @ q[begin + i, part] * 0.3, 0)
                out[begin + i, part] = weights @ v[seen, part]
    return out


@pytest.mark.parametrize("size", [1, 5, 8, 16, 24, 32, 64, 80])
@pytest.mark.parametrize(
    "texts",
    [
        [(0, 19, 0), (19, 19, 0)],  # all tokens of two texts
        [(0, 7, 0), (19, 19, 0)],  # one of them shorter; nobody asks for its padding
        [(0, 1, 18), (1, 9, 3)],  # the last token of one, and some of the other
    ],
)
def test_attention_is_its_definition(kernels: Kernels, size: int, texts: list[tuple[int, int, int]]) -> None:
    heads, tokens = 3, 19
    width, begins = heads * size, torch.tensor(texts).T.contiguous()
    together = texts[0][0] == 0 and texts[1][0] == tokens
    queries = 2 * tokens if together else sum(count for _, count, _ in texts)
    qkv = random(queries, 3 * width, seed=size) if together else None
    other = random(queries, width, seed=1), random(2 * tokens, 2 * width, seed=2)
    q, k, v = other[0], *other[1].chunk(2, 1)
    if qkv is not None:
        q, k, v = qkv.chunk(3, 1)
    description = Texts(
        *(row.contiguous() for row in begins), tokens=tokens, heads=heads, size=size, scale=0.3
    )
    out, log_sums = kernels.attention(description, q, k, v)
    doubles = [x.double().requires_grad_() for x in (q, k, v)]
    wanted = naive_attention(doubles[0], doubles[1], doubles[2], texts, heads)
    assert torch.allclose(out.double(), wanted, rtol=0, atol=1e-5)

    gradient = random(queries, width, seed=3)
    slopes = torch.autograd.grad(wanted, doubles, gradient.double())
    found = [torch.zeros_like(x) for x in ([qkv] if qkv is not None else other)]
    of_q, of_k, of_v = found[0].chunk(3, 1) if qkv is not None else (found[0], *found[1].chunk(2, 1))
    kernels.attention_backward(description, (q, k, v), log_sums, gradient, (of_q, of_k, of_v))
    for ours, theirs in zip((of_q, of_k, of_v), slopes, strict=True):
        assert torch.allclose(ours.double(), theirs, rtol=0, atol=1e-5 * max(1, theirs.abs().max().item()))


def test_they_are_for_the_cpu_in_float32(kernels: Kernels) -> None:
    assert kernels_for(torch.zeros(1)) is kernels
    assert kernels_for(torch.zeros(1, dtype=torch.float64)) is None
    assert kernels_for(torch.zeros(1, device="meta")) is None
