from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, LlamaConfig, MambaConfig

from text_gym import ByteTokenizer, TextVectorEnv
from text_gym.agents.algorithms.agent import Agent
from text_gym.agents.algorithms.best_of_n import BestOfN
from text_gym.agents.algorithms.configs import (
    AgentConfig,
    BestOfNConfig,
    GRPOConfig,
    PPOConfig,
    REINFORCEConfig,
    RLOOConfig,
)
from text_gym.agents.algorithms.grpo import GRPO
from text_gym.agents.algorithms.ppo import PPO
from text_gym.agents.algorithms.reinforce import REINFORCE
from text_gym.agents.algorithms.rloo import RLOO
from text_gym.agents.policies.lora import LoRAPolicy
from text_gym.agents.policies.policy import Policy
from text_gym.agents.sampling.decoder import Decoder
from text_gym.agents.sampling.own_code import own_code_cache
from text_gym.agents.training import memory_plan
from text_gym.agents.training.memory_plan import (
    MemoryPlan,
    MemoryRow,
    NotEnoughMemoryError,
    Shapes,
    available_memory,
    plan_memory,
)

BYTES = ByteTokenizer()
SHAPES = Shapes(episodes=8, prompt_tokens=2, max_tokens=4)
CASES: list[tuple[type[Agent[Any]], AgentConfig, str | None]] = [
    (PPO, PPOConfig(), "detached"),
    (PPO, PPOConfig(critic="separate"), "separate"),
    (PPO, PPOConfig(critic="shared"), "shared"),
    (GRPO, GRPOConfig(group_size=4), None),
    (RLOO, RLOOConfig(), None),
    (REINFORCE, REINFORCEConfig(), None),
    (BestOfN, BestOfNConfig(), None),
]


def nbytes(tensors: Iterable[Tensor | None]) -> int:
    """Bytes of the storages behind tensors, each counted once."""
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t is not None
    }
    return sum(storages.values())


def of_network(network: nn.Module) -> int:
    return nbytes([*network.parameters(), *network.buffers()])


@pytest.mark.parametrize("rank", [None, 4])
@pytest.mark.parametrize(("kind", "config", "critic"), CASES, ids=lambda x: getattr(x, "__name__", None))
def test_the_plan_is_what_an_agent_holds(
    kind: type[Agent[Any]],
    config: AgentConfig,
    critic: str | None,
    rank: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tensors that are alive in an iteration, against the rows of the plan, to the byte."""
    if rank is not None:
        pytest.importorskip("peft")
    policy = Policy.new(BYTES, width=64, layers=2, context=16)
    shapes = replace(SHAPES, critic=critic, lora=rank)
    plan = plan_memory(policy.model.config, shapes)
    assert plan.parameters == sum(p.numel() for p in policy.parameters())
    if rank is not None:
        policy = LoRAPolicy(policy, rank)
    env = TextVectorEnv(["ab", "b"], BYTES, lambda completion: float(len(completion)), 4, num_envs=8)
    agent = kind(policy, env, config)
    parameters = [p for network in agent.networks.values() for p in network.parameters()]
    gradients: list[int] = []  # whenever a step is taken
    step = agent.optimizer.step

    def counted() -> None:
        gradients.append(nbytes(p.grad for p in parameters))
        step()

    monkeypatch.setattr(agent.optimizer, "step", counted)
    agent.learn(1)
    shared = {p.data_ptr() for p in policy.parameters()}
    reference = [p for p in agent.reference.parameters() if p.data_ptr() not in shared]
    moments = [
        v for s in agent.optimizer.state.values() for v in s.values() if v.ndim
    ]  # not the number of steps
    alive = {
        "policy": nbytes(policy.parameters()),
        "reference policy": nbytes(reference),
        "gradients": max(gradients),
        "optimizer state": nbytes(moments),
    }
    if "critic" in agent.networks:
        alive["critic"] = of_network(agent.networks["critic"])
    assert {name: plan[name] for name in alive} == alive


CONFIGS = [
    GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=258, n_positions=32),
    LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=258,
        head_dim=16,
    ),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.model_type)
def test_the_kv_cache_is_what_a_decoder_holds(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    policy = Policy(AutoModelForCausalLM.from_config(config), BYTES)
    cache = own_code_cache(policy, 5, 11)
    monkeypatch.setattr("text_gym.agents.sampling.decoder.fastest_cache", lambda *_: cache)
    with torch.no_grad():
        Decoder(policy, np.full((5, 7), 3), np.array([7, 1, 2, 3, 4]), room=4)
    held = nbytes(t for layer in cache._layers for t in (layer._keys, layer._values))
    plan = plan_memory(policy.model.config, Shapes(episodes=5, prompt_tokens=7, max_tokens=4))
    assert plan["KV cache"] == held


def test_a_model_without_attention_has_no_keys_and_values() -> None:
    plan = plan_memory(MambaConfig(hidden_size=16, num_hidden_layers=2, vocab_size=258), SHAPES)
    assert "KV cache" not in {row.name for row in plan.rows}
    assert plan["policy"] == 4 * plan.parameters


def test_a_large_model_is_planned_without_its_weights() -> None:
    """7B parameters: 28 GB of weights, as many for the reference, and 56 GB of moments, in no time."""
    config = LlamaConfig()  # Llama 2 7B
    plan = plan_memory(config, Shapes(64, 128, 256, device="cuda"), available=80 * 10**9)
    assert plan.parameters == 6_738_415_616 + 4097
    assert plan["policy"] == plan["reference policy"] == 4 * plan.parameters
    assert plan["gradients"] == plan["optimizer state"] / 2 == 4 * 6_738_415_616  # no value head
    # 2 · 32 layers · 64 rows · 384 tokens · 4096 · 4 bytes
    assert plan["KV cache"] == 2 * 32 * 64 * 384 * 4096 * 4
    with pytest.raises(NotEnoughMemoryError, match=r"take 134\.8 GB, and the device has 80\.0 GB free; pass"):
        plan.check()
    assert "--lora 8" in " ".join(plan.lines())


def test_options_need_less() -> None:
    config = GPT2Config(n_embd=256, n_layer=8, n_head=4)
    shapes = Shapes(64, 100, 200, minibatches=4, critic="separate")
    plan = plan_memory(config, shapes)
    names = [name for name, _ in plan.options]
    assert names[:-1] == [
        "--lora 8",
        "--critic shared",
        "--micro-batch-size 1",
        "--gradient-checkpointing",
        "--episodes 32",
        "--max-tokens 100",
    ]
    assert all(peak <= plan.peak for _, peak in plan.options)
    assert plan.options[-1][1] == min(peak for _, peak in plan.options) < plan.peak / 2


def test_the_peak_is_that_of_the_larger_phase() -> None:
    rows = (MemoryRow("a", 10), MemoryRow("b", 5, "rollout"), MemoryRow("c", 7, "update", exact=False))
    plan = MemoryPlan(rows, 1, available=16)
    assert (plan.peak, plan.least, plan.fits) == (17, 10, False)
    plan.check()  # estimates alone never stop a run
    assert replace(plan, available=17).fits
    assert replace(plan, available=None).fits
    with pytest.raises(NotEnoughMemoryError, match="take a smaller model"):
        replace(plan, available=9).check()


def test_free_memory_is_within_the_limit_of_the_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_plan, "_CGROUPS", tmp_path)
    monkeypatch.setattr(memory_plan, "_MEMINFO", tmp_path / "meminfo")
    cpu = torch.device("cpu")
    assert (available_memory(cpu) or 1) > 0  # no such files: what the machine has
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    1000 kB\n")
    assert available_memory(cpu) == 1_024_000
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("600\n")
    assert available_memory(cpu) == 1_024_000
    (tmp_path / "memory.max").write_text("1000\n")
    assert available_memory(cpu) == 400
    assert available_memory(torch.device("meta")) is None


def test_of_minibatches_that_differ_the_largest_is_planned() -> None:
    small = GPT2Config(n_embd=32, n_layer=2, n_head=4)
    nine, five, four = (
        plan_memory(small, Shapes(episodes, 32, 32, minibatches=minibatches))["activations"]
        for episodes, minibatches in ((9, 2), (5, 1), (4, 1))
    )
    assert nine == five > four


def test_a_part_is_no_larger_than_its_minibatch() -> None:
    whole, larger = (
        plan_memory(GPT2Config(), Shapes(8, 32, 32, minibatches=2, micro_batch_size=size)) for size in (4, 64)
    )
    assert larger["activations"] == whole["activations"]
