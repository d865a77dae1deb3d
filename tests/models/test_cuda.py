"""Everything that learns runs on a simulated GPU: nothing is mixed up, and hardly anything is waited for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.simulated_cuda import CUDA, SimulatedCUDA
from text_gym import ByteTokenizer, Prompt, TextVectorEnv
from text_gym.agents import (
    DPO,
    GRPO,
    PPO,
    REINFORCE,
    RLOO,
    SFT,
    Agent,
    BestOfN,
    BestOfNConfig,
    DPOConfig,
    GRPOConfig,
    LoRAPolicy,
    Policy,
    PPOConfig,
    REINFORCEConfig,
    RLOOConfig,
    Rollout,
    SFTConfig,
    evaluate,
    rollout,
)
from text_gym.agents.algorithms.sft import completion_loss
from text_gym.agents.policies.memory import Splitter
from text_gym.agents.sampling import sampler
from text_gym.agents.sampling.decoder import Decoder
from text_gym.errors import ConfigError
from text_gym.models.loading import pick_device
from text_gym.models.runtime import allow_tf32, on_host, pick_dtype, read_numbers, upload
from text_gym.models.sizes import sizes_of, using
from text_gym.reward_models import PreferencePair, Rating, RewardModel, RewardTrainer, RewardTrainingConfig

TOKENIZER = ByteTokenizer()
SHARE = sizes_of(CUDA).free_share
PROMPTS = ["a", "bcd", "ef"]  # of different lengths
ALGORITHMS: dict[str, tuple[type[Agent[Any]], Any]] = {
    "ppo": (PPO, PPOConfig(epochs=1)),
    "ppo, shared critic": (PPO, PPOConfig(epochs=2, critic="shared", entropy_coef=0.01)),
    "ppo, separate critic": (PPO, PPOConfig(epochs=1, critic="separate")),
    "grpo": (GRPO, GRPOConfig(epochs=1, group_size=4)),
    "rloo": (RLOO, RLOOConfig(epochs=1, group_size=4)),
    "reinforce": (REINFORCE, REINFORCEConfig(baseline="critic")),
    "best_of_n": (BestOfN, BestOfNConfig(n=4, epochs=1)),
}
# Kernels of a decode step of two layers, drawing and records included, as counted on 2026-11-29.
LAUNCHES = {"gpt2": 57, "llama": 120}


@pytest.fixture
def gpu() -> Iterator[SimulatedCUDA]:
    with SimulatedCUDA() as simulated:
        yield simulated


def make_policy(kind: str = "gpt2", device: str = "cuda") -> Policy:
    if kind == "gpt2":
        return Policy.new(TOKENIZER, width=16, layers=2, heads=2, context=192, device=device)
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=TOKENIZER.vocab_size,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=192,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Policy(LlamaForCausalLM(config), TOKENIZER, device)


def make_env(tokens: int = 6, rows: int = 8, reward: Any = None) -> TextVectorEnv:
    def distinct(completion: str) -> float:
        return len(set(completion)) / 3

    ends = tuple("bdfhjlnprtvxz")  # after any of them, so that texts are of many lengths
    more: dict[str, Any] = {"num_envs": rows, "numbering": "global", "stop": ends}
    return TextVectorEnv(PROMPTS, TOKENIZER, reward or distinct, tokens, **more)


# The simulator finds what CUDA would refuse


def test_the_simulated_device_refuses_the_hosts_tensors(gpu: SimulatedCUDA) -> None:
    here = torch.arange(6.0, device="cuda")
    assert here.device == CUDA
    assert (here * torch.tensor(2.0)).tolist() == [0, 2, 4, 6, 8, 10]  # a single number may be the host's
    with pytest.raises(RuntimeError, match="same device"):
        here + torch.ones(6)
    with pytest.raises(RuntimeError, match="same device"):
        torch.arange(6)[here.long()]
    with pytest.raises(TypeError, match=r"cpu\(\) first"):
        here.numpy()
    assert len(gpu.faults) == 2


def test_the_simulated_device_counts_waits_and_kernels(gpu: SimulatedCUDA) -> None:
    here = torch.ones(6, device="cuda")
    waiting: dict[str, Callable[[], Any]] = {
        "number": lambda: here.sum().item(),
        "truth": lambda: bool(here.sum() > 0),
        "copy": lambda: here.cpu(),
        "mask": lambda: here[here > 0],
        "list": lambda: here[[0, 1]],
        "pageable": lambda: torch.ones(3).to("cuda:0"),
    }
    for name, work in waiting.items():
        with gpu.phase(name):
            work()
        assert gpu.waits_in(name) == 1, name
    with gpu.phase("free"):
        here[here > 0] = 2.0
        torch.ones(3).pin_memory().to("cuda:0", non_blocking=True)
        here.view(2, 3).t()
    assert gpu.waits_in("free") == 0
    assert gpu.launches_in("free") == 3  # compare, fill, copy


def test_transfers(gpu: SimulatedCUDA) -> None:
    with gpu.phase("to"):
        here = upload(np.array([3, 4]), CUDA)
    with gpu.phase("back"):
        found = on_host(here, here + 1)
        numbers = read_numbers([here[0], here.sum() / 2])
    assert [x.tolist() for x in found] == [[3, 4], [4, 5]]
    assert numbers == [3.0, 3.5]
    assert (gpu.waits_in("to"), gpu.waits_in("back")) == (0, 2)
    assert read_numbers([]) == []


# Decoding


@pytest.mark.parametrize("kind", LAUNCHES)
def test_decoding_waits_once_in_sixteen_steps(gpu: SimulatedCUDA, kind: str) -> None:
    policy, index = make_policy(kind), np.arange(8)
    rollout(policy, make_env(1), index)  # tries the cache out
    batches = {}
    for tokens in (16, 32):
        with gpu.phase(str(tokens)):
            batches[tokens] = rollout(policy, make_env(tokens), index)
    assert gpu.faults == []
    assert min(batches[32].host_lengths) < 32, "nothing ended early: compaction was not tried"
    # Beside a read every 16 steps, one at the end says that all logits were finite, one what the lengths are.
    assert gpu.waits_in("16") == 1 + 2, gpu.lines("16")
    assert gpu.waits_in("32") == 2 + 2, gpu.lines("32")
    launches = (gpu.launches_in("32") - gpu.launches_in("16")) / 16
    assert launches <= LAUNCHES[kind], f"{launches} launches a step"


@pytest.mark.parametrize("kind", LAUNCHES)
def test_the_simulated_device_draws_what_the_cpu_draws(kind: str) -> None:
    expected = rollout(make_policy(kind, "cpu"), make_env(20), np.arange(8))
    several = replace(sizes_of(CUDA), width_bucket=8)  # are filled
    with using(several, CUDA), SimulatedCUDA():
        found = rollout(make_policy(kind), make_env(20), np.arange(8))
        far = (found.log_probs.cpu() - expected.log_probs).abs().max()
    assert [e.completion for e in found.episodes] == [e.completion for e in expected.episodes]
    assert far < 1e-4


@pytest.mark.parametrize(("rows", "parts"), [(3.5, [3, 3, 2]), (0, [1] * 8)])
def test_a_rollout_plays_what_there_is_free_memory_for(
    gpu: SimulatedCUDA, monkeypatch: pytest.MonkeyPatch, rows: float, parts: list[int]
) -> None:
    policy, index = make_policy("llama"), np.arange(8)
    expected = rollout(policy, make_env(4), index)
    # Two layers of two heads of size 4: float32 keys and values of a bucket of 128 columns.
    kept = 2 * 2 * 2 * 4 * 4 * 128
    prompt = 7 * 32 * 16 * 4  # the longest text; 32 numbers a unit of width
    free = int(rows * (kept + prompt + 3 * 4 * TOKENIZER.vocab_size) / SHARE) + 1
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (free, 2**40))
    played: list[int] = []

    class Spy(Decoder):
        def __init__(self, policy: Policy, tokens: Any, *args: Any, **kwargs: Any) -> None:
            played.append(len(tokens))
            super().__init__(policy, tokens, *args, **kwargs)

    monkeypatch.setattr(sampler, "Decoder", Spy)
    found = rollout(policy, make_env(4), index)
    assert played == parts
    assert [e.completion for e in found.episodes] == [e.completion for e in expected.episodes]
    assert gpu.faults == []


def test_micro_batches_are_what_there_is_free_memory_for(
    gpu: SimulatedCUDA, monkeypatch: pytest.MonkeyPatch
) -> None:
    def free(now: int, reserved: int = 0, allocated: int = 0) -> None:
        found = {"mem_get_info": (now / SHARE, 2**40)}
        found |= {"memory_reserved": reserved / SHARE, "memory_allocated": allocated / SHARE}  # type: ignore[dict-item]
        for name, value in found.items():
            monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)

    def sizes(most: int | None = None) -> list[int]:
        parts = Splitter(CUDA, most, token_bytes=100).run(torch.full((8,), 10), list)
        return sorted(len(part) for part in parts)

    for now, parts in ((0, [1] * 8), (3000, [2, 3, 3]), (8000, [8])):
        free(now)
        assert sizes() == parts
        assert sizes(most=4) == [4, 4]  # what was asked for is kept to
    free(0, reserved=9000, allocated=6000)
    assert sizes() == [2, 3, 3]  # what PyTorch keeps for later


# Learning


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_update_waits_twice_a_minibatch(gpu: SimulatedCUDA, name: str) -> None:
    kind, config = ALGORITHMS[name]
    agent = kind(make_policy(), make_env(), config)
    batch = agent.collect()
    steps = count_steps(agent)
    with gpu.phase("update"):
        agent.update(batch)
    assert gpu.faults == []
    # What is read once an update: lengths, KL, means, and what a critic's or a group's bookkeeping needs.
    assert gpu.waits_in("update") <= 2 * len(steps) + 12, gpu.lines("update")
    in_steps = sum(n for where, n in gpu.lines("update").items() if "apply_gradients" in where)
    assert in_steps <= len(steps)


def count_steps(agent: Agent[Any]) -> list[int]:
    steps: list[int] = []
    take = agent.optimizer.step

    def step(*args: Any, **kwargs: Any) -> Any:
        steps.append(1)
        return take(*args, **kwargs)

    agent.optimizer.step = step  # type: ignore[method-assign]
    return steps


def test_micro_batches_wait_once_each(gpu: SimulatedCUDA) -> None:
    config = PPOConfig(critic="shared", epochs=1, minibatches=1, micro_batch_size=1)
    agent = PPO(make_policy(), make_env(), config)
    batch = agent.collect()
    with gpu.phase("gradient"):
        agent.gradient(batch, torch.arange(8), all_known(agent, batch))
    assert gpu.waits_in("gradient") == 8, gpu.lines("gradient")  # of one row each


def all_known(agent: PPO, batch: Rollout) -> dict[str, torch.Tensor]:
    zeros = torch.zeros_like(batch.values)
    known = {"log_probs": batch.log_probs, "values": batch.values, "returns": batch.rewards}
    return known | {"reference": batch.log_probs, "advantages": zeros + 1}


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_learning_on_the_simulated_device_is_learning_on_the_cpu(name: str) -> None:
    rewards, weights = learn(name, "cpu")
    with SimulatedCUDA() as gpu:
        found_rewards, found_weights = learn(name, "cuda")
    assert gpu.faults == []
    assert found_rewards == pytest.approx(rewards, abs=1e-4)
    assert torch.allclose(found_weights, weights, atol=1e-4)


def learn(name: str, device: str) -> tuple[list[float], torch.Tensor]:
    """Learn for two iterations; return their objectives, and the weights in the end."""
    kind, config = ALGORITHMS[name]
    found: list[float] = []
    agent = kind(make_policy(device=device), make_env(), config)
    agent.learn(2, callback=lambda _, metrics: found.append(metrics["objective"]))
    return found, torch.cat([p.detach().cpu().flatten() for p in agent.policy.parameters()])


def test_an_adapter_learns(gpu: SimulatedCUDA) -> None:
    GRPO(LoRAPolicy(make_policy(), rank=2), make_env(), GRPOConfig(epochs=1, group_size=4)).learn(1)
    assert gpu.faults == []


def test_fine_tuning_preferences_and_evaluation(gpu: SimulatedCUDA) -> None:
    policy = make_policy()
    pairs = [(Prompt("a"), "bcd"), (Prompt("bb"), "e"), (Prompt("cab"), "i"), (Prompt("d"), "ef")]
    with gpu.phase("sft"):
        SFT(policy, pairs, SFTConfig(epochs=2, batch_size=2)).learn()
    assert np.isfinite(completion_loss(policy, pairs))
    preferences = [(prompt, text, "no") for prompt, text in pairs]
    reference = policy.frozen()
    learner = DPO(policy, preferences, DPOConfig(epochs=2, batch_size=2), reference)
    with gpu.phase("dpo"):
        learner.learn()
    report = evaluate(policy, make_env(), reference=reference)
    assert np.isfinite(report.kl.mean)
    assert gpu.faults == []
    assert gpu.waits_in("sft") <= 4 + 1, gpu.lines("sft")  # 4 steps; and a check of the weights
    assert gpu.waits_in("dpo") <= 2 * 4, gpu.lines("dpo")


@pytest.mark.parametrize("loss", ["pairs", "squared", "ordinal"])
def test_reward_models_learn_and_pay(gpu: SimulatedCUDA, loss: str) -> None:
    model = RewardModel.new(TOKENIZER, width=16, layers=1, heads=2, context=32, device="cuda")
    config: dict[str, Any] = {"epochs": 2, "batch_size": 2}
    if loss == "pairs":
        opinions: Any = [PreferencePair(Prompt(f"p{i}"), "good", "bad") for i in range(6)]
    else:
        opinions = [Rating(Prompt(f"p{i}"), "text", {"reward": float(i % 3)}) for i in range(6)]
        config["loss"] = loss
    RewardTrainer(model, opinions, RewardTrainingConfig(**config)).learn()
    agent = GRPO(make_policy(), make_env(reward=model), GRPOConfig(epochs=1, group_size=4))
    agent.learn(1)
    assert gpu.faults == []


# Precision


def test_tf32_is_allowed_on_cuda_unless_somebody_said_no(
    gpu: SimulatedCUDA, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    set_to: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", set_to.append)
    monkeypatch.setenv("TEXT_GYM_TF32", "0")
    allow_tf32(CUDA)
    monkeypatch.delenv("TEXT_GYM_TF32")
    allow_tf32(torch.device("cpu"))
    assert set_to == []
    with caplog.at_level("INFO", "text_gym"):
        allow_tf32(CUDA)
    assert set_to == ["high"]
    assert "TF32" in caplog.text
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    allow_tf32(CUDA)
    assert set_to == ["high"]


def test_a_dtype_that_the_device_lacks_is_refused(
    gpu: SimulatedCUDA, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    assert [pick_dtype(x, cpu) for x in ("auto", "float32", "bfloat16")] == ["float32", "float32", "bfloat16"]
    assert pick_dtype("auto", CUDA) == "bfloat16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert pick_dtype("auto", CUDA) == "float32"
    with pytest.raises(ConfigError, match="cuda:0 does not have it; choose float32 or auto"):
        pick_dtype("bfloat16", CUDA)
    with pytest.raises(ConfigError, match="unknown dtype 'float8'"):
        pick_dtype("float8", cpu)
    with pytest.raises(ConfigError, match="'mps' has no float64"):
        pick_device("mps")
