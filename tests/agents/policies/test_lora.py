"""LoRA against `peft`'s own wrapper and merging, and against the model that it started from."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.small_models import parameters_of, same_parameters, small_policy
from text_gym import PretrainedTokenizer, TextVectorEnv, load_task
from text_gym.agents import PPO, Checkpoints, LoRAPolicy, Policy, PPOConfig, Sampling, rollout
from text_gym.cli.main import main
from text_gym.errors import ConfigError

pytestmark = pytest.mark.usefixtures("undrawn")

pytest.importorskip("peft")
TOKENS = torch.arange(40).view(4, 10) * 7 % 9
STARTS, LENGTHS = torch.tensor([1, 3, 2, 6]), torch.tensor([5, 7, 1, 4])


def adapted(kind: str = "gpt2", *, learnt: bool = False, **settings: Any) -> LoRAPolicy:
    """A small policy with an adapter, with `learnt` one that changes something."""
    policy = LoRAPolicy(small_policy(kind), rank=2, **settings)
    if learnt:
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name, weight in policy.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.3, generator=generator)
    return policy


def said(policy: Policy) -> Tensor:
    return policy.score(TOKENS, STARTS, LENGTHS)


def world(tokenizer: Any, num_envs: int = 16) -> TextVectorEnv:
    def reward(completion: str) -> float:
        return float(completion.count("a"))

    return TextVectorEnv(["a", "bc", "cab"], tokenizer, reward, 6, num_envs=num_envs, numbering="global")


def same(ours: Tensor, theirs: Tensor, kind: str) -> bool:
    """To the bit; but without an adapter there are fast paths, with arithmetic of their own."""
    fast = kind in ("gpt2", "llama")
    return torch.allclose(ours, theirs, rtol=0, atol=1e-5) if fast else torch.equal(ours, theirs)


def test_a_folder_is_loaded_and_adapted_in_one_call(tmp_path: Path) -> None:
    plain = small_policy("gpt2")
    plain.save(tmp_path)
    policy = LoRAPolicy.from_pretrained(tmp_path, plain.tokenizer, rank=2)
    assert isinstance(policy, LoRAPolicy)
    assert torch.equal(said(policy), said(adapted()))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
def test_nothing_changes_until_something_is_learnt(kind: str) -> None:
    plain = small_policy(kind)
    policy = adapted(kind)
    assert same(said(policy), said(plain), kind)
    assert torch.equal(policy.value_head.weight, plain.value_head.weight)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
def test_the_adapter_is_that_of_peft(kind: str) -> None:
    """The same adapter in peft's own wrapper says the same; so does peft's own merging."""
    import peft

    policy = adapted(kind, learnt=True)
    config = peft.LoraConfig(
        r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM", fan_in_fan_out=kind == "gpt2"
    )
    theirs: Any = peft.get_peft_model(small_policy(kind).model, config)
    own = dict(policy.model.named_parameters())
    with torch.no_grad():
        for name, weight in theirs.base_model.model.named_parameters():
            weight.copy_(own[name])
        logits = theirs(TOKENS).logits[..., :11]
        ours = policy.logits(policy.hidden(TOKENS).last_hidden_state)
        assert torch.allclose(ours, logits, rtol=0, atol=1e-5)
        merged = theirs.merge_and_unload()
        assert torch.allclose(merged(TOKENS).logits[..., :11], ours, rtol=0, atol=1e-5)
    assert float((said(policy) - said(small_policy(kind))).abs().max()) > 0.01


def test_only_adapter_and_value_head_are_trained() -> None:
    policy = adapted()
    trained = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert all(".lora_" in name or name.startswith("value_head") for name in trained)
    assert len([name for name in trained if "lora_A" in name]) == 2 * 4  # layers, matrices
    config = PPOConfig(critic="shared", iterations=2, warmup=0, learning_rate=0.01)
    agent = PPO(policy, world(policy.tokenizer), config)
    held = {id(p) for group in agent.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for name, p in policy.named_parameters() if name in trained}
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    agent.learn()
    for name, p in policy.named_parameters():
        assert torch.equal(p, before[name]) == (name not in trained), name


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mixtral"])
def test_the_reference_is_the_model_without_its_adapter_and_not_a_second_one(kind: str) -> None:
    policy = adapted(kind, learnt=True)
    reference = policy.frozen()
    assert same(said(reference), said(small_policy(kind)), kind)
    assert not torch.equal(said(policy), said(reference))  # it is on again
    assert reference.model is policy.model
    assert not any(p.requires_grad for p in reference.parameters())
    assert not any("lora" in name for name in [*reference.state_dict(), *dict(reference.named_parameters())])
    env = world(policy.tokenizer, 8)
    index = torch.arange(8).numpy()
    plain, without = (rollout(p, env, index, seed=3) for p in (small_policy(kind), reference))
    assert torch.equal(plain.tokens, without.tokens)


def test_sampling_says_what_scoring_says() -> None:
    policy = adapted(learnt=True)
    batch = rollout(policy, world(policy.tokenizer), torch.arange(16).numpy(), seed=1, sampling=Sampling())
    found = policy.score(batch.tokens, batch.starts, batch.lengths)
    assert torch.allclose(found, batch.log_probs, rtol=0, atol=1e-5)


def test_it_learns() -> None:
    policy = adapted()
    rewards: list[float] = []
    config = PPOConfig(iterations=12, learning_rate=0.02, warmup=0, kl_coef=0.0)
    agent = PPO(policy, world(policy.tokenizer, 64), config)
    agent.learn(callback=lambda _, metrics: rewards.append(metrics["reward"]))
    assert sum(rewards[-3:]) / 3 > rewards[0] + 1


def pretrained(folder: Path) -> PretrainedTokenizer:
    """A tokenizer that can be saved."""
    return PretrainedTokenizer.train(["the cat sat on the mat", "a dog lay in the sun"] * 5, 300)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mixtral"])
@pytest.mark.parametrize("merge", [True, False])
def test_the_folder_loads_as_any_other(kind: str, merge: bool, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    tokenizer = pretrained(tmp_path)
    start = small_policy(kind, tokenizer)
    start.save(tmp_path / "start")
    policy = LoRAPolicy(Policy.from_pretrained(tmp_path / "start", device="cpu"), rank=2, merge=merge)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.1)
        policy.value_head.bias.fill_(0.7)
    policy.save(tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        expected = policy.logits(policy.hidden(TOKENS).last_hidden_state)
        found = loaded(TOKENS).logits[..., : tokenizer.vocab_size]
        untrained = start.logits(start.hidden(TOKENS).last_hidden_state)
    assert torch.allclose(found, expected, rtol=0, atol=1e-4)
    assert not torch.allclose(untrained, expected, rtol=0, atol=1e-2)
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert ("adapter_config.json" in names) == (not merge)
    assert ("model.safetensors" in names) == merge
    again = Policy.from_pretrained(tmp_path / "out", device="cpu")
    assert torch.allclose(said(again), said(policy), rtol=0, atol=1e-4)
    assert float(again.value_head.bias.detach()) == pytest.approx(0.7)
    policy.frozen().save(tmp_path / "reference")
    assert torch.equal(said(Policy.from_pretrained(tmp_path / "reference", device="cpu")), said(start))


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    config = PPOConfig(iterations=4, learning_rate=0.01, warmup=0)

    def agent() -> PPO:
        policy = adapted()
        return PPO(policy, world(policy.tokenizer), config)

    whole, first, second = agent(), agent(), agent()
    whole.learn()
    first.learn(2)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(first)
    assert checkpoints.load(second) == 2
    second.learn()
    assert same_parameters(second.policy, parameters_of(whole.policy))
    assert float((said(whole.policy) - said(adapted())).abs().max()) > 1e-3


def test_a_checkpoint_with_an_adapter_is_not_taken_for_one_without(tmp_path: Path) -> None:
    policy = adapted()
    PPO(policy, world(policy.tokenizer), PPOConfig(iterations=1)).save(tmp_path, resumable=True)
    with pytest.raises(ConfigError):
        PPO.load(tmp_path, world(policy.tokenizer), device="cpu")


def test_what_is_wrong_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="rank of LoRA is 0"):
        LoRAPolicy(small_policy(), rank=0)
    with pytest.raises(ConfigError, match=r"impossible with models of type 'mamba': .*out_proj"):
        LoRAPolicy(small_policy("mamba"))
    with pytest.raises(ConfigError, match="base model is saved nowhere"):
        adapted(merge=False).save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"pip install peft"):
        LoRAPolicy(small_policy())


def test_seeds_decide_the_start_and_nothing_else_is_drawn() -> None:
    state = torch.random.get_rng_state()
    a, b, other = adapted(seed=1), adapted(seed=1), adapted(seed=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same_parameters(a, parameters_of(b))
    assert not same_parameters(copy.deepcopy(a), parameters_of(other))


@pytest.mark.parametrize("adapter_only", [pytest.param(False, marks=pytest.mark.nightly), True])
def test_the_command_trains_saves_and_resumes(adapter_only: bool, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    def run(name: str, iterations: int) -> Path:
        out = tmp_path / name
        sizes = ["--iterations", str(iterations), "--episodes", "8", "--checkpoint-every", "1"]
        extra = ["--adapter-only"] if adapter_only else []
        assert main(["train", *sizes, "--lora", "4", *extra, "--device", "cpu", "--out", str(out)]) == 0
        return out

    whole = run("whole", 2)
    start = load_task("products").policy
    assert start is not None
    loaded, began = (AutoModelForCausalLM.from_pretrained(folder) for folder in (whole / "policy", start))
    assert (whole / "policy" / "adapter_config.json").exists() == adapter_only
    with torch.no_grad():
        assert not torch.equal(loaded(TOKENS).logits, began(TOKENS).logits)
    before = json.loads((whole / "summary.json").read_text())["before"]
    assert before["kl_nats"] == 0
    (whole / "summary.json").unlink()
    newest = max((whole / "checkpoints").glob("0*"))
    shutil.rmtree(newest)
    written = {f.name: f.read_bytes() for f in (whole / "policy").glob("*.safetensors")}
    shutil.rmtree(whole / "policy")
    assert main(["train", "--resume", str(whole)]) == 0
    assert {f.name: f.read_bytes() for f in (whole / "policy").glob("*.safetensors")} == written


def test_other_libraries_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--algorithm", "sb3.ppo", "--lora", "4"]) == 2
    assert "leave out --lora" in capsys.readouterr().err
