"""The door and whom it opens to; what stands behind it is tested in the other files of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.house import House
from tests.small_models import small_policy
from text_gym.agents import LoRAPolicy, Policy
from text_gym.agents.sampling.decoder import fastest_cache
from text_gym.models.cpu import fast_path as module
from text_gym.models.cpu import gpt2, kernels
from text_gym.models.cpu.fast_path import fast_path, fixed_linear, has_kernels, matmul
from text_gym.models.cpu.gpt2_cache import gpt2_cache
from text_gym.models.kv_cache import KeyValues

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


def test_an_architecture_without_a_path_is_told_once_and_the_others_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    if not has_kernels():
        pytest.skip("no compiler here, and that is told instead")
    module._tell_own_code.cache_clear()
    others = [small_policy(), small_policy("llama"), small_policy("gemma2").use_less_memory(bf16=True)]
    without = [small_policy("gemma2"), small_policy("gemma2", seed=1), small_policy("mistral")]
    with caplog.at_level("INFO", "text_gym"):
        for policy in (*others, *without, LoRAPolicy(small_policy("llama"), rank=2)):
            fastest_cache(policy, 2, 32)
    told = [record.getMessage().partition(" is read")[0] for record in caplog.records]
    assert told == ["Gemma2Model", "MistralModel", "LlamaModel"]


def test_a_path_that_reads_otherwise_than_the_model_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in updates nor in rollouts, nor in the reference policy."""
    tokens, starts, lengths = torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([2]), torch.tensor([3])
    wanted = small_policy().evaluate(tokens, starts, lengths).log_probs
    states = gpt2.gpt2_states

    def wrong(*args: Any) -> tuple[Tensor, Tensor]:
        found, weight = states(*args)
        return found * 1.01, weight

    monkeypatch.setattr(gpt2, "gpt2_states", wrong)
    policy = small_policy()
    (record,) = caplog.records
    assert "reads this GPT2Model otherwise than its own code" in record.getMessage()
    for each in (policy, policy.frozen()):
        assert fast_path(each.model.base_model) is None
        assert torch.allclose(each.evaluate(tokens, starts, lengths).log_probs, wanted, atol=1e-5)


def test_a_cache_that_reads_otherwise_than_the_model_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    policy, make = small_policy(), gpt2_cache

    def wrong(*args: Any) -> Any:
        cache = make(*args)
        append = cache.append
        monkeypatch.setattr(cache, "append", lambda tokens, at: append(tokens, at) * 1.01)
        return cache

    monkeypatch.setattr(module, "gpt2_cache", wrong)
    assert isinstance(fastest_cache(policy, 2, 8), KeyValues)
    assert "otherwise than its own code" in caplog.text
    assert fast_path(policy.model.base_model) is None
