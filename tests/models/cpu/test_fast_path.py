"""The door and whom it opens to; what stands behind it is tested in the other files of this folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.house import House
from tests.small_models import small_policy
from text_gym.agents import Policy
from text_gym.models.cpu import kernels
from text_gym.models.cpu.fast_path import fast_path, fixed_linear, matmul

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(params=["kernels", "operators"])
def arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the kernels, if there are any, and by PyTorch's operators."""
    if request.param == "operators":
        monkeypatch.setattr(kernels, "_kernels", lambda: None)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def test_nobody_goes_past_the_door() -> None:
    """Outside its folder only `fast_path` is imported."""
    house, folder = House(ROOT), "text_gym.models.cpu"
    inside = {name for name in house.modules if house.folder(name) == folder}
    assert len(inside) > 4
    seen = {
        (name, arrow)
        for name, arrows in house.arrows().items()
        for arrow in arrows & inside
        if name not in inside
    }
    assert {arrow for _, arrow in seen} == {f"{folder}.fast_path"}


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("rows", [3, 255, 256, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_is_the_same_whoever_makes_it(rows: int, dtype: torch.dtype) -> None:
    a, b, bias, there = (
        random(*shape, seed=i).to(dtype) for i, shape in enumerate([(rows, 40), (40, 50), (50,), (rows, 50)])
    )
    wanted = a.double() @ b.double()
    summed, out = there.double() + wanted, there.clone()
    found = [matmul(a, b), matmul(a, b, bias), matmul(a, b, out=out, add=True).clone()]
    found.append(matmul(a, b, out=out))
    for ours, theirs in zip(found, (wanted, wanted + bias.double(), summed, wanted), strict=True):
        assert (ours.double() - theirs).abs().max() < 1e-4
    assert found[3] is out


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("rows", [1, 64])
def test_a_fixed_linear_layer_is_linear(rows: int, biased: bool) -> None:
    weight, bias, states = random(33, 24), random(33, seed=1) if biased else None, random(rows, 24, seed=2)
    wanted = states.double() @ weight.double().T + (0 if bias is None else bias.double())
    assert (fixed_linear(weight, bias)(states).double() - wanted).abs().max() < 1e-5


def test_only_plain_models_have_a_path() -> None:
    trunk = small_policy().model.base_model
    assert fast_path(trunk) is not None
    assert fast_path(small_policy("gemma2").model.base_model) is None
    assert fast_path(small_policy(activation_function="relu").model.base_model) is None
    assert fast_path(small_policy(add_cross_attention=True).model.base_model) is None
    assert fast_path(small_policy(dtype=torch.bfloat16).model.base_model) is None
    handle = trunk.h[0].mlp.register_forward_hook(lambda *_: None)
    assert fast_path(trunk) is None
    handle.remove()
    assert fast_path(trunk) is not None


def test_updates_with_dropout_or_gradient_checkpointing_go_through_the_models_own_code() -> None:
    def can_update(policy: Policy) -> bool:
        path = fast_path(policy.model.base_model)
        return path is not None and path.can_update

    policy, dropping = small_policy(), small_policy(resid_pdrop=0.1)
    policy.model.base_model.train()  # there is no dropout in it
    assert can_update(policy)
    assert can_update(dropping)
    dropping.model.base_model.train()
    assert not can_update(dropping)
    assert not can_update(small_policy().use_less_memory(gradient_checkpointing=True))
