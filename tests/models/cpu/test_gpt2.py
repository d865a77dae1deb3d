"""GPT-2's arithmetic written out, against the model's own code under autograd."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.small_models import small_policy
from text_gym.agents import Policy
from text_gym.models.cpu import gpt2, kernels
from text_gym.models.cpu.fast_path import FastPath, fast_path

ATOL = {torch.float32: 1e-5, torch.float64: 1e-12}
STARTS, LENGTHS = torch.tensor([1, 5, 2, 9, 3, 7]), torch.tensor([4, 1, 12, 3, 8, 6])


@pytest.fixture(params=["kernels", "operators"])
def arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the kernels, if there are any, and by PyTorch's operators."""
    if request.param == "operators":
        monkeypatch.setattr(kernels, "_kernels", lambda: None)


def path_of(policy: Policy) -> FastPath:
    found = fast_path(policy.model.base_model)
    assert found is not None
    return found


def texts(width: int = 16) -> Tensor:
    return torch.randint(11, (6, width), generator=torch.Generator().manual_seed(0))


def their_states(policy: Policy, tokens: Tensor) -> Tensor:
    """Read through `transformers`, each text alone and without padding."""
    parts = [
        policy.hidden(row[None, : start + n]).last_hidden_state[0, start - 1 : start + n - 1]
        for row, start, n in zip(tokens, STARTS, LENGTHS, strict=True)
    ]
    return torch.cat(parts)


def trained(policy: Policy) -> list[nn.Parameter]:
    return list(policy.model.parameters())


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("dtype", ATOL)
@pytest.mark.parametrize("changes", [{}, {"n_layer": 1}, {"n_layer": 3, "n_embd": 24, "n_head": 3}], ids=str)
@pytest.mark.parametrize("width", [14, 16])
def test_states_and_gradients_are_the_models_own(
    dtype: torch.dtype, changes: dict[str, Any], width: int
) -> None:
    policy = small_policy(dtype=dtype, scale_attn_by_inverse_layer_idx=True, **changes)
    tokens = texts(width)
    ours, weight = path_of(policy).states(tokens, STARTS, LENGTHS)
    theirs = their_states(policy, tokens)
    assert torch.allclose(ours, theirs, rtol=0, atol=ATOL[dtype] * theirs.abs().max().item())
    of = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    found = torch.autograd.grad((ours * of).sum() + (ours @ weight.T).cos().sum(), trained(policy))
    expected = torch.autograd.grad(
        (theirs * of).sum() + (theirs @ policy.model.lm_head.weight.T).cos().sum(), trained(policy)
    )
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=5 * ATOL[dtype] * max(1.0, b.abs().max().item()))


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("of", ["log_probs", "values", "both"])
def test_a_policys_gradients_are_those_of_autograd(tied: bool, of: str) -> None:
    """Whether the embedding's weights are the output layer's or not, and whichever of the two is used."""
    policy = small_policy(dtype=torch.float64, tie_word_embeddings=tied)
    tokens = texts()

    def gradients(log_probs: Tensor, values: Tensor) -> dict[str, Tensor]:
        loss = {"log_probs": log_probs.sum(), "values": values.sum(), "both": (log_probs * values).sum()}[of]
        policy.zero_grad()
        loss.backward()
        return {k: p.grad for k, p in policy.named_parameters() if p.grad is not None and p.grad.any()}

    said = policy.evaluate(tokens, STARTS, LENGTHS)
    found = gradients(said.log_probs, said.values)
    states = their_states(policy, tokens)
    taken = torch.cat([row[s : s + n] for row, s, n in zip(tokens, STARTS, LENGTHS, strict=True)])
    log_p = torch.log_softmax(policy.logits(states), 1).gather(1, taken[:, None])[:, 0]
    mask = torch.arange(12) < LENGTHS[:, None]
    zeros = torch.zeros(mask.shape, dtype=torch.float64)
    expected = gradients(*(zeros.masked_scatter(mask, x) for x in (log_p, policy.values(states))))
    assert found.keys() == expected.keys()
    assert ("model.lm_head.weight" in found) == (not tied and of != "values")
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=0, atol=1e-11), name


def test_a_gradient_can_be_asked_for_twice() -> None:
    policy = small_policy()
    loss = policy.evaluate(texts(), STARTS, LENGTHS).log_probs.sum()
    first, second = (torch.autograd.grad(loss, trained(policy), retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_padding_and_neighbours_change_nothing() -> None:
    """A text's states are the same bits in any batch that pads it alike, whatever the padding is."""
    trunk, tokens = small_policy().model.base_model, texts()
    other = tokens.clone()
    for row, end in enumerate((STARTS + LENGTHS - 1).tolist()):
        other[row, end:] = 3
    assert torch.equal(*(gpt2.gpt2_states(trunk, t, STARTS, LENGTHS)[0] for t in (tokens, other)))
