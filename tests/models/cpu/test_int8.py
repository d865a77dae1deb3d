"""Products in 8-bit whole numbers: exact where they can be, and their rounding bounded."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from text_gym.models.cpu import library
from text_gym.models.cpu.int8 import Int8Kernels
from text_gym.models.cpu.kernels import kernels_for

FOUND = kernels_for(torch.zeros(1))
pytestmark = pytest.mark.skipif(FOUND is None, reason="no compiled kernels here")
ROWS = (1, 2, 3, 6, 7, 11, 64, 67, 130)  # whole tiles, rests, more than one block
SIZES = ((1, 1), (3, 5), (4, 32), (5, 33), (64, 64), (127, 70), (641, 40))
GROUP = 64  # inputs that share a scale


def kernels() -> Int8Kernels:
    assert FOUND is not None
    return FOUND.int8


def whole(rng: np.random.Generator, rows: int, columns: int) -> npt.NDArray[np.int64]:
    """Whole numbers of 8 bits, one of the largest size in every group of a row."""
    found = rng.integers(-127, 128, (rows, columns))
    for first in range(0, columns, GROUP):
        some = rng.integers(first, min(first + GROUP, columns), rows)
        found[np.arange(rows), some] = rng.choice([-127, 127], rows)
    return found


@pytest.mark.parametrize("layout", ["in rows", "in columns", "strided"])
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_products_of_whole_numbers_are_exact(inputs: int, outputs: int, layout: str) -> None:
    """Scales that are powers of two, and sums below 2²⁴, leave nothing to round."""
    rng = np.random.default_rng(inputs)
    x, w = whole(rng, max(ROWS), inputs), whole(rng, outputs, inputs)
    steps = 2.0 ** rng.integers(-2, 1, (max(ROWS), -(-inputs // GROUP)))  # of each group
    row_scales = steps.repeat(GROUP, axis=1)[:, :inputs]
    scales = 2.0 ** rng.integers(-9, 3, (outputs, 1))
    weights = torch.from_numpy(w * scales).float().T  # (inputs, outputs), each column in a row
    if layout == "in rows":
        weights = weights.contiguous()
    elif layout == "strided":
        weights = torch.stack([weights, weights], 2)[:, :, 0]
    panels = kernels().pack(weights)
    bias = torch.from_numpy(rng.integers(-9, 9, outputs)).float()
    for rows in ROWS:
        wanted = torch.from_numpy(((x * row_scales) @ w.T)[:rows] * scales.T)
        given = torch.from_numpy(x[:rows] * row_scales[:rows]).float()
        assert torch.equal(kernels().multiply(given, panels), wanted.float())
        found = kernels().multiply(given, panels, bias).double()
        assert ((found - wanted - bias).abs() <= 2e-7 * (wanted.abs() + bias.abs())).all()


def test_rounding_is_half_a_step_of_each_factor() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weights = torch.randn(9, 200, generator=generator), torch.randn(200, 50, generator=generator)
    x[:, 100] = 1000.0  # ruins the digits of its own group, and of no other
    found = kernels().multiply(x, kernels().pack(weights)).double()
    x, weights = x.double(), weights.double()
    of_w = weights.abs().amax(0) / 254  # half a step
    bound = x.abs().sum(1, keepdim=True) * of_w
    for some, w in zip(x.split(GROUP, 1), weights.split(GROUP), strict=True):
        of_x = some.abs().amax(1, keepdim=True) / 254
        bound = bound + of_x * w.abs().sum(0) + len(w) * of_x * of_w
    assert ((found - x @ weights).abs() <= bound + 1e-5).all()
    assert (found - x @ weights).norm() < 0.02 * (x @ weights).norm()


def test_matrices_side_by_side_are_packed_as_one() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weights = torch.randn(5, 30, generator=generator), torch.randn(30, 200, generator=generator)
    wanted = kernels().multiply(x, kernels().pack(weights))
    for widths in ([64, 96, 40], [63, 97, 40]):
        panels = kernels().pack(*weights.split(widths, 1))
        assert torch.equal(kernels().multiply(x, panels), wanted)
        again = kernels().pack(*(2 * weights).split(widths, 1), memory=panels.memory)
        assert again.memory is panels.memory
        assert torch.equal(kernels().multiply(x, again), 2 * wanted)


def test_a_row_does_not_depend_on_the_others_nor_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weights = torch.randn(70, 100, generator=generator), torch.randn(100, 90, generator=generator)
    panels = kernels().pack(weights)
    wanted = kernels().multiply(x, panels)
    for rows in ([0], [3, 69], list(range(0, 70, 3))):
        assert torch.equal(kernels().multiply(x[rows], panels), wanted[rows])
    assert FOUND is not None
    if FOUND.can_share:
        FOUND.share(2, 2)
        try:
            assert torch.equal(kernels().pack(weights).memory, panels.memory)
            assert torch.equal(kernels().multiply(x, panels), wanted)
        finally:
            kernels_for(x)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    x, weights = torch.ones(3, 40), torch.ones(40, 50)
    x[1, 7] = weights[3, 33] = bad
    for matrix in (weights, weights.T.contiguous().T):
        found = kernels().multiply(x, kernels().pack(matrix))
        assert found[1].isnan().all()
        assert found[:, 33].isnan().all()
        assert torch.isfinite(found[[0, 2], :33]).all()


def test_zeros_and_tiny_numbers_do_no_harm() -> None:
    x, weights = torch.zeros(3, 40), torch.ones(40, 50)
    x[1] = 1e-42  # subnormal: 1 / x is infinite
    weights[:, 5] = 0
    found = kernels().multiply(x, kernels().pack(weights), torch.ones(50))
    assert torch.equal(found, torch.ones(3, 50))


@pytest.mark.nightly
@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here")
def test_processors_without_the_instruction_get_the_same_numbers(tmp_path: Path) -> None:
    file = tmp_path / "plain.so"
    flags = [flag for flag in library.FLAGS if not flag.startswith("-march")]
    command = ["gcc", *flags, "-ffp-contract=off", str(library.SOURCE), "-o", str(file), "-lm"]
    subprocess.run(command, check=True, capture_output=True)
    plain = Int8Kernels(ctypes.CDLL(str(file)), lambda: 1)
    assert not plain.fast

    generator = torch.Generator().manual_seed(0)
    x, weights = torch.randn(70, 301, generator=generator), torch.randn(301, 90, generator=generator)
    assert torch.equal(plain.pack(weights).memory, kernels().pack(weights).memory)
    products: list[Tensor] = [k.multiply(x, k.pack(weights)) for k in (plain, kernels())]
    assert (products[0] - products[1]).abs().max() < 1e-5  # sums of groups round alike but for fused steps
