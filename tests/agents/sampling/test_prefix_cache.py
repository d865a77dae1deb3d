from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from text_gym import ByteTokenizer
from text_gym.agents import Policy
from text_gym.agents.sampling.prefix_cache import PrefixCache

TOKENIZER = ByteTokenizer()
SIZES: dict[str, Any] = {
    "vocab_size": 258,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "bos_token_id": None,
    "eos_token_id": None,
}


def gpt2() -> Policy:
    return Policy.new(TOKENIZER, width=16, context=32)


def llama() -> Policy:
    from transformers import LlamaConfig, LlamaForCausalLM

    return Policy(LlamaForCausalLM(LlamaConfig(**SIZES)), TOKENIZER)


def mistral(window: int) -> Policy:
    from transformers import MistralConfig, MistralForCausalLM

    return Policy(MistralForCausalLM(MistralConfig(**SIZES, sliding_window=window)), TOKENIZER)


@torch.no_grad()
def uncached(policy: Policy, tokens: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> torch.Tensor:
    """One row at a time, nothing after its end: no cache, no padding."""
    return torch.cat(
        [
            policy.hidden(torch.from_numpy(t[None, :n])).last_hidden_state[:, -1]
            for t, n in zip(tokens, lengths, strict=True)
        ]
    )


@pytest.mark.parametrize(
    "policy", [gpt2(), llama(), mistral(64), mistral(4)], ids=["gpt2", "llama", "window", "narrow"]
)
def test_rows_that_grow_restart_and_wait_equal_the_uncached_model(policy: Policy) -> None:
    rng = np.random.default_rng(0)
    cache = PrefixCache(policy, rows=5, width=12)
    tokens, lengths = rng.integers(0, 258, (5, 12)), rng.integers(1, 6, 5)
    for _ in range(60):
        assert torch.allclose(cache.read(tokens, lengths), uncached(policy, tokens, lengths), atol=1e-5)
        for i in range(5):
            what = rng.random()
            if what < 0.1 or lengths[i] == 12:
                tokens[i], lengths[i] = rng.integers(0, 258, 12), rng.integers(1, 6)
            elif what < 0.8:
                lengths[i] += 1


def test_only_what_is_new_is_computed() -> None:
    cache = PrefixCache(gpt2(), rows=3, width=8)
    tokens, lengths = np.arange(24).reshape(3, 8), np.array([2, 3, 2])
    cache.read(tokens, lengths)
    assert (cache.prefilled, cache.steps) == (3, 0)
    cache.read(tokens, lengths)
    assert (cache.prefilled, cache.steps) == (3, 0)
    cache.read(tokens, lengths + 1)
    assert (cache.prefilled, cache.steps) == (3, 1)
    tokens[1, 0] += 1  # an earlier token of one row is another now
    cache.read(tokens, lengths + 2)
    assert (cache.prefilled, cache.steps) == (4, 2)
    cache.read(tokens, lengths + 4)  # two tokens more, as a reply has them
    assert (cache.prefilled, cache.steps) == (4, 4)
    cache.read(tokens, lengths)  # and shorter again
    assert (cache.prefilled, cache.steps) == (7, 4)


@pytest.mark.parametrize("how", ["optimizer", "load", "in place"])
def test_changed_weights_void_the_cache(how: str) -> None:
    policy = gpt2()
    cache = PrefixCache(policy, rows=2, width=8)
    tokens, lengths = np.arange(16).reshape(2, 8), np.array([3, 5])
    before = cache.read(tokens, lengths).clone()
    if how == "load":
        policy.load_state_dict(Policy.new(TOKENIZER, width=16, context=32, seed=1).state_dict())
    elif how == "in place":
        with torch.no_grad():
            policy.model.transformer.ln_f.bias.add_(1.0)
    else:
        optimizer = torch.optim.Adam(policy.parameters(), lr=0.1)
        policy.evaluate(
            torch.from_numpy(tokens), torch.tensor([1, 1]), torch.tensor([3, 3])
        ).log_probs.sum().backward()
        optimizer.step()
    after = cache.read(tokens, lengths)
    assert not torch.allclose(before, after, atol=1e-2)
    assert torch.allclose(after, uncached(policy, tokens, lengths), atol=1e-5)


def test_a_token_appended_to_all_rows_is_found_again_and_not_computed_twice() -> None:
    policy = gpt2()
    cache = PrefixCache(policy, rows=3, width=4)
    tokens, lengths = np.array([[1, 2, 9, 9], [3, 4, 5, 6], [7, 9, 9, 9]]), np.array([2, 4, 1])
    cache.read(tokens, lengths)
    cache.append(np.array([20, 21, 22]))  # row 1 is full
    grown = np.array([[1, 2, 20, 9], [3, 4, 5, 6], [7, 22, 9, 9]])
    assert cache.find(grown, np.array([3, 4, 2])).tolist() == [0, 1, 2]
    assert cache.find(grown, np.array([2, 3, 1])).tolist() == [-1, -1, -1]
    states = cache.states(np.array([2, 0]))
    assert torch.allclose(states, uncached(policy, grown[[2, 0]], np.array([2, 3])), atol=1e-5)
    assert torch.allclose(
        cache.read(grown, np.array([3, 4, 2])), uncached(policy, grown, np.array([3, 4, 2])), atol=1e-5
    )
    assert (cache.prefilled, cache.steps) == (3, 1)
