"""Rollouts with weights of 8 bits, against a model in float64 whose factors are rounded by hand."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from tests.small_models import small_policy
from text_gym import TextVectorEnv, WordTokenizer, load_task
from text_gym.agents import GRPO, GRPOConfig, LoRAPolicy, Policy, PPOConfig, rollout
from text_gym.agents.sampling.decoder import Decoder
from text_gym.agents.sampling.sampler import Sampling
from text_gym.errors import ConfigError, NonFiniteError
from text_gym.models.cpu.fast_path import has_kernels

pytestmark = pytest.mark.skipif(not has_kernels(), reason="no compiled kernels here")
LETTERS = WordTokenizer("abcdefghi", separator="")
WIDE: dict[str, dict[str, Any]] = {  # more than one group of 64 inputs, and a rest
    "gpt2": {"n_embd": 96, "n_head": 4, "initializer_range": 0.1},
    "llama": {"hidden_size": 96, "intermediate_size": 150, "initializer_range": 0.1},
    "qwen3": {"hidden_size": 80, "intermediate_size": 72, "head_dim": 4, "initializer_range": 0.1},
}


def rounded(x: Tensor, size: int) -> Tensor:
    """Round groups of so many neighbours in the last dimension to 255 steps, by definition."""
    parts = []
    for part in x.split(size, -1):
        step = part.abs().amax(-1, keepdim=True) / 127
        parts.append((part / step).round() * step)
    return torch.cat(parts, -1)


def rounded_model(policy: Policy) -> Any:
    """The policy's model in float64, whose linear layers round their weights and what they are given."""
    model = copy.deepcopy(policy.model).double()
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone())  # the embedding that it shares is not rounded

    def round_input(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (rounded(given[0], 64),)

    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data = rounded(layer.weight.data, layer.in_features)
        elif type(layer).__name__ == "Conv1D":
            layer.weight.data = rounded(layer.weight.data.T, len(layer.weight)).T
        else:
            continue
        layer.register_forward_pre_hook(round_input)
    return model


@torch.no_grad()
def said(model: Any, ids: list[int], start: int) -> Tensor:
    """Log-probabilities of a text's ids from `start` on."""
    log_p = torch.log_softmax(model(torch.tensor([ids])).logits[0, start - 1 : -1].double(), 1)
    return log_p.gather(1, torch.tensor(ids[start:])[:, None])[:, 0]


def world(rows: int) -> TextVectorEnv:
    return TextVectorEnv(["abc", "a", "hgfedcb", "dd"], LETTERS, share_of_a, 12, num_envs=rows)


def share_of_a(completion: str) -> float:
    return completion.count("a") / max(1, len(completion))


def whole_texts(batch: Any) -> list[list[int]]:
    return [[*e.prompt_ids.tolist(), *e.completion_ids.tolist()] for e in batch.episodes]


@pytest.mark.parametrize("kind", WIDE)
def test_log_probs_are_those_of_the_rounded_model_and_of_the_policy(kind: str) -> None:
    policy = small_policy(kind, LETTERS, **WIDE[kind])
    batch = rollout(policy, world(16), np.arange(16), weights="int8", keep_states=True)
    assert batch.generator_log_probs is not None
    by_hand, exact = rounded_model(policy), copy.deepcopy(policy.model).double()
    gaps, effects = [], []
    for i, (ids, start) in enumerate(zip(whole_texts(batch), batch.starts.tolist(), strict=True)):
        drawn = batch.generator_log_probs[i, : len(ids) - start].double()
        wanted, plain = said(by_hand, ids, start), said(exact, ids, start)
        gaps.append((drawn - wanted).abs())
        effects.append((drawn - plain).abs())
        assert (batch.log_probs[i, : len(ids) - start] - plain).abs().max() < 1e-4
    gap, effect = torch.cat(gaps), torch.cat(effects)
    # A number halfway between two steps may be rounded the other way in float32, and moves what follows.
    assert (gap < 1e-4).double().mean() > 0.8
    assert gap.mean() < effect.mean() / 10
    assert float(effect.mean()) == pytest.approx(batch.metrics()["generator_gap"], rel=1e-3)

    again = policy.evaluate(batch.tokens, batch.starts, batch.lengths)
    assert torch.allclose(batch.values, again.values, rtol=1e-4, atol=1e-4)
    assert batch.states is not None
    assert torch.allclose(
        policy.values(batch.states)[batch.mask], again.values[batch.mask], rtol=1e-4, atol=1e-4
    )


def test_the_temperature_is_that_of_the_draw() -> None:
    policy = small_policy("llama", LETTERS, **WIDE["llama"])
    batch = rollout(policy, world(16), np.arange(16), weights="int8", sampling=Sampling(temperature=0.7))
    again = policy.evaluate(batch.tokens, batch.starts, batch.lengths, temperature=0.7)
    assert torch.allclose(batch.log_probs, again.log_probs, atol=1e-5)
    assert 0 < batch.metrics()["generator_gap"] < 0.2


def test_tokens_are_drawn_from_the_distribution_that_is_told() -> None:
    policy = small_policy("gpt2", LETTERS, **WIDE["gpt2"])
    prompt = TextVectorEnv(["abc"], LETTERS, share_of_a, 1, num_envs=4096)
    batch = rollout(policy, prompt, np.arange(4096), weights="int8")
    with torch.no_grad():
        ids = torch.tensor([LETTERS.encode("abc")])
        chances = rounded_model(policy)(ids).logits[0, -1].softmax(0).numpy()
    drawn = batch.tokens[torch.arange(4096), batch.starts].numpy()
    counts = np.bincount(drawn, minlength=len(chances))
    often = chances * 4096 > 5
    seen, expected = counts[often], chances[often] * 4096
    assert stats.chisquare(seen, expected * seen.sum() / expected.sum()).pvalue > 1e-3
    told = np.exp(batch.generator_log_probs[:, 0].numpy())  # type: ignore[index]
    assert np.abs(told - chances[drawn]).max() < 1e-4


def test_a_row_does_not_depend_on_the_others() -> None:
    policy = small_policy("llama", LETTERS, **WIDE["llama"])
    many = rollout(policy, world(16), np.arange(16), weights="int8")
    few = rollout(policy, world(3), np.array([5, 9, 11]), weights="int8")
    assert whole_texts(few) == [whole_texts(many)[k] for k in (5, 9, 11)]


def test_new_weights_are_rounded_anew() -> None:
    policy = small_policy("gpt2", LETTERS, **WIDE["gpt2"])
    first = rollout(policy, world(8), np.arange(8), weights="int8")
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    second = rollout(policy, world(8), np.arange(8), weights="int8")
    assert whole_texts(first) != whole_texts(second)
    assert second.metrics()["generator_gap"] < 0.2


def test_an_agent_learns_with_it_and_logs_the_mismatch() -> None:
    policy = small_policy("llama", LETTERS, **WIDE["llama"])
    seen: list[dict[str, Any]] = []
    config = GRPOConfig(iterations=2, group_size=4, rollout_weights="int8")
    GRPO(policy, world(8), config).learn(callback=lambda _, metrics: seen.append(dict(metrics)))
    for metrics in seen:
        assert 0 < metrics["generator_gap"] < metrics["generator_gap_max"] < 1
        assert metrics["generator_kl"] > 0
        assert 0.9 < metrics["generator_ess"] <= 1


@pytest.mark.parametrize("why", ["float64", "adapter", "other", "bf16", "no kernels", "greedy", "generator"])
def test_where_it_is_impossible_it_is_refused_by_name(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy: Policy = small_policy("gpt2", LETTERS)
    how: dict[str, Any] = {}
    said = {"adapter": "adapters", "other": "GPT-2 and the Llama family", "no kernels": "kernels are missing"}
    if why == "float64":
        policy = small_policy("gpt2", LETTERS, dtype=torch.float64)
    elif why == "adapter":
        policy = LoRAPolicy(policy, rank=2)
    elif why == "other":
        policy = small_policy("cohere", LETTERS)
    elif why == "bf16":
        policy.use_less_memory(bf16=True)
    elif why == "no kernels":
        monkeypatch.setattr("text_gym.models.cpu.fast_path.kernels_for", lambda _: None)
    elif why == "greedy":
        how["sampling"] = Sampling(greedy=True)
    else:
        how["generator"] = object()
    with pytest.raises(ConfigError, match=said.get(why, why)):
        rollout(policy, world(4), np.arange(4), weights="int8", **how)
    if why not in ("greedy", "generator"):
        with pytest.raises(ConfigError, match=said.get(why, why)):
            GRPO(policy, world(4), GRPOConfig(group_size=2, rollout_weights="int8"))


def test_no_other_weights_are_known() -> None:
    with pytest.raises(ConfigError, match="choose float32 or int8"):
        PPOConfig(rollout_weights="int4")  # type: ignore[arg-type]


@pytest.mark.parametrize("where", ["embedding", "layer"])
def test_a_broken_policy_is_told(where: str) -> None:
    policy = small_policy("llama", LETTERS)
    rollout(policy, world(4), np.arange(4), weights="int8")  # tried out while it was whole
    trunk = policy.model.base_model
    broken = trunk.embed_tokens.weight if where == "embedding" else trunk.layers[1].mlp.down_proj.weight
    with torch.no_grad():
        broken[2 if where == "layer" else slice(None), 0] = float("nan")
    with pytest.raises(NonFiniteError):
        rollout(policy, world(4), np.arange(4), weights="int8")


def test_the_default_is_float32() -> None:
    policy = small_policy("llama", LETTERS)
    batch = rollout(policy, world(4), np.arange(4))
    assert batch.generator_log_probs is None
    decoder = Decoder(policy, batch.tokens.numpy(), batch.starts.numpy(), 4)
    with torch.no_grad():
        prompts = [ids[:start] for ids, start in zip(whole_texts(batch), batch.starts.tolist(), strict=True)]
        wanted = [policy.model(torch.tensor([ids])).logits[0, -1] for ids in prompts]
    assert torch.allclose(decoder.logits(decoder.states), torch.stack(wanted), atol=1e-4)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(3))
def test_grpo_learns_as_much_as_with_float32(seed: int) -> None:
    task = load_task("enumerable", seed=0)

    def reached(weights: Any) -> float:
        policy = small_policy("gpt2", task.tokenizer, seed=seed)
        config = GRPOConfig(iterations=60, group_size=8, kl_coef=0.0, learning_rate=3e-3, seed=seed)
        found: list[float] = []
        config = replace(config, rollout_weights=weights)
        agent = GRPO(policy, TextVectorEnv(task=task, num_envs=64), config)
        agent.learn(callback=lambda _, metrics: found.append(float(metrics["reward"])))
        assert np.mean(found[-5:]) > np.mean(found[:5]) + 0.1
        return float(np.mean(found[-5:]))

    assert reached("int8") > reached("float32") - 0.05
