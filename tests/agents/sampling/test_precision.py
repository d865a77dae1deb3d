"""bfloat16: in rollouts matrices are cast once; adapters learn in float32 over weights in bfloat16."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.models.test_cuda import make_env, make_policy
from text_gym.agents import GRPO, GRPOConfig, LoRAPolicy, Policy, rollout
from text_gym.agents.sampling.decoder import stored_in_bfloat16


class Casts(TorchDispatchMode):
    """Counts the casts to bfloat16 of tensors of some shapes."""

    def __init__(self, shapes: set[tuple[int, ...]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes, self.counts = shapes, Counter[tuple[int, ...]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if "_to_copy" in func._schema.name and kwargs.get("dtype") == torch.bfloat16:
            self.counts[tuple(args[0].shape)] += tuple(args[0].shape) in self.shapes
        return func(*args, **kwargs)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_rollout_casts_every_matrix_once(kind: str) -> None:
    policy = make_policy(kind, "cpu").use_less_memory(bf16=True)
    rollout(policy, make_env(2), np.arange(8))  # tries the cache out
    matrices = {tuple(p.shape) for p in policy.model.parameters() if p.ndim == 2}
    counts = []
    for tokens in (4, 8):
        with Casts(matrices) as casts:
            rollout(policy, make_env(tokens), np.arange(8))
        counts.append(casts.counts.total())
    assert counts[0] == counts[1] > 0
    assert all(p.dtype == torch.float32 and p.requires_grad for p in policy.parameters())


def test_the_stored_copy_gives_the_bits_of_autocast() -> None:
    policy = make_policy("gpt2", "cpu").use_less_memory(bf16=True)
    tokens = torch.arange(12).view(2, 6)
    with torch.no_grad():
        expected = policy.logits(policy.hidden(tokens).last_hidden_state)
        before = [p.data_ptr() for p in policy.parameters()]
        with stored_in_bfloat16(policy):
            found = policy.logits(policy.hidden(tokens).last_hidden_state)
    assert torch.equal(found, expected)
    assert [p.data_ptr() for p in policy.parameters()] == before


def test_the_weights_come_back_after_an_error() -> None:
    policy = make_policy("gpt2", "cpu").use_less_memory(bf16=True)
    before = list(policy.parameters())
    with pytest.raises(KeyboardInterrupt), stored_in_bfloat16(policy):
        raise KeyboardInterrupt
    assert all(a is b for a, b in zip(policy.parameters(), before, strict=True))


def test_an_adapter_learns_in_float32_over_weights_in_bfloat16() -> None:
    plain = make_policy("llama", "cpu")
    plain.model.to(torch.bfloat16)
    policy = LoRAPolicy(Policy(plain.model, plain.tokenizer, "cpu"), rank=2)
    assert policy.weights_dtype == "bfloat16"
    trained = [p for p in policy.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32}
    before = [p.clone() for p in policy.model.parameters() if not p.requires_grad]
    agent = GRPO(policy, make_env(), GRPOConfig(epochs=1, group_size=4, learning_rate=1e-2, warmup=0))
    agent.learn(1)
    assert any(p.abs().max() > 0 for n, p in policy.named_parameters() if "lora_B" in n)
    kept = [p for p in policy.model.parameters() if not p.requires_grad]
    assert all(torch.equal(a, b) for a, b in zip(before, kept, strict=True))
