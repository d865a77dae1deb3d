from __future__ import annotations

import math
import os
import shutil
import threading

import numpy as np
import pytest
import scipy.stats
import torch

from text_gym.agents.sampling.inversion import inverse_cdf
from text_gym.agents.sampling.sampler import uniform
from text_gym.models.cpu import kernels as module
from text_gym.models.cpu.kernel_types import Texts, Trees
from text_gym.models.cpu.kernels import Kernels, kernels_for


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


@pytest.mark.parametrize(("rows", "width"), [(0, 5), (1, 1), (3, 17), (129, 4096), (33, 1000)])
def test_softmax_and_its_sums_are_those_of_float64(kernels: Kernels, rows: int, width: int) -> None:
    logits = random(rows, width, scale=20.0)
    logits[1:, 0] = -math.inf
    before = logits.clone()
    probs, log_sums = kernels.softmax(logits)
    assert torch.equal(logits, before)
    assert torch.allclose(probs.double(), logits.double().softmax(dim=1), rtol=3e-6, atol=1e-30)
    assert torch.allclose(log_sums.double(), logits.double().logsumexp(dim=1), rtol=1e-6, atol=1e-6)
    assert (probs[1:, 0] == 0).all()


def test_softmax_of_what_is_not_finite_is_nan_in_its_row_alone(kernels: Kernels) -> None:
    logits = random(4, 70)
    logits[0, 69], logits[1, 3], logits[2] = math.nan, math.inf, -math.inf
    probs, log_sums = kernels.softmax(logits)
    assert log_sums.isnan().tolist() == [True, True, True, False]
    assert probs[:3].isnan().any(dim=1).all()
    assert torch.allclose(probs[3], logits[3].softmax(dim=0))


@pytest.mark.parametrize("extreme", [-1e30, -1e4, 1e4, 1e18])
def test_gelu_is_flat_or_straight_far_out(kernels: Kernels, extreme: float) -> None:
    slope = kernels.gelu_backward(torch.tensor([extreme]), torch.tensor([3.0]))
    assert float(slope) == pytest.approx(3.0 if extreme > 0 else 0.0, abs=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 17, 130])
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


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 2), (16, 32), (50, 96), (64, 70), (130, 33)])
def test_packing_keeps_each_number_however_the_matrix_lies(
    kernels: Kernels, inputs: int, outputs: int
) -> None:
    matrix = random(inputs, outputs)
    turned = matrix.T.contiguous().T
    apart = random(2 * outputs, 3 * inputs)[::2, ::3].copy_(matrix.T).T
    for lying in (matrix, turned, apart):
        assert torch.equal(kernels.multiply(torch.eye(inputs), kernels.pack(lying)), matrix)


@pytest.mark.parametrize("rows", [32, 33, 47])
def test_no_row_is_left_out_between_threads(kernels: Kernels, rows: int) -> None:
    """33 rows do not divide by two."""
    x, matrix, out = random(rows, 20), random(20, 40, seed=1), torch.full((rows, 40), torch.nan)
    kernels.share(2, 2)
    assert kernels.threads() == 2
    kernels.multiply(x, kernels.pack(matrix), out=out)
    assert (out.double() - x.double() @ matrix.double()).abs().max() < 2e-5


def test_a_product_over_nothing_is_zero_or_what_it_is_added_to(kernels: Kernels) -> None:
    nothing, panels = torch.zeros(5, 0), kernels.pack(torch.zeros(0, 33))
    bias, there = random(33), random(5, 33, seed=1)
    old = torch.full((5, 33), torch.nan)
    assert torch.equal(kernels.multiply(nothing, panels, out=old), torch.zeros(5, 33))
    assert torch.equal(kernels.multiply(nothing, panels, bias), bias.expand(5, 33))
    assert torch.equal(kernels.multiply(nothing, panels, out=there.clone(), add=True), there)
    assert kernels.multiply(torch.zeros(0, 4), kernels.pack(torch.zeros(4, 3))).shape == (0, 3)


def test_what_is_not_finite_stays_in_its_row_of_a_product(kernels: Kernels) -> None:
    x, panels = random(9, 40), kernels.pack(random(40, 33, seed=1))
    clean = kernels.multiply(x, panels)
    x[3, 7], x[5, 1] = torch.nan, torch.inf
    found = kernels.multiply(x, panels)
    assert torch.isfinite(found).all(1).tolist() == [i not in (3, 5) for i in range(9)]
    others = [0, 1, 2, 4, 6, 7, 8]
    assert torch.equal(found[others], clean[others])


def everything(kernels: Kernels) -> list[torch.Tensor]:
    """What each kernel makes of something large enough for two threads."""
    x, gradient = random(200, 96), random(200, 32, seed=1)
    texts = Texts(
        *(torch.arange(0, 200, 20), torch.full((10,), 20), torch.zeros(10, dtype=torch.int64)),
        tokens=20,
        heads=2,
        size=16,
        scale=0.25,
    )
    q, k, v = x.chunk(3, 1)
    attended, log_sums = kernels.attention(texts, q, k, v)
    of_qkv = torch.empty_like(x)
    kernels.attention_backward(texts, (q, k, v), log_sums, gradient, of_qkv.chunk(3, 1))
    large = random(300, 300)
    of_gelu = kernels.gelu_backward(large, kernels.gelu(large))
    drawn = kernels.draw(
        random(64, 1000), torch.rand(64, generator=torch.Generator().manual_seed(0)).double()
    )
    return [attended, log_sums, of_qkv, *drawn, of_gelu, kernels.multiply(x.T, kernels.pack(gradient))]


def test_two_threads_give_the_same_bits_as_one_every_time(kernels: Kernels) -> None:
    """Threads that share a buffer spoil each other's numbers now and then, hence the repetitions."""
    kernels.share(1, 1)
    by_one = everything(kernels)
    kernels.share(2, 2)
    assert kernels.threads() == 2
    for _ in range(50):
        assert all(torch.equal(a, b) for a, b in zip(everything(kernels), by_one, strict=True))


def test_each_python_thread_has_its_own_number_of_threads(kernels: Kernels) -> None:
    """Buffers are made for this number: one that another thread changed would be overrun."""
    kernels.share(2, 2)
    other = threading.Thread(target=kernels.share, args=(1, 1))
    other.start()
    other.join()
    assert kernels.threads() == 2


def test_work_is_divided_among_no_more_threads_than_there_are_cores(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert kernels_for(torch.zeros(1)) is kernels
    assert kernels.threads() == 2
    kernels.share(1, 1)
    assert kernels.threads() == 1


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
        [(0, 8, 10), (8, 8, 9)],  # the first of eight queries sees less than 16 keys, the last one more
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


@pytest.mark.parametrize("size", [6, 16, 24, 32])
@pytest.mark.parametrize("sharing", [1, 3])
def test_texts_that_begin_alike_attend_as_if_alone(kernels: Kernels, size: int, sharing: int) -> None:
    """Five tokens go on in three ways, one of them with nothing; a text of twenty stands by itself.

    Every token has a query, and several heads of queries share those of keys. Threads change no bit.
    """
    groups, heads, segments = 2, 2 * sharing, [(0, 5, 0), (5, 3, 5), (8, 17, 5), (25, 0, 5), (25, 20, 0)]
    begins, counts, firsts = torch.tensor(segments).T.contiguous()
    trees = Trees(begins, torch.tensor([0, 4, 5]))
    description = Texts(
        begins, counts, firsts, tokens=22, heads=heads, groups=groups, size=size, scale=0.3, trees=trees
    )
    q, gradient = random(45, heads * size), random(45, heads * size, seed=1)
    kv = random(45, 2 * groups * size, seed=2)
    found = []
    for threads in (1, 2):
        kernels.share(threads, threads)
        out, log_sums = kernels.attention(description, q, *kv.chunk(2, 1))
        of_q, of_kv = torch.full_like(q, torch.nan), torch.full_like(kv, torch.nan)
        of = of_q, *of_kv.chunk(2, 1)
        kernels.attention_backward(description, (q, *kv.chunk(2, 1)), log_sums, gradient, of)
        found.append((out, of_q, of_kv))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))

    doubles = [x.double().requires_grad_() for x in (q, kv)]
    k, v = (
        x.view(45, groups, 1, size).expand(-1, -1, sharing, -1).flatten(1) for x in doubles[1].chunk(2, 1)
    )
    wanted = torch.zeros(45, heads * size, dtype=torch.float64)
    for text in ([*range(5)], [*range(8)], [*range(5), *range(8, 25)], [*range(25, 45)]):
        wanted[text] = naive_attention(doubles[0][text], k[text], v[text], [(0, len(text), 0)], heads)
    slopes = torch.autograd.grad(wanted, doubles, gradient.double())
    for ours, theirs in zip(found[0], (wanted, *slopes), strict=True):
        assert torch.allclose(ours.double(), theirs, rtol=0, atol=1e-5 * max(1, theirs.abs().max().item()))


@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 300, 1024])
def test_draws_are_those_of_the_softmax(kernels: Kernels, size: int) -> None:
    logits = random(500, size, scale=3)
    logits[:, 1::7] = -torch.inf
    u = torch.from_numpy(uniform(0, np.arange(500), 1)[:, 0])
    tokens, probs = kernels.draw(logits, u)
    p = logits.double().softmax(1)
    cumulative = p.cumsum(1)
    upper = cumulative.gather(1, tokens[:, None])[:, 0]
    lower = upper - p.gather(1, tokens[:, None])[:, 0]
    assert ((lower <= u + 1e-6) & (u <= upper + 1e-6)).all()
    assert torch.allclose(probs[:, 0].double(), p.gather(1, tokens[:, None])[:, 0], rtol=1e-5, atol=1e-9)
    assert (tokens == inverse_cdf(p, u)).float().mean() > 0.99


def test_draws_pass_a_chi_square_test(kernels: Kernels) -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(150))
    noise = torch.from_numpy(uniform(1, np.arange(4), 5_000).reshape(-1))
    tokens, _ = kernels.draw(torch.from_numpy(np.log(p)).float().repeat(len(noise), 1), noise)
    counts, expected = np.bincount(tokens, minlength=150), p * len(noise)
    rare = expected < 5
    observed = [*counts[~rare], counts[rare].sum()]
    assert scipy.stats.chisquare(observed, [*expected[~rare], expected[rare].sum()]).pvalue > 0.01


def test_edges_of_u_draw_what_has_probability_and_nan_stays_in_range(kernels: Kernels) -> None:
    logits = random(3, 300, scale=8)
    logits[:, :5] = logits[:, 290:] = -torch.inf
    for u in (0.0, 5e-324, 1 - 2**-53):
        tokens, probs = kernels.draw(logits, torch.full((3,), u, dtype=torch.float64))
        assert (probs > 0).all()
        assert torch.isfinite(logits.gather(1, tokens[:, None])).all()
    for broken in (torch.nan, torch.inf):
        tokens, probs = kernels.draw(torch.full((1, 300), broken), torch.tensor([0.5], dtype=torch.float64))
        assert 0 <= int(tokens) < 300
        assert not torch.isfinite(probs).any()


def test_a_number_on_the_border_of_two_tokens_draws_the_second(kernels: Kernels) -> None:
    """u in [F(i - 1), F(i)) draws i, at the border of blocks of 64 tokens too."""
    u = torch.arange(0, 256, dtype=torch.float64) / 256
    tokens, probs = kernels.draw(torch.zeros(256, 256), u)
    assert tokens.tolist() == list(range(256))
    assert probs[:, 0].tolist() == pytest.approx([1 / 256] * 256)


def test_they_are_for_the_cpu_in_float32(kernels: Kernels) -> None:
    assert kernels_for(torch.zeros(1)) is kernels
    assert kernels_for(torch.zeros(1, dtype=torch.float64)) is None
    assert kernels_for(torch.zeros(1, device="meta")) is None
