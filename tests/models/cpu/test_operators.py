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
from text_gym.models.cpu.kernels import kernels_for
from text_gym.models.cpu.llama import gated, root_norm, rope


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


@pytest.mark.parametrize("size", [2, 6, 16])
def test_rope_turns_each_pair_by_the_angle_of_its_position(size: int) -> None:
    """As a product of complex numbers: the halves of a head are real and imaginary parts."""
    positions = torch.tensor([0, 3, 3, 17, 1])
    angle = random(20, size // 2, seed=2, scale=4.0)
    angles = angle.cos().contiguous(), angle.sin().contiguous()

    def formula(x: Tensor) -> Tensor:
        first, second = x.view(5, 3, size).chunk(2, -1)
        turned = torch.complex(first, second) * torch.exp(1j * angle.double()[positions, None])
        return torch.cat([turned.real, turned.imag], -1).view(5, -1)

    agree(lambda x: rope(x, angles, positions, size), formula, [random(5, 3 * size)])


@pytest.mark.parametrize("name", ["gated silu", "gated gelu"])
def test_gated(name: str) -> None:
    def formula(gates: Tensor, values: Tensor) -> Tensor:
        return (F.silu(gates) if name == "gated silu" else F.gelu(gates, approximate="tanh")) * values

    inputs = random(70, 33, scale=4.0), random(70, 33, seed=1)
    agree(lambda g, v: gated(g, v, ACTIVATIONS.index(name)), formula, inputs)


@pytest.mark.parametrize("name", ["gated silu", "gated gelu"])
@pytest.mark.parametrize("extreme", [-1e30, -1e4, -90.0, 90.0, 1e4, 1e30])
def test_gates_are_shut_or_open_far_out(name: str, extreme: float) -> None:
    gates, values = torch.tensor([extreme], requires_grad=True), torch.tensor([2.0], requires_grad=True)
    out = gated(gates, values, ACTIVATIONS.index(name))
    slope, share = torch.autograd.grad(out, [gates, values])
    is_open = extreme > 0
    assert float(out.detach()) == pytest.approx(2.0 * extreme if is_open else 0.0, rel=1e-6, abs=1e-6)
    assert float(slope) == pytest.approx(2.0 if is_open else 0.0, abs=1e-6)
    assert float(share) == pytest.approx(extreme if is_open else 0.0, rel=1e-6, abs=1e-6)


def test_gelu() -> None:
    agree(gelu, lambda x: F.gelu(x, approximate="tanh"), [random(40, 9, scale=3.0)])


def test_both_ways_of_an_embedding_add_up() -> None:
    tokens = torch.tensor([[1, 4, 1], [0, 1, 2]])

    def both(weight: Tensor) -> Tensor:
        rows, whole = embed(weight, tokens)
        return torch.cat([rows.flatten(0, 1), whole.cos()])

    agree(both, lambda w: torch.cat([w[tokens].flatten(0, 1), w.cos()]), [random(5, 3)])
