"""The loss head against autograd through the whole matrix of logits, and finite differences."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.small_models import small_policy
from text_gym.agents import Policy
from text_gym.agents.policies.loss_head import Head, token_log_probs

BOUND = {torch.float32: 2e-6, torch.float64: 1e-12}  # both sides of a comparison round
N, D, V = 11, 5, 13


def inputs(dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States, weights, bias, tokens."""
    g = torch.Generator().manual_seed(seed)
    floats = [torch.randn(shape, generator=g, dtype=dtype) for shape in ((N, D), (V, D), (V,))]
    states, weight, bias = (x.requires_grad_() for x in floats)
    return states, weight, bias, torch.randint(V, (N,), generator=g)


def by_autograd(states: Tensor, tokens: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    """The definition: all logits at once."""
    logits = states @ head.weight.T
    if head.bias is not None:
        logits = logits + head.bias
    logits = logits * head.scale
    if head.cap is not None:
        logits = head.cap * torch.tanh(logits / head.cap)
    distribution = torch.distributions.Categorical(logits=logits / head.temperature)
    return distribution.log_prob(tokens), distribution.entropy()


@pytest.fixture(params=["whole", "tiled"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All logits at once, or tiles of four rows by five ids, the last ones of three by three."""
    module = "text_gym.agents.policies.loss_head."
    monkeypatch.setattr(module + "TILES", {"cpu": (4, 5)})
    monkeypatch.setattr(module + "RECYCLED_BYTES", 300)  # weights in float32 are smaller, in float64 larger
    monkeypatch.setattr(module + "WHOLE_BYTES", 2**20 if request.param == "whole" else 0)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize(
    ("biased", "options"),
    [
        (False, {}),
        (True, {"temperature": 0.7}),
        (False, {"scale": 0.3, "temperature": 1.3}),
        (True, {"scale": 2.0, "cap": 3.0, "temperature": 0.5}),
    ],
)
def test_values_and_gradients_are_those_of_autograd(
    dtype: torch.dtype, biased: bool, options: dict[str, Any]
) -> None:
    states, weight, bias, tokens = inputs(dtype)
    head = Head(weight, bias if biased else None, **options)
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, N, generator=generator, dtype=dtype)
    trained = [states, weight, *([bias] if biased else [])]

    def everything(said: tuple[Tensor, Tensor]) -> list[Tensor]:
        gradients = torch.autograd.grad((a * said[0] + b * said[1].square()).sum(), trained)
        return [*said, *gradients]

    found = everything(token_log_probs(states, tokens, head, entropy=True))
    expected = everything(by_autograd(states, tokens, head))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        scale = max(1.0, float(theirs.detach().abs().max()))
        assert float((ours - theirs).detach().abs().max()) <= BOUND[dtype] * scale


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize(("cap", "entropy"), [*product([None, 2.0], [False, True])])
def test_gradients_are_those_of_finite_differences(cap: float | None, entropy: bool) -> None:
    states, weight, bias, tokens = inputs(torch.float64)

    def function(*args: Tensor) -> tuple[Tensor, ...]:
        said = token_log_probs(args[0], tokens, Head(args[1], args[2], 0.5, cap, 0.7), entropy=entropy)
        return said if entropy else said[:1]

    assert torch.autograd.gradcheck(function, (states, weight, bias))


@pytest.mark.usefixtures("both_ways")
def test_what_is_not_trained_gets_no_gradient() -> None:
    states, weight, bias, tokens = inputs(torch.float64)
    whole = torch.autograd.grad(by_autograd(states, tokens, Head(weight, bias))[0].sum(), (states, bias))
    weight.requires_grad_(False)
    token_log_probs(states, tokens, Head(weight, bias))[0].sum().backward()
    assert weight.grad is None
    for found, expected in zip((states.grad, bias.grad), whole, strict=True):
        assert found is not None
        assert torch.allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("both_ways")
def test_tokens_that_cannot_be_drawn_have_no_entropy_and_no_gradient() -> None:
    """A bias of -inf: p is 0, and 0 · log 0 is 0."""
    states, weight, _, tokens = inputs(torch.float64)
    tokens = tokens % 6
    bias = torch.zeros(V, dtype=torch.float64)
    bias[6:] = -torch.inf
    log_probs, entropy = token_log_probs(states, tokens, Head(weight, bias), entropy=True)
    (log_probs + entropy).sum().backward()
    found = [log_probs, entropy, weight.grad]
    kept = weight.detach()[:6].requires_grad_()
    expected = [*by_autograd(states.detach(), tokens, Head(kept))]
    torch.stack(expected).sum().backward()
    assert kept.grad is not None
    assert weight.grad is not None
    assert not weight.grad[6:].any()
    for ours, theirs in zip((*found[:2], weight.grad[:6]), (*expected, kept.grad), strict=True):
        assert ours is not None
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_broken_weight_shows_in_every_log_probability(broken: float) -> None:
    states, weight, _, tokens = (x.detach() for x in inputs(torch.float32))
    weight[V - 1] = broken
    said = token_log_probs(states.abs(), tokens, Head(weight), entropy=True)
    assert all(column.isnan().all() for column in said)


def test_the_matrix_of_logits_is_never_held() -> None:
    """No tensor that is made, forwards or backwards, is larger than a tile of it."""
    rows, width, vocabulary = 2048, 4, 20_000
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            for x in result if isinstance(result, tuple) else (result,):
                largest = max(largest, x.numel() if isinstance(x, Tensor) else 0)
            return result

    states = torch.randn(rows, width, requires_grad=True)
    weight = torch.randn(vocabulary, width, requires_grad=True)
    with Watch():  # type: ignore[no-untyped-call]
        said = token_log_probs(states, torch.zeros(rows, dtype=torch.int64), Head(weight), entropy=True)
        torch.stack(said).sum().backward()
    assert largest == 1024 * 512


def test_half_precision_weights_give_float32_and_half_precision_gradients() -> None:
    states, weight, _, tokens = inputs(torch.float32)
    low = [x.detach().bfloat16().requires_grad_() for x in (states, weight)]
    exact = [x.detach().float().requires_grad_() for x in low]
    said, _ = token_log_probs(low[0], tokens, Head(low[1]))
    theirs, _ = by_autograd(exact[0], tokens, Head(exact[1]))
    said.sum().backward()
    theirs.sum().backward()
    assert said.dtype == torch.float32
    assert torch.allclose(said, theirs, rtol=0, atol=0.05)
    for ours, other in zip(low, exact, strict=True):
        assert ours.grad is not None
        assert other.grad is not None
        assert ours.grad.dtype == torch.bfloat16
        assert torch.allclose(ours.grad.float(), other.grad, rtol=0.05, atol=0.05)


def test_under_autocast_the_product_is_in_half_precision_and_master_weights_get_gradients() -> None:
    states, weight, _, tokens = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        said, _ = token_log_probs(states, tokens, Head(weight))
    said.sum().backward()
    low = [x.detach().bfloat16().float() for x in (states, weight)]
    theirs, _ = by_autograd(low[0], tokens, Head(low[1]))
    assert said.dtype == torch.float32
    assert torch.allclose(said, theirs, rtol=0, atol=0.05)
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "cohere", "granite"])
@pytest.mark.parametrize("rows", [11, 16])
def test_a_policy_gets_the_gradient_of_its_own_logits(kind: str, rows: int) -> None:
    """Scaled, capped and padded vocabularies: against `Policy.logits` under autograd."""
    policy = small_policy(kind, rows=rows, dtype=torch.float64)
    tokens = torch.arange(40).view(4, 10) * 7 % 11
    starts, lengths = torch.tensor([1, 3, 2, 6]), torch.tensor([5, 7, 1, 4])

    def gradients(said: tuple[Tensor, Tensor]) -> list[Tensor]:
        return list(torch.autograd.grad(said[0].sum() + said[1].sum(), list(policy.model.parameters())))

    found = policy.evaluate(tokens, starts, lengths, temperature=0.8, entropy=True)
    places = [(i, s + t) for i, (s, n) in enumerate(zip(starts, lengths, strict=True)) for t in range(n)]
    row, at = torch.tensor(places).T
    # As many columns as `evaluate` reads: some architectures make parts in float32 whatever is asked for.
    states = policy.hidden(tokens[:, :9]).last_hidden_state[row, at - 1]
    distribution = torch.distributions.Categorical(logits=policy.logits(states) / 0.8)
    expected = distribution.log_prob(tokens[row, at]), distribution.entropy()
    assert found.log_probs.sum().item() == pytest.approx(expected[0].sum().item(), abs=1e-10)
    for ours, theirs in zip(gradients((found.log_probs, found.entropy)), gradients(expected), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-11)


def test_output_layers_of_other_kinds_go_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    class Adapted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + x.sum(dim=-1, keepdim=True) * torch.arange(11.0)

    def wrong(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the loss head does not know what this layer adds")

    model = small_policy("llama").model
    layer = model.lm_head
    model.lm_head = Adapted(16, 11, bias=False)
    model.lm_head.weight = layer.weight
    policy = Policy(model, small_policy().tokenizer, device="cpu")
    monkeypatch.setattr("text_gym.agents.policies.policy.token_log_probs", wrong)
    tokens = torch.tensor([[1, 4, 2]])
    with torch.no_grad():
        found = policy.evaluate(tokens, torch.tensor([1]), torch.tensor([2]), entropy=True)
        log_p = torch.log_softmax(model(tokens).logits[0, :2], dim=-1)
    assert torch.allclose(found.log_probs[0], log_p[[0, 1], [4, 2]], rtol=0, atol=1e-5)
    assert torch.allclose(found.entropy[0], -(log_p.exp() * log_p).sum(dim=1), rtol=0, atol=1e-5)
    with pytest.raises(AssertionError, match="does not know"):
        small_policy("llama").evaluate(tokens, torch.tensor([1]), torch.tensor([2]))


def test_uniform_by_hand() -> None:
    said = token_log_probs(torch.ones(2, 3), torch.tensor([0, 6]), Head(torch.ones(7, 3)), entropy=True)
    for column, expected in zip(said, (-math.log(7), math.log(7)), strict=True):
        assert torch.allclose(column, torch.full((2,), expected))
