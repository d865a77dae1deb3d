"""The Llama family's arithmetic written out, against the models' own code in float64."""

from __future__ import annotations

import copy
import os
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from tests.small_models import small_policy
from text_gym.agents import LoRAPolicy, Policy
from text_gym.models.cpu import kernels as module
from text_gym.models.cpu.fast_path import FastPath, fast_path
from text_gym.models.cpu.kernels import kernels_for
from text_gym.models.sizes import Sizes, using

LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
MEMBERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama with odd heads": ("llama", {"head_dim": 6, "num_key_value_heads": 1}),
    "llama 3": ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, **LLAMA3}}),
    "yarn": ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"num_key_value_heads": 4}),
    "gemma": ("gemma", {}),
    "smollm3": ("smollm3", {}),
}
STARTS, LENGTHS = torch.tensor([1, 5, 2, 9, 3, 7]), torch.tensor([4, 1, 12, 3, 8, 6])


@pytest.fixture(autouse=True)
def _compiler() -> None:
    if kernels_for(torch.zeros(1)) is None and shutil.which(os.environ.get("CC") or "cc") is None:
        pytest.skip("no compiler here")


def member(name: str, **changes: Any) -> Policy:
    kind, settings = MEMBERS[name]
    policy = small_policy(kind, **(settings | changes))
    with torch.no_grad():  # gains and biases that are not all alike
        generator = torch.Generator().manual_seed(1)
        for weight in policy.model.parameters():
            if weight.ndim == 1:
                weight += torch.randn(weight.shape, generator=generator) * 0.3
    return policy


def path_of(policy: Policy) -> FastPath:
    found = fast_path(policy.model.base_model)
    assert found is not None
    return found


def in_float64(policy: Policy) -> nn.Module:
    model: nn.Module = copy.deepcopy(policy.model).double()
    return model


def close(ours: Tensor, theirs: Tensor, tolerance: float = 2e-5) -> bool:
    return bool((ours.double() - theirs).abs().max() <= tolerance * theirs.abs().max())


@pytest.mark.parametrize("name", MEMBERS)
@torch.no_grad()
def test_reading_token_by_token_is_one_plain_forward(name: str) -> None:
    policy, rng = member(name), np.random.default_rng(0)
    tokens, lengths = torch.from_numpy(rng.integers(0, 11, (4, 40))), np.array([5, 1, 9, 3])
    wanted = in_float64(policy).base_model(tokens).last_hidden_state  # type: ignore[operator]
    cache, rows = path_of(policy).cache(4, 40), np.arange(4)
    states = cache.prefill(tokens[:, :9], lengths)
    for t in range(30):
        assert close(states, wanted[rows, lengths - 1]), t
        if t == 10:
            cache.keep(np.array([2, 1]))
            rows, lengths = rows[[2, 1]], lengths[[2, 1]]
        states = cache.append(tokens[rows, lengths], lengths)
        lengths = lengths + 1


@torch.no_grad()
def test_a_cache_is_renewed_with_the_weights() -> None:
    """Those that are derived from them too, such as Gemma's gains."""
    for name in ("gemma", "qwen3"):
        policy, tokens = member(name), torch.tensor([[3, 1, 4, 1, 5]])
        cache = path_of(policy).cache(1, 8)
        cache.prefill(tokens, np.array([5]))
        for weight in policy.model.parameters():
            weight.mul_(0.9).add_(0.01)
        cache.renew()
        found = cache.prefill(tokens, np.array([5]))
        wanted = in_float64(policy).base_model(tokens).last_hidden_state  # type: ignore[operator]
        assert close(found, wanted[:, -1])


def texts(width: int = 16) -> Tensor:
    return torch.randint(11, (6, width), generator=torch.Generator().manual_seed(0))


def their_states(model: Any, tokens: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
    """Each text alone and without padding."""
    parts = [
        model.base_model(row[None, : start + n]).last_hidden_state[0, start - 1 : start + n - 1]
        for row, start, n in zip(tokens, starts.tolist(), lengths.tolist(), strict=True)
    ]
    return torch.cat(parts)


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize(("shared", "packed"), [(False, False), (False, True), (True, True)])
def test_states_and_gradients_are_those_of_float64(
    name: str, layers: int, shared: bool, packed: bool
) -> None:
    """Also where three of the prompts are the same one, and two of the others; by products of either kind."""
    with using(Sizes(min_rows_to_pack=1 if packed else 10**6), torch.device("cpu")):
        check_states_and_gradients(name, layers, shared)


def check_states_and_gradients(name: str, layers: int, shared: bool) -> None:
    changes = {"no_rope_layers": [1, 0, 1][:layers]} if name == "smollm3" else {}
    policy = member(name, num_hidden_layers=layers, layer_types=None, **changes)
    exact, tokens, starts = in_float64(policy), texts(), STARTS
    if shared:
        starts = torch.tensor([4, 7, 4, 4, 7, 4])
        tokens[[2, 3], :4], tokens[4, :7] = tokens[0, :4], tokens[1, :7]
    tokens = torch.cat([tokens, tokens[:, :4]], 1)
    ours, weight = path_of(policy).states(tokens, starts, LENGTHS)
    theirs = their_states(exact, tokens, starts, LENGTHS)
    assert close(ours, theirs)
    of = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ((ours * of.float()).sum() + (ours @ weight.T).cos().sum()).backward()
    output = exact.get_input_embeddings().weight  # type: ignore[operator]
    ((theirs * of).sum() + (theirs @ output.T).cos().sum()).backward()
    found, wanted = (dict(m.base_model.named_parameters()) for m in (policy.model, exact))  # type: ignore[union-attr]
    assert found.keys() == wanted.keys()
    for key, parameter in wanted.items():
        gradient = found[key].grad
        assert parameter.grad is not None
        assert gradient is not None
        assert close(gradient, parameter.grad, 1e-4), key


def test_weights_that_are_not_trained_get_no_gradient_and_leave_the_others_theirs() -> None:
    policy, found = member("qwen3"), []
    for frozen in ((), ("embed_tokens", "layers.0.", "q_proj", "up_proj", "norm")):
        for key, weight in policy.model.base_model.named_parameters():
            weight.requires_grad_(not any(part in key for part in frozen))
        states, _ = path_of(policy).states(texts(), STARTS, LENGTHS)
        policy.zero_grad()
        states.square().sum().backward()
        found.append({key: weight.grad for key, weight in policy.model.base_model.named_parameters()})
    known = {key for key, gradient in found[1].items() if gradient is not None}
    assert known == {
        f"layers.1.{part}.weight"
        for part in (
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.o_proj",
            "mlp.gate_proj",
            "mlp.down_proj",
        )
    }
    assert all(torch.equal(found[1][key], found[0][key]) for key in known)


@pytest.mark.parametrize("name", ["llama 3", "qwen3", "gemma", "smollm3"])
def test_log_probs_of_long_ragged_texts(name: str) -> None:
    """512 tokens, after prompts of 1 to 500."""
    policy = member(name, max_position_embeddings=512, initializer_range=0.2)
    rng = np.random.default_rng(0)
    tokens = torch.from_numpy(rng.integers(0, 9, (4, 512)))
    starts = torch.tensor([1, 500, 200, 40])
    lengths = torch.tensor([511, 12, 100, 300])
    with torch.no_grad():
        ours = policy.evaluate(tokens, starts, lengths).log_probs
        logits = in_float64(policy)(tokens).logits
    for i, (start, n) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        log_p = torch.log_softmax(logits[i, start - 1 : start + n - 1, :11], 1)
        wanted = log_p.gather(1, tokens[i, start : start + n, None])[:, 0]
        assert (ours[i, :n] - wanted).abs().max() < 1e-4


def test_bits_depend_on_neither_neighbours_nor_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 33 rows, which two threads divide unevenly; gradients of gains are sums over rows."""
    monkeypatch.setattr(module, "cores", lambda: 2)
    policy = small_policy("qwen3", hidden_size=64, intermediate_size=96, head_dim=16)
    tokens = torch.randint(11, (33, 20), generator=torch.Generator().manual_seed(0))
    starts, lengths = torch.full((33,), 5), torch.full((33,), 15)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            policy.zero_grad()
            states, _ = path_of(policy).states(tokens, starts, lengths)
            gain = policy.model.base_model.layers[0].input_layernorm.weight
            (slope,) = torch.autograd.grad(states.square().sum(), [gain])
            cache = path_of(policy).cache(33, 20)
            read = cache.prefill(tokens, np.full(33, 20))
            alone = path_of(policy).cache(1, 20).prefill(tokens[7:8], np.array([20]))
            assert torch.equal(read[7:8], alone)
            found.append((states.detach(), slope, read))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0][2], found[1][2])
    for a, b in zip(found[0][:2], found[1][:2], strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5)  # PyTorch's own products depend on threads


def test_what_the_family_does_not_hold() -> None:
    def path(policy: Policy) -> FastPath | None:
        return fast_path(policy.model.base_model)

    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    assert path(small_policy("llama", rope_parameters=dynamic)) is None
    assert path(small_policy("mistral")) is None  # a window
    assert path(small_policy("qwen2", use_sliding_window=True, sliding_window=6, max_window_layers=0)) is None
    assert path(small_policy("llama", hidden_act="relu")) is None
    assert path(small_policy("llama", dtype=torch.bfloat16)) is None
    assert path(small_policy("llama", dtype=torch.float64)) is None
    for kind in ("gemma2", "cohere", "granite"):
        assert path(small_policy(kind)) is None
    assert path(LoRAPolicy(small_policy("llama"), rank=2)) is None
    policy = small_policy("llama")
    layer: Any = policy.model.base_model.layers[0]
    assert path(policy) is not None
    handle = layer.mlp.register_forward_hook(lambda *_: None)
    assert path(policy) is None
    handle.remove()
    layer.mlp.act_fn = ACT2FN["relu"]
    assert path(policy) is None


def test_dropout_and_checkpointing_are_left_to_the_models_own_code() -> None:
    policy = small_policy("llama", attention_dropout=0.1)
    assert path_of(policy).can_update
    policy.model.base_model.train()
    assert not path_of(policy).can_update
    sparing = fast_path(small_policy("llama").use_less_memory(gradient_checkpointing=True).model.base_model)
    assert sparing is None or not sparing.can_update


def test_without_kernels_the_models_own_code_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_kernels", lambda: None)
    assert fast_path(small_policy("llama").model.base_model) is None
