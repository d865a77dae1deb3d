from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from small_models import small_policy
from text_gym.agents.decoder import Decoder
from text_gym.agents.kernels import Kernels, kernels_for
from text_gym.agents.key_values import GPT2Reader, KeyValues
from text_gym.agents.sampler import draw

from text_gym.agents import inverse_cdf, uniform
from text_gym.agents import kernels as module


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Kernels:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    found = kernels_for(torch.zeros(1))
    if found is None:
        pytest.skip("no compiler here")
    return found


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape) * scale).float()


@pytest.mark.parametrize("width", [1, 7, 96, 128, 768])
def test_norm_adds_and_normalises(kernels: Kernels, width: int) -> None:
    x, bias, gain, offset = random(5, width, scale=3), *random(3, width, seed=1)
    expected_sum = x + bias
    wanted = torch.nn.functional.layer_norm(
        expected_sum.double(), [width], gain.double(), offset.double(), 1e-5
    )
    untouched = x.clone()
    kernels.norm(untouched, None, gain, offset, 1e-5)
    assert torch.equal(untouched, x)
    found = kernels.norm(x, bias, gain, offset, 1e-5)
    assert torch.equal(x, expected_sum)
    assert torch.allclose(found.double(), wanted, rtol=1e-5, atol=2e-6 * wanted.abs().max().item())


def test_gelu_equals_pytorchs_in_float64_even_where_it_saturates(kernels: Kernels) -> None:
    x = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([-1e30, -1e4, -88.0, 88.0, 1e4, 1e18])])[None]
    wanted = torch.nn.functional.gelu(x.double() + 0.25, approximate="tanh")
    found = kernels.gelu(x.clone(), torch.full((x.shape[1],), 0.25)).double()
    assert torch.isfinite(found).all()
    assert torch.allclose(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("heads", "size"), [(4, 32), (4, 24), (2, 16), (1, 64), (2, 80), (3, 5)])
def test_reading_equals_that_without_kernels(kernels: Kernels, heads: int, size: int) -> None:
    """Rows of different lengths, of a model with each size of a head."""
    policy = small_policy(n_embd=heads * size, n_head=heads)
    rng = np.random.default_rng(0)
    tokens, lengths = torch.from_numpy(rng.integers(0, 11, (4, 6))), np.array([3, 1, 6, 4])
    caches = [KeyValues(policy, 4, 24, GPT2Reader(policy, kernels=on)) for on in (True, False)]
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


def test_they_are_for_the_cpu_in_float32_and_one_thread(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kernels_for(torch.zeros(1, dtype=torch.float64)) is None
    assert kernels_for(torch.zeros(1, device="meta")) is None
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert kernels_for(torch.zeros(1)) is None


def fails(*_: Any, **__: Any) -> None:
    raise subprocess.CalledProcessError(1, "cc")


@pytest.mark.parametrize("lack", ["compiler", "wish", "success"])
def test_without_them_all_goes_on(lack: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    if lack == "compiler":
        monkeypatch.setenv("CC", str(tmp_path / "none"))
    elif lack == "wish":
        monkeypatch.setenv("TEXT_GYM_KERNELS", "0")
    else:
        monkeypatch.setattr(subprocess, "run", fails)
    module._compiled.cache_clear()
    try:
        assert kernels_for(torch.zeros(1)) is None
        with torch.no_grad():
            decoder = Decoder(small_policy(), np.array([[1, 2]]), np.array([2]), room=2)
            tokens, probs = draw(decoder.logits(decoder.states), torch.tensor([0.5], dtype=torch.float64))
            assert decoder.step(tokens).shape == (1, decoder.states.shape[1])
        assert probs.shape == (1, 1)
    finally:
        module._compiled.cache_clear()
