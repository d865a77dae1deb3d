from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from tests.small_models import KINDS, OTHER_KINDS, plain_forward, small_policy
from text_gym.agents import Policy
from text_gym.agents.sampling import decoder as module
from text_gym.agents.sampling.decoder import Decoder, fastest_cache, survivors
from text_gym.agents.sampling.own_code import LibraryCache, NoCache
from text_gym.models.cpu.kernels import kernels_for
from text_gym.models.kv_cache import ExtendingCache, KeyValues


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("kind", [*KINDS, *OTHER_KINDS])
def test_tokens_read_one_by_one_equal_texts_read_alone(kind: str, fast: bool, dtype: torch.dtype) -> None:
    if kind == "gemma2" and dtype == torch.float64:
        pytest.skip("transformers computes Gemma 2's softmax in float32, where its float64 mask is -inf")
    policy = small_policy(kind, dtype=dtype)
    in_float32 = dtype == torch.float32 or kind in ("gpt_neo", "mamba")  # they compute some of it in float32
    tolerance = 2e-5 if in_float32 else 1e-12  # both sides round
    rng = np.random.default_rng(1)
    rows = [[1], [2, 3], [4, 5, 6, 7], [8, 9, 10]]
    prompts = np.array([ids + [0] * (5 - len(ids)) for ids in rows])
    with torch.no_grad():
        decoder = Decoder(policy, prompts, np.array([len(ids) for ids in rows]), room=9, fast=fast)
        for t in range(10):
            for ids, state in zip(rows, decoder.states, strict=True):
                log_p, values = (x.to(dtype) for x in plain_forward(policy, [*ids, 0], len(ids)))
                found = torch.log_softmax(policy.logits(state), -1)
                assert torch.allclose(found, log_p[0], rtol=0, atol=tolerance)
                assert torch.allclose(policy.values(state), values[0], rtol=tolerance, atol=tolerance)
            if t == 9:
                break
            if t in (0, 4):
                kept = np.array([2, 0, 3] if t == 0 else [0, 2])
                decoder.keep(kept)
                rows = [rows[i] for i in kept]
            drawn = rng.integers(0, 11, len(rows))
            decoder.step(torch.from_numpy(drawn))
            rows = [[*ids, int(token)] for ids, token in zip(rows, drawn, strict=True)]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_rows_are_read_on_by_any_number_of_tokens(kind: str) -> None:
    policy = small_policy(kind)
    tokens = np.random.default_rng(0).integers(0, 11, (6, 16))
    lengths = np.array([1, 2, 4, 3])
    with torch.no_grad():
        decoder = Decoder(policy, tokens[[5, 0, 3, 2]], lengths, room=12)
        if not isinstance(decoder._cache, ExtendingCache):
            pytest.skip("no kernels here")
        decoder.keep(np.array([0, 3, 2]))
        rows, lengths = np.array([5, 2, 3]), lengths[[0, 3, 2]]
        for more in ([1, 1, 1], [3, 1, 5], [0, 2, 0], [2, 0, 1], [1, 1, 1]):
            lengths = lengths + np.array(more)
            assert decoder.extend(tokens, rows, lengths).tolist() == lengths.tolist()
            for i in np.flatnonzero(more):
                text = torch.from_numpy(tokens[rows[i] : rows[i] + 1, : lengths[i]])
                expected = policy.hidden(text).last_hidden_state[0, -1]
                assert torch.allclose(decoder.states[i], expected, rtol=0, atol=2e-5)
            assert (decoder.states[np.flatnonzero(np.array(more) == 0)] == 0).all()


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral", "gemma2"])
def test_a_prompt_of_several_rows_is_read_once(
    kind: str, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group's rows begin alike and go on apart; [1] is not [1, 0], whatever fills the row up."""
    policy, read = small_policy(kind), []
    hidden = policy.hidden

    def spy(tokens: torch.Tensor, **kwargs: Any) -> Any:
        read.append(tokens.shape)
        return hidden(tokens, **kwargs)

    rows = [[1, 0], [2, 3], [1], [1, 0], [2, 3], [1], [4, 5]]
    prompts = np.array([ids + [0] * (2 - len(ids)) for ids in rows])
    lengths = np.array([len(ids) for ids in rows])
    with torch.no_grad():
        Decoder(policy, prompts, lengths, room=9, fast=fast)  # tries the cache out
        monkeypatch.setattr(policy, "hidden", spy)
        decoder = Decoder(policy, prompts, lengths, room=9, fast=fast)
        assert read in ([], [(4, 2)])  # four prompts, unless kernels read them
        monkeypatch.undo()
        for tokens in ([1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1]):
            for ids, state in zip(rows, decoder.states, strict=True):
                expected = policy.hidden(torch.tensor([ids])).last_hidden_state[0, -1]
                assert torch.allclose(state, expected, rtol=0, atol=2e-5)
            decoder.step(torch.tensor(tokens))
            rows = [[*ids, token] for ids, token in zip(rows, tokens, strict=True)]


def test_the_fast_way_is_taken_where_there_is_one() -> None:
    """The cache of `transformers` is not even made."""
    prompts, lengths = np.array([[1, 2]]), np.array([2])
    for kind, expected in (("gpt2", False), ("llama", False), ("mistral", True)):
        decoder = Decoder(small_policy(kind), prompts, lengths, room=9)
        assert isinstance(decoder._cache, LibraryCache) == expected


def test_a_model_without_a_cache_reads_its_texts_again_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    prompts, lengths = np.array([[1, 2]]), np.array([2])
    for kind, expected in (("lfm2", LibraryCache), ("openai-gpt", NoCache), ("mamba", NoCache)):
        policy = small_policy(kind)
        for _ in range(2):
            assert type(Decoder(policy, prompts, lengths, room=9)._cache) is expected
    own = [r for r in caplog.records if r.name == "text_gym" and r.levelname == "WARNING"]
    told = [r.getMessage().split()[0] for r in own]
    assert told == ["OpenAIGPTLMHeadModel", "MambaForCausalLM"]  # once each


def test_summaries_of_columns_are_not_kept_where_padding_would_move_them() -> None:
    """DeepSeek V4 attends to blocks of columns, here of 4 and 8: more than the tokens of a trial."""
    if "deepseek_v4" not in transformers.CONFIG_MAPPING:
        pytest.skip("this version of transformers has no DeepSeek V4")
    policy = small_policy("deepseek_v4")
    texts = [[i % 9 for i in range(start, start + n)] for start, n in ((1, 20), (4, 9), (6, 14))]
    prompts = np.array([ids + [0] * (20 - len(ids)) for ids in texts])
    with torch.no_grad():
        decoder = Decoder(policy, prompts, np.array([len(ids) for ids in texts]), room=3)
        decoder.step(torch.tensor([7, 8, 9]))
        for ids, drawn, state in zip(texts, (7, 8, 9), decoder.states, strict=True):
            log_p, _ = plain_forward(policy, [*ids, drawn, 0], len(ids) + 1)
            found = torch.log_softmax(policy.logits(state), -1)
            assert torch.allclose(found, log_p[0], rtol=0, atol=2e-5)
    assert isinstance(decoder._cache, NoCache)


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_survivors_are_all_that_live_and_move_least(live: list[bool]) -> None:
    found = survivors(np.array(live)).tolist()
    assert sorted(found) == [i for i, alive in enumerate(live) if alive]
    stay = sum(live[: len(found)])  # rows that live within the new size need not move
    assert sum(i == row for i, row in enumerate(found)) == stay


FAST, OWN = "fast path", "own code"


def way_of(policy: Policy, width: int = 32) -> str | None:
    """How the cache that is chosen reads."""
    cache = fastest_cache(policy, 2, width)
    return None if cache is None else module._AGREED[policy.model]


def test_the_cache_is_chosen_by_what_the_model_is() -> None:
    assert way_of(small_policy()) == FAST
    assert way_of(small_policy(), width=64) == FAST
    assert way_of(small_policy(scale_attn_by_inverse_layer_idx=True)) == FAST
    assert way_of(small_policy(activation_function="relu")) == OWN
    assert way_of(small_policy(dtype=torch.bfloat16)) == OWN
    for kind in ("llama", "qwen2", "qwen3", "gemma"):
        assert way_of(small_policy(kind)) == (FAST if kernels_for(torch.zeros(1)) else OWN)
        assert way_of(small_policy(kind, dtype=torch.float64)) == OWN
    assert way_of(small_policy("mistral"), width=6) == OWN
    for kind in ("mistral", "gemma2", "gpt_neo"):  # windows of 6 tokens: their own cache forgets the rest
        assert way_of(small_policy(kind), width=7) is None


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_in_bfloat16_a_state_is_judged_by_its_length(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real models have some large components, beside which rounding puts the small ones far off."""
    policy = small_policy(kind).use_less_memory(bf16=True)
    norm = policy.model.base_model.ln_f if kind == "gpt2" else policy.model.base_model.norm
    with torch.no_grad():
        norm.weight.mul_(20)
    append = KeyValues.append

    def rounded(self: KeyValues, *arguments: Any) -> torch.Tensor:
        states = append(self, *arguments)
        smallest = states.abs().argmin(dim=-1, keepdim=True)
        return states.scatter_add(-1, smallest, 0.003 * states.norm(dim=-1, keepdim=True))

    monkeypatch.setattr(KeyValues, "append", rounded)
    assert way_of(policy) == OWN


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_cache_that_forgets_a_token_is_refused_in_bfloat16(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = small_policy(kind).use_less_memory(bf16=True)
    prefill = KeyValues.prefill

    def forgetful(self: KeyValues, tokens: torch.Tensor, *more: Any) -> torch.Tensor:
        return prefill(self, torch.cat([(tokens[:, :1] + 1) % policy.vocab_size, tokens[:, 1:]], 1), *more)

    monkeypatch.setattr(KeyValues, "prefill", forgetful)
    assert way_of(policy) is None


class Doubled(torch.nn.Module):
    """A layer whose output counts twice."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.weight, self.bias = inner, inner.weight, inner.bias

    def forward(self, x: torch.Tensor) -> Any:
        return 2 * self.inner(x)


@pytest.mark.parametrize("place", ["attn.c_attn", "mlp.c_fc", "ln_1", "mlp"])
def test_modules_put_into_gpt2_are_seen_even_after_it_was_found_to_agree(place: str) -> None:
    policy = small_policy()
    assert way_of(policy) == FAST
    block = policy.model.transformer.h[0]
    parent, _, name = place.rpartition(".")
    owner = block.get_submodule(parent)
    inner = getattr(owner, name)
    if name == "mlp":
        inner.weight = inner.bias = None
    setattr(owner, name, Doubled(inner))
    assert way_of(policy) == OWN


@pytest.mark.parametrize("hook", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_are_not_passed_over(hook: str) -> None:
    policy = small_policy()
    handle = getattr(policy.model.transformer.h[1], hook)(lambda *_: None)
    assert way_of(policy) == OWN
    handle.remove()
    assert way_of(policy) == FAST


def test_activations_equal_to_the_fused_one_do_not_slow_it_down() -> None:
    for approximate, expected in (("tanh", FAST), ("none", OWN)):
        policy = small_policy()
        for block in policy.model.transformer.h:
            block.mlp.act = torch.nn.GELU(approximate=approximate)
        assert way_of(policy) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_policys_own(kind: str) -> None:
    """Whatever an architecture does to its logits, and whatever rows its vocabulary is padded with."""
    policy = small_policy(kind)
    with torch.no_grad():
        decoder = Decoder(policy, np.array([[1, 2], [3, 0]]), np.array([2, 1]), room=1)
        found, wanted = decoder.logits(decoder.states), policy.logits(decoder.states)
    assert found.shape == (2, policy.vocab_size)
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-6)
