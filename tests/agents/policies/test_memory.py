from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.small_models import parameters_of, same_parameters, small_policy
from text_gym import TextVectorEnv, WordTokenizer
from text_gym.agents import (
    GRPO,
    PPO,
    REINFORCE,
    RLOO,
    GRPOConfig,
    Policy,
    PPOConfig,
    REINFORCEConfig,
    RLOOConfig,
)
from text_gym.agents.algorithms.policy_gradient import PolicyGradient
from text_gym.agents.policies.memory import (
    Head,
    Splitter,
    log_probs_of_logits,
    micro_batches,
    token_log_probs,
)
from text_gym.agents.policies.policy import Evaluation
from text_gym.agents.training.metrics import Metrics
from text_gym.errors import ConfigError
from text_gym.models.cpu import gpt2
from text_gym.models.sizes import Sizes, using

CPU = torch.device("cpu")

# Micro-batches: the least work, the same gradient, and what happens when memory runs out


def least_work(lengths: list[int], most: int, overhead: int) -> float:
    """By trying every way to cut the sorted rows."""
    ordered, n = sorted(lengths), len(lengths)
    best = float("inf")
    for cuts in range(2 ** (n - 1)):
        ends = [i + 1 for i in range(n - 1) if cuts >> i & 1] + [n]
        parts = [ordered[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        if max(map(len, parts)) <= most:
            best = min(best, sum(len(p) * p[-1] + overhead for p in parts))
    return best


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=8),
    most=st.integers(1, 8),
    overhead=st.integers(0, 30),
)
def test_no_split_makes_less_work(lengths: list[int], most: int, overhead: int) -> None:
    parts = micro_batches(np.array(lengths), most, overhead=overhead)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(lengths)))
    assert max(map(len, parts)) <= most
    work = sum(len(part) * max(lengths[i] for i in part) + overhead for part in parts)
    assert work == least_work(lengths, most, overhead)
    ends = [[lengths[i] for i in part] for part in parts]
    assert [length for part in ends for length in part] == sorted(lengths)


def test_parts_have_no_more_tokens_than_allowed_but_at_least_a_row() -> None:
    lengths = np.array([4, 4, 4, 4, 10, 30])
    parts = micro_batches(lengths, tokens=20, overhead=1000)
    widths = [(len(part), int(lengths[part].max())) for part in parts]
    assert all(n == 1 or n * width <= 20 for n, width in widths)
    assert (1, 30) in widths
    assert len(parts) == 3
    assert micro_batches(np.array([], np.int64)) == []


# The gradient


class Recorder:
    """An agent that takes no step, and keeps the gradient and the metrics of its only minibatch."""

    def __init__(self, agent: PolicyGradient[Any]) -> None:
        self.sizes: list[int] = []
        self.gradient: list[Tensor] = []
        evaluate = agent.policy.evaluate

        def counted(tokens: Tensor, *args: Any, **kwargs: Any) -> Evaluation:
            self.sizes.append(len(tokens))
            return evaluate(tokens, *args, **kwargs)

        def keep() -> float:
            gradient = [p.grad.clone() for p in agent.policy.parameters() if p.grad is not None]
            self.gradient = gradient or self.gradient  # none in a step of a critic apart
            return 0.0

        batch = agent.collect()
        vars(agent.reference)["score"] = lambda *args, **kwargs: batch.log_probs - 0.3 * batch.mask
        vars(agent)["apply_gradients"] = keep
        vars(agent.policy)["evaluate"] = counted
        try:
            self.metrics: Metrics = agent.update(batch)
        finally:
            del vars(agent.policy)["evaluate"]


ONE: dict[str, Any] = {"epochs": 1, "minibatches": 1, "entropy_coef": 0.1, "kl_coef": 0.5}
AGENTS: dict[str, Any] = {
    "ppo": (PPO, PPOConfig(**ONE)),
    "ppo, shared critic": (PPO, PPOConfig(**ONE, critic="shared")),
    "ppo, kl in loss": (PPO, PPOConfig(**ONE, kl_in="loss", kl_estimator="k3")),
    "grpo, sequence": (GRPO, GRPOConfig(**ONE, group_size=4)),
    "grpo, token": (GRPO, GRPOConfig(**ONE, group_size=4, length_normalisation="token")),
    "grpo, constant": (GRPO, GRPOConfig(**ONE, group_size=4, length_normalisation="constant")),
    "rloo": (RLOO, RLOOConfig(**ONE, group_size=4)),
    "reinforce, critic": (REINFORCE, REINFORCEConfig(**ONE, baseline="critic")),
}


def world(reward: Any = None) -> TextVectorEnv:
    """16 episodes of 1 to 7 tokens after prompts of 1 to 4."""
    tokenizer = WordTokenizer("abc", separator="", pad=False)
    reward = reward or (lambda completion: float(completion.count("a")))
    return TextVectorEnv(["a", "bc", "cab", "abca"], tokenizer, reward, 7, num_envs=16, numbering="global")


def policy_of(dtype: torch.dtype, **changes: Any) -> Policy:
    return small_policy(
        tokenizer=WordTokenizer("abc", separator="", pad=False), dtype=dtype, initializer_range=0.2, **changes
    )


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("name", AGENTS)
def test_the_gradient_does_not_depend_on_the_split(name: str, dtype: torch.dtype, bound: float) -> None:
    kind, config = AGENTS[name]
    policy = policy_of(dtype)
    whole = Recorder(kind(policy, world(), replace(config, micro_batch_size=16)))
    assert max(float(g.abs().max()) for g in whole.gradient) > 1e-2
    for size in (1, 5, None):
        parts = Recorder(kind(policy, world(), replace(config, micro_batch_size=size)))
        if size is not None:
            assert len(parts.sizes) == -(-16 // size) or size > 1
            assert max(parts.sizes) <= size
            assert sum(parts.sizes) == 16
        for ours, theirs in zip(parts.gradient, whole.gradient, strict=True):
            assert float((ours - theirs).abs().max()) <= bound * max(1.0, float(theirs.abs().max()))
        for what, value in whole.metrics.items():
            assert parts.metrics[what] == pytest.approx(value, rel=1e-5, abs=1e-6), what


def test_widths_are_those_of_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short rows are not padded to the length of the longest one, and last tokens are not read."""
    policy = policy_of(torch.float32)
    widths: list[int] = []
    states = gpt2.gpt2_states

    def watched(trunk: Any, tokens: Tensor, *rest: Tensor) -> Any:
        widths.append(tokens.shape[1])
        return states(trunk, tokens, *rest)

    agent = PPO(policy, world(), PPOConfig(epochs=1, minibatches=1, micro_batch_size=1))
    batch = agent.collect()
    monkeypatch.setattr(gpt2, "gpt2_states", watched)
    agent.update(batch)
    scored = int((batch.starts + batch.lengths).max()) - 1  # under the reference, all at once
    assert widths == [scored, *sorted((batch.starts + batch.lengths - 1).tolist())]
    assert len(set(widths)) > 3


def test_the_entropy_of_masked_tokens_by_hand() -> None:
    """Two of four tokens may be drawn: log 2 nats if they are equally likely, and 0 where there is one."""
    logits, tokens = torch.zeros(2, 4), torch.tensor([0, 3])
    masks = torch.tensor([[True, False, True, False], [False, False, False, True]])
    said, entropy = log_probs_of_logits(logits, tokens, masks, entropy=True)
    assert said.tolist() == pytest.approx([-math.log(2), 0])
    assert entropy.tolist() == pytest.approx([math.log(2), 0])


# Memory


class Scarce:
    """`Policy.evaluate` on a device with room for so many tokens, padding included."""

    def __init__(self, policy: Policy, room: int) -> None:
        self.failures = 0
        evaluate = policy.evaluate

        def limited(tokens: Tensor, starts: Tensor, lengths: Tensor, **kwargs: Any) -> Evaluation:
            if len(tokens) * int((starts + lengths).max()) > room:
                self.failures += 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.\nMore text.")
            return evaluate(tokens, starts, lengths, **kwargs)

        vars(policy)["evaluate"] = limited


def test_out_of_memory_halves_the_parts_and_keeps_the_gradient() -> None:
    config = PPOConfig(**ONE, micro_batch_size=16)
    policy = policy_of(torch.float64)
    whole = Recorder(PPO(policy, world(), config))
    agent = PPO(policy, world(), config)
    scarce = Scarce(policy, room=30)
    parts = Recorder(agent)
    assert scarce.failures >= 2  # 16 rows, 8 rows
    for ours, theirs in zip(parts.gradient, whole.gradient, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)
    before = scarce.failures
    Recorder(agent)
    assert scarce.failures == before  # it is not tried again with what was too much


def test_a_text_that_does_not_fit_is_an_error_with_sizes_and_changes_nothing() -> None:
    policy = policy_of(torch.float32)
    agent = PPO(policy, world(), PPOConfig(**ONE))
    batch = agent.collect()
    before = parameters_of(policy)
    Scarce(policy, room=5)
    with pytest.raises(ConfigError, match=r"single text of 1?\d tokens.*Tried to allocate 9\.00 GiB\.\)$"):
        agent.update(batch)
    assert same_parameters(policy, before)


def test_scores_survive_too_little_memory() -> None:
    policy = policy_of(torch.float64)
    batch = PPO(policy, world(), PPOConfig()).collect()
    expected = policy.score(batch.tokens, batch.starts, batch.lengths)
    scarce = Scarce(policy, room=30)
    found = policy.score(batch.tokens, batch.starts, batch.lengths)
    assert scarce.failures > 0
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def test_other_errors_are_not_retried() -> None:
    def fail(parts: list[Tensor]) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        Splitter(CPU).run(torch.tensor([3, 4]), fail)


def test_memory_per_token_decides_where_no_number_is_given() -> None:
    rows = torch.full((8,), 10)
    sizes: list[list[int]] = []

    def look(parts: list[Tensor]) -> None:
        sizes.append([len(part) for part in parts])

    Splitter(CPU, token_bytes=1).run(rows, look)
    Splitter(CPU, token_bytes=2**28 // 40).run(rows, look)
    assert sizes == [[8], [4, 4]]


# The loss head, against autograd through the whole matrix of logits, and finite differences

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
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All logits at once, or tiles of four rows by five ids, the last ones of three by three."""
    # Weights in float32 are smaller, in float64 larger.
    monkeypatch.setattr("text_gym.agents.policies.memory.RECYCLED_BYTES", 300)
    whole_bytes = 2**20 if request.param == "whole" else 0
    with using(Sizes(tile_rows=4, tile_ids=5, whole_bytes=whole_bytes), torch.device("cpu")):
        yield


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
