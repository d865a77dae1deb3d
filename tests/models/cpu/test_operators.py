"""Operators by kernels, against their formulas in float64; attention is tried in `test_kernels`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from text_gym.models.cpu.gpt2 import embed, gelu
from text_gym.models.cpu.kernel_cache import ACTIVATIONS
from text_gym.models.cpu.kernel_types import Places
from text_gym.models.cpu.kernels import Kernels, kernels_for
from text_gym.models.cpu.llama_layer import root_norm


@pytest.fixture(autouse=True)
def _compiler() -> None:
    if kernels_for(torch.zeros(1)) is None and shutil.which(os.environ.get("CC") or "cc") is None:
        pytest.skip("no compiler here")


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def agree(
    operator: Callable[..., Tensor],
    formula: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    atol: float = 1e-5,
) -> None:
    """The operator and its gradients are those of the formula in float64."""
    single = [x.clone().requires_grad_() for x in inputs]
    double = [x.double().requires_grad_() for x in inputs]
    found, wanted = operator(*single), formula(*double)
    assert torch.allclose(found.double(), wanted, rtol=1e-5, atol=atol)
    of = random(*found.shape, seed=9)
    slopes = torch.autograd.grad((found * of).sum(), single)
    for a, b in zip(slopes, torch.autograd.grad((wanted * of.double()).sum(), double), strict=True):
        assert torch.allclose(a.double(), b, rtol=1e-4, atol=atol * max(1.0, float(b.abs().max())))


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("width", [3, 16, 33])
@pytest.mark.parametrize("epsilon", [1e-6, 0.3])
def test_root_norm(rows: int, width: int, epsilon: float) -> None:
    """With numbers of rows around a block, whose gradients of the gain are summed by themselves."""

    def formula(x: Tensor, gain: Tensor) -> Tensor:
        return x / (x.square().mean(1, keepdim=True) + epsilon).sqrt() * gain

    inputs = random(rows, width, scale=3.0), random(width, seed=1)
    agree(lambda x, gain: root_norm(x, gain, epsilon), formula, inputs, atol=1e-4)


def kernels() -> Kernels:
    found = kernels_for(torch.zeros(1))
    assert found is not None
    return found


def near(found: Tensor | None, wanted: Tensor) -> bool:
    assert found is not None
    size = max(1.0, float(wanted.abs().max()))
    return torch.allclose(found.double(), wanted, rtol=1e-5, atol=1e-5 * size)


@pytest.mark.parametrize("beside", [False, True])
def test_the_gradient_that_states_have_in_another_way_is_added_to_that_of_their_norm(beside: bool) -> None:
    x, gain, slope = random(70, 16), random(16, seed=1), random(70, 16, seed=2)
    other = random(70, 16, seed=3) if beside else torch.zeros(70, 16)
    a, b = x.double().requires_grad_(), gain.double().requires_grad_()
    normed = a / (a.square().mean(1, keepdim=True) + 0.1).sqrt() * b
    wanted = torch.autograd.grad((normed * slope).sum() + (a * other).sum(), [a, b])
    found = kernels().root_norm_backward(x, gain, 0.1, slope, other if beside else None)
    assert all(near(*pair) for pair in zip(found, wanted, strict=True))


@pytest.mark.parametrize("size", [2, 6, 16])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_heads_get_their_norm_and_are_turned_by_the_angles_of_their_positions(
    size: int, normed: bool, turned: bool
) -> None:
    """RoPE as a product of complex numbers: the halves of a head are real and imaginary parts.

    There are 70 tokens of 3 heads, some numbers apart, which stay as they are.
    """
    positions = torch.arange(70) * 7 % 20
    angle, gain = random(20, size // 2, seed=2, scale=4.0), random(size, seed=3)
    angles = (angle.cos().contiguous(), angle.sin().contiguous()) if turned else None
    places = Places(positions, size, gain if normed else None, 0.1, angles)

    def formula(x: Tensor, gain: Tensor) -> Tensor:
        x = x.view(70, 3, size)
        if normed:
            x = x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt() * gain
        if turned:
            first, second = x.chunk(2, -1)
            x = torch.view_as_complex(torch.stack([first, second], -1))
            x = torch.view_as_real(x * torch.exp(1j * angle.double()[positions, None]))
            x = torch.cat([x[..., 0], x[..., 1]], -1)
        return x.reshape(70, 3 * size)

    wide, slopes = random(70, 5 * size), random(70, 4 * size, seed=1)
    x, slope = wide[:, size : 4 * size], slopes[:, : 3 * size]
    doubles = [x.double().contiguous().requires_grad_(), gain.double().requires_grad_()]
    wanted, before = formula(*doubles), wide.clone()
    of_x, of_gain = torch.autograd.grad((wanted * slope).sum(), doubles, allow_unused=True)
    kept = kernels().place(x, places, keep=True)
    assert near(x, wanted.detach())
    assert torch.equal(wide[:, :size], before[:, :size])
    assert torch.equal(wide[:, 4 * size :], before[:, 4 * size :])
    found = kernels().place_backward(slope, kept, places)
    assert near(slope, of_x)
    assert found is None if of_gain is None else near(found, of_gain)


@pytest.mark.parametrize("name", ["gated silu", "gated gelu"])
def test_gated(name: str) -> None:
    u, slope, kind = random(70, 66, scale=4.0), random(70, 33, seed=1), ACTIVATIONS.index(name)
    double = u.double().requires_grad_()
    gates, values = double.chunk(2, 1)
    wanted = (F.silu(gates) if name == "gated silu" else F.gelu(gates, approximate="tanh")) * values
    assert near(kernels().gated(u, kind), wanted.detach())
    (of_u,) = torch.autograd.grad(wanted, double, slope.double())
    assert near(kernels().gated_backward(u, kind, slope), of_u)


@pytest.mark.parametrize("name", ["gated silu", "gated gelu"])
@pytest.mark.parametrize("extreme", [-1e30, -1e4, -90.0, 90.0, 1e4, 1e30])
def test_gates_are_shut_or_open_far_out(name: str, extreme: float) -> None:
    u, kind, is_open = torch.tensor([[extreme, 2.0]]), ACTIVATIONS.index(name), extreme > 0
    out = kernels().gated(u, kind)
    slope, share = kernels().gated_backward(u, kind, torch.ones(1, 1))[0].tolist()
    assert float(out) == pytest.approx(2.0 * extreme if is_open else 0.0, rel=1e-6, abs=1e-6)
    assert slope == pytest.approx(2.0 if is_open else 0.0, abs=1e-6)
    assert share == pytest.approx(extreme if is_open else 0.0, rel=1e-6, abs=1e-6)


def test_gelu() -> None:
    agree(gelu, lambda x: F.gelu(x, approximate="tanh"), [random(40, 9, scale=3.0)])


def test_both_ways_of_an_embedding_add_up() -> None:
    tokens = torch.tensor([[1, 4, 1], [0, 1, 2]])

    def both(weight: Tensor) -> Tensor:
        rows, whole = embed(weight, tokens)
        return torch.cat([rows.flatten(0, 1), whole.cos()])

    agree(both, lambda w: torch.cat([w[tokens].flatten(0, 1), w.cos()]), [random(5, 3)])
