"""Splitting a minibatch: the least work, the same gradient, and what happens when memory runs out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

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
from text_gym.agents.policies.micro_batches import Splitter, micro_batches
from text_gym.agents.policies.policy import Evaluation
from text_gym.agents.training.metrics import Metrics
from text_gym.errors import ConfigError
from text_gym.models.cpu import gpt2

CPU = torch.device("cpu")


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
    states = gpt2.states

    def watched(trunk: Any, tokens: Tensor, *rest: Tensor) -> Any:
        widths.append(tokens.shape[1])
        return states(trunk, tokens, *rest)

    agent = PPO(policy, world(), PPOConfig(epochs=1, minibatches=1, micro_batch_size=1))
    batch = agent.collect()
    monkeypatch.setattr(gpt2, "states", watched)
    agent.update(batch)
    scored = int((batch.starts + batch.lengths).max()) - 1  # under the reference, all at once
    assert widths == [scored, *sorted((batch.starts + batch.lengths - 1).tolist())]
    assert len(set(widths)) > 3


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
