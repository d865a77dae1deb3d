"""Resuming is compared, bit for bit, with never having stopped."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import random
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.small_models import parameters_of, same_parameters, small_policy
from text_gym import ByteTokenizer, PretrainedTokenizer, RewardSource, TextVectorEnv, WordTokenizer
from text_gym import as_reward_source as source_of
from text_gym.agents import PPO, Agent, Checkpoints, Policy, PPOConfig
from text_gym.agents.algorithms.by_name import ALGORITHMS
from text_gym.agents.training.diagnostics import Objective
from text_gym.agents.training.metrics import TIMES, Metrics
from text_gym.errors import CheckpointError, ConfigError, NonFiniteError, RewardError
from text_gym.models.loading import tensors_of
from text_gym.rewards.transforms import RunningStandardize

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "ppo": [
        {},
        {"kl_target": 1.0, "seed": 3},
        {"kl_in": "loss", "kl_estimator": "k3", "entropy_coef": 0.01},
        {"target_kl": 0.01, "anneal": False, "temperature": 0.7},
        {"critic": "separate"},
        {"critic": "shared"},
        {"critic": "detached", "target_kl": None, "learning_rate": 1e-3},
    ],
    "grpo": [
        {"group_size": 4},
        {"group_size": 2, "length_normalisation": "constant", "std_normalisation": False},
        {"group_size": 8, "clip_higher": 0.28, "seed": 1},
        {"group_size": 4, "kl_in": "reward", "kl_estimator": "k1", "kl_target": 0.5},
    ],
    "rloo": [{}, {"group_size": 2, "seed": 2}, {"kl_coef": 0.0}, {"kl_estimator": "k2", "minibatches": 1}],
    "reinforce": [
        {},
        {"baseline": "moving_average"},
        {"baseline": "critic"},
        {"baseline": "moving_average", "decay": 0.5, "kl_target": 1.0},
    ],
    "best_of_n": [{}, {"n": 2}, {"sample_from": "reference"}, {"epochs": 1, "minibatches": 2}],
}
CONFIGURATIONS = [(name, settings) for name, many in SETTINGS.items() for settings in many]
TOKENIZER = WordTokenizer("abcdefghi", separator="")


def rating() -> RewardSource:
    """A reward that depends on everything it was asked before."""
    return RunningStandardize(source_of(lambda completion: completion.count("a")))


def agent(name: str = "ppo", reward: Any = None, policy: Policy | None = None, **settings: Any) -> Agent[Any]:
    settings = {"iterations": 4, "learning_rate": 1e-2, "warmup": 2} | settings
    env = TextVectorEnv(["a", "bcd"], TOKENIZER, reward or rating(), 6, num_envs=8, numbering="global")
    algorithm: Any = ALGORITHMS[name]
    made: Agent[Any] = algorithm(policy or small_policy(), env, algorithm.config_class(**settings))
    return made


def memory_of(learner: Agent[Any]) -> dict[str, Tensor]:
    """All tensors of an agent: weights and what the optimizer remembers of each."""
    networks = learner.networks.items()
    names = {id(p): f"{kind} {name}" for kind, network in networks for name, p in network.named_parameters()}
    found = {f"{kind} {name}": t for kind, network in networks for name, t in network.state_dict().items()}
    for parameter, state in learner.optimizer.state.items():
        found |= {f"{names[id(parameter)]} {key}": value for key, value in state.items()}
    return {name: tensor.clone() for name, tensor in found.items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def learn(learner: Agent[Any], until: int | None = None) -> list[str]:
    """The metrics of each iteration, as text: exact, and NaN is NaN."""
    logs: list[str] = []

    def log(_: Agent[Any], metrics: Metrics) -> None:
        logs.append(json.dumps({k: v for k, v in metrics.items() if k not in TIMES}))

    learner.learn(None if until is None else until - learner.iteration, callback=log)
    return logs


def flip(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


# Going on as if nothing had happened


@pytest.mark.parametrize(("name", "settings"), CONFIGURATIONS)
def test_run_twice_or_resumed_the_bits_are_the_same(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    whole, again, first = (agent(name, **settings) for _ in range(3))
    logs = learn(whole)
    assert learn(again) == logs
    assert same(memory_of(whole), memory_of(again))

    early = learn(first, until=2)
    Checkpoints(tmp_path).save(first)
    torch.manual_seed(1)  # no global generator has a say
    resumed = agent(name, **settings)
    assert Checkpoints(tmp_path).load(resumed) == 2
    assert same(memory_of(resumed), memory_of(first))
    assert early + learn(resumed) == logs
    assert same(memory_of(whole), memory_of(resumed))
    assert resumed.state_dict() == whole.state_dict()


@pytest.mark.parametrize("until", [1, 3, 5, 6])
def test_a_detached_critic_goes_on_wherever_its_window_is(until: int, tmp_path: Path) -> None:
    """It remembers four batches; the fifth takes the place of the first."""
    settings: dict[str, Any] = {"critic": "detached", "iterations": 8}
    whole, first = agent(**settings), agent(**settings)
    logs = learn(whole)
    learn(first, until=until)
    folder = Checkpoints(tmp_path).save(first)
    saved = load_file(folder / "agent.safetensors")
    assert int(saved["critic/batches"]) == until
    assert int((saved["critic/counts"] > 0).sum()) == min(4, until)
    assert "exp_avg/critic.body.0.weight" in saved
    resumed = agent(**settings)
    Checkpoints(tmp_path).load(resumed)
    assert same(memory_of(resumed), memory_of(first))
    assert learn(resumed) == logs[until:]
    assert same(memory_of(resumed), memory_of(whole))


def test_what_is_saved_is_all_of_it(tmp_path: Path) -> None:
    """Whatever an agent counts or remembers changes from iteration to iteration, and has to come back."""
    learner = agent("reinforce", baseline="moving_average", kl_target=1.0)
    learn(learner, until=3)
    folder = Checkpoints(tmp_path).save(learner)
    fresh = agent("reinforce", baseline="moving_average", kl_target=1.0)
    plain = {
        "policy",
        "env",
        "config",
        "networks",
        "reference",
        "optimizer",
        "kl",
        "sampling",
        "advisor",
        "objective",
        "_reference_was",
        "_splitter",  # how much fits into memory is the machine's business
    }
    assert {k for k, v in vars(learner).items() if v != getattr(fresh, k)} - plain == {
        "iteration", "episodes_played", "tokens_played", "moving_average",
    }  # fmt: skip
    Checkpoints(tmp_path).load(fresh)
    for name in ("iteration", "episodes_played", "tokens_played", "moving_average"):
        assert getattr(fresh, name) == getattr(learner, name)
    assert fresh.kl.coefficient == learner.kl.coefficient != 0.03
    assert fresh.advisor.lasted == learner.advisor.lasted
    assert fresh.objective.state_dict() == learner.objective.state_dict()
    assert len(learner.objective.state_dict()["recent"]) == 3
    assert vars(fresh.env.reward)["mean"] == vars(learner.env.reward)["mean"] != 0
    assert {file.suffix for file in folder.iterdir()} == {".safetensors", ".json"}
    saved = load_file(folder / "agent.safetensors")
    weight = "model.transformer.h.0.attn.c_attn.weight"
    assert torch.equal(saved[f"policy/{weight}"], learner.policy.get_parameter(weight))
    assert f"exp_avg/{weight}" in saved
    assert saved[f"step/{weight}"] == 3


def test_a_reward_that_fails_at_any_moment_costs_nothing(tmp_path: Path) -> None:
    """The checkpoint after the error is that of the iteration before it, memory of the reward included."""

    class Fails(RewardSource):
        """Fails once in the second part of a sum whose first part has already counted the batch."""

        def __init__(self, at: int) -> None:
            self.left = at

        def score(self, episodes: Any) -> list[float]:
            self.left -= 1
            if self.left == -1:
                raise KeyError("price")
            return [0.0] * len(episodes)

    whole = agent(reward=rating() + Fails(-1))
    logs = learn(whole)
    for at in range(4):
        failing = agent(reward=rating() + Fails(at))
        with pytest.raises(RewardError, match="KeyError") as error:
            learn(failing)
        assert isinstance(error.value.__cause__, KeyError)
        assert failing.between_iterations
        checkpoints = Checkpoints(tmp_path / str(at))
        checkpoints.save(failing)
        resumed = agent(reward=rating() + Fails(-1))
        assert checkpoints.load(resumed) == at
        assert learn(resumed) == logs[at:]
        assert same(memory_of(resumed), memory_of(whole))
        assert learn(failing) == logs[at:]  # and it can go on itself


def test_bfloat16_and_tied_and_padded_weights_come_back(tmp_path: Path) -> None:
    for kind in ("gpt2", "llama", "gemma"):
        policy = small_policy(kind, rows=16, dtype=torch.bfloat16)
        learner = agent(policy=policy)
        learn(learner, until=1)
        learner.save(tmp_path / kind, resumable=True)
        loaded = PPO.load(tmp_path / kind, learner.env, device="cpu")
        assert loaded.policy.model.dtype == torch.bfloat16
        assert loaded.policy.value_head.weight.dtype == torch.float32
        assert same(memory_of(loaded), memory_of(learner))
        assert loaded.reference.digest() == learner.reference.digest()


def test_tied_weights_are_saved_once() -> None:
    policy = small_policy()
    names = tensors_of(policy)
    assert "model.lm_head.weight" not in names or "model.transformer.wte.weight" not in names
    assert sum(t.numel() for t in names.values()) == sum(p.numel() for p in policy.parameters())


# Agent.save and Agent.load


@pytest.mark.parametrize("own_tokenizer", [True, False])
def test_an_agent_saved_as_resumable_goes_on(tmp_path: Path, own_tokenizer: bool) -> None:
    tokenizer = PretrainedTokenizer.train(["abc"], vocab_size=258) if own_tokenizer else ByteTokenizer()

    def make() -> PPO:
        policy = Policy.new(tokenizer, width=8, layers=1, heads=2, context=16, device="cpu")
        return PPO(policy, env(), PPOConfig(iterations=4, seed=5, kl_target=1.0))

    def env() -> TextVectorEnv:
        return TextVectorEnv(["a", "bc"], tokenizer, rating(), 4, num_envs=4)

    whole, half = make(), make()
    logs = learn(whole)
    learn(half, until=2)
    half.save(tmp_path, resumable=True)
    loaded = PPO.load(tmp_path, env(), device="cpu")
    assert loaded.config == half.config
    assert loaded.iteration == 2
    assert not any(p.requires_grad for p in loaded.reference.parameters())
    assert learn(loaded) == logs[2:]
    assert same_parameters(loaded.policy, parameters_of(whole.policy))
    make().save(tmp_path, resumable=True)  # of an earlier iteration: it replaces the other
    assert PPO.load(tmp_path, env(), device="cpu").iteration == 0
    longer = PPO.load(tmp_path, env(), PPOConfig(iterations=9), device="cpu")
    assert longer.config.iterations == 9


# Which ones stay


def test_the_last_ones_and_the_best_stay(tmp_path: Path) -> None:
    checkpoints, learner = Checkpoints(tmp_path, keep=2), agent(iterations=8)
    scores = [math.nan, 0.1, 0.9, 0.3, 0.9, 0.2, -1.0]
    left = []
    for i, score in enumerate(scores):
        learner.iteration = i
        checkpoints.save(learner, score)
        left.append([int(f.name) for f in sorted(tmp_path.iterdir()) if f.name.isdecimal()])
    assert left == [[0], [0, 1], [1, 2], [2, 3], [2, 3, 4], [2, 4, 5], [2, 5, 6]]
    with pytest.raises(ConfigError, match="keep is 0"):
        Checkpoints(tmp_path, keep=0)


# The best of them


def objective_of(start: float, recent: float, se: float = 0.01) -> Objective:
    """One that began with this mean and has the other on average, with equal standard errors."""
    first, later = [start, 0.0, se**2, 0.0, 0.0], [recent, 0.0, 5 * se**2, 0.0, 0.0]
    counts = {"began": 0, "coefficient": 0.1, "below": 0, "spread": 0.1}
    return Objective.of({**counts, "start": first, "recent": [later] * 5})


def scored_run(folder: Path, averages: list[float], start: float = 0.5) -> tuple[Checkpoints, Agent[Any]]:
    """Checkpoints 0, 1, … of an agent whose weights change a little before each; the objective's averages."""
    checkpoints, learner = Checkpoints(folder, keep=1), agent(iterations=9)
    checkpoints.save(learner)
    for i, mean in enumerate(averages, 1):
        with torch.no_grad():
            for parameter in learner.policy.parameters():
                parameter.add_(0.01)
        learner.iteration, learner.objective = i, objective_of(start, mean)
        average = learner.objective.average()
        assert average is not None
        checkpoints.save(learner, *average)
    return checkpoints, learner


@pytest.mark.parametrize(
    ("averages", "chosen", "best"),
    [
        ([0.6, 0.9, 0.5], 2, 2),  # 0.4 with an error of 0.014
        ([0.6, 0.9, 0.88], 3, 2),  # less than two errors: the last stands
        ([0.6, 0.9, 0.87], 2, 2),
        ([0.6, 0.9, 0.95], 3, 3),
        ([0.4, 0.3, 0.2], 0, 0),  # all worse than the start
    ],
)
def test_the_best_policy_is_taken_where_it_is_better_by_more_than_noise(
    tmp_path: Path, averages: list[float], chosen: int, best: int
) -> None:
    checkpoints, learner = scored_run(tmp_path, averages)
    found = checkpoints.best()
    assert found is not None
    assert int(found.name) == best
    before = memory_of(learner)
    choice = checkpoints.take_best(learner)
    assert choice.iteration == chosen
    assert choice.objective is not None
    assert choice.objective["best"]["iteration"] == best
    assert choice.objective["last"]["iteration"] == 3
    assert math.isclose(choice.objective["last"]["mean"], averages[-1])
    assert math.isclose(choice.objective["last"]["se"], 0.01)
    assert math.isclose(choice.objective["start"]["mean"], 0.5)
    assert (choice.reason is None) == (chosen == 3)
    if chosen < 3:
        assert f"kept the policy of iteration {chosen}, not that of the last, 3" in str(choice.reason)
    start = small_policy()
    for name, weight in learner.policy.named_parameters():
        expected = start.get_parameter(name).clone()
        for _ in range(chosen):
            expected += 0.01
        assert torch.equal(weight, expected), name
    same_but_policy = {k for k, v in memory_of(learner).items() if not torch.equal(v, before[k])}
    assert {name.split()[0] for name in same_but_policy} <= {"policy"}
    assert learner.iteration == 3


def test_the_start_can_be_the_best_where_nothing_was_saved_since(tmp_path: Path) -> None:
    checkpoints, learner = Checkpoints(tmp_path), agent()
    checkpoints.save(learner)
    start = memory_of(learner)
    learn(learner, until=2)
    learner.objective = objective_of(0.5, 0.2)
    assert checkpoints.best() is None  # what is saved does not know yet
    assert checkpoints.take_best(learner).iteration == 0
    own = memory_of(learner)
    of_policy = [name for name in start if name.startswith("policy ")]
    assert of_policy
    assert all(torch.equal(own[name], start[name]) for name in of_policy)


def test_the_best_is_the_one_that_is_intact(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints, learner = scored_run(tmp_path, [0.9, 0.5])
    flip(tmp_path / "00000001" / "agent.safetensors", 12345)
    best = checkpoints.best()
    assert best is not None
    assert best.name == "00000002"
    assert "00000001 is damaged: agent.safetensors is not what was written" in caplog.text
    assert checkpoints.take_best(learner).iteration == 2
    assert Checkpoints(tmp_path / "none").best() is None


def test_the_best_of_equals_is_the_earliest(tmp_path: Path) -> None:
    checkpoints, _ = scored_run(tmp_path, [0.7, 0.9, 0.9])
    best = checkpoints.best()
    assert best is not None
    assert best.name == "00000002"


def test_objectives_are_compared_under_the_beta_in_force(tmp_path: Path) -> None:
    """Reward 1.05 at 2 nats, then 1.2 at 4 nats: better at β = 0.05, worse at β = 0.2."""
    for beta, chosen in ((0.05, 2), (0.2, 1)):
        checkpoints, learner = Checkpoints(tmp_path / str(beta), keep=1), agent()
        for i, (reward, kl, own) in enumerate([(1.05, 2.0, 0.01), (1.2, 4.0, beta)], 1):
            state = objective_of(0.0, reward).state_dict() | {"coefficient": own}
            state["recent"] = [[reward, kl, 1e-4, 0.0, 0.0]] * 5
            learner.iteration, learner.objective = i, Objective.of(state)
            average = learner.objective.average()
            assert average is not None
            checkpoints.save(learner, *average)
        assert checkpoints.take_best(learner).iteration == chosen


def test_scores_of_another_kind_are_left_alone(tmp_path: Path) -> None:
    """Whoever scores checkpoints by something else does not find the start's objective among them."""
    checkpoints, learner = Checkpoints(tmp_path, keep=1), agent()
    checkpoints.save(learner)
    learner.iteration, learner.objective = 1, objective_of(50.0, 0.0)
    checkpoints.save(learner, 0.7)
    learner.iteration = 2
    checkpoints.save(learner, 0.6)
    best = checkpoints.best()
    assert best is not None
    assert best.name == "00000001"
    assert sorted(f.name for f in tmp_path.glob("0*")) == ["00000001", "00000002"]


def test_a_checkpoint_of_an_earlier_version_is_loaded(tmp_path: Path) -> None:
    """It has neither a standard error nor an objective; what is measured begins anew."""
    learner = agent()
    learn(learner, until=2)
    folder = Checkpoints(tmp_path).save(learner, 0.3)
    manifest = json.loads((folder / "manifest.json").read_text())["manifest"]
    del manifest["about"]["score_se"], manifest["about"]["agent"]["objective"]
    del manifest["about"]["agent"]["declined"]
    own = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    text = json.dumps({"manifest": manifest, "sha256": own}, indent=1, sort_keys=True) + "\n"
    (folder / "manifest.json").write_text(text)
    resumed = agent()
    assert Checkpoints(tmp_path).load(resumed) == 2
    assert Checkpoints(tmp_path).best() == folder
    choice = Checkpoints(tmp_path).take_best(resumed)
    assert (choice.iteration, choice.objective) == (2, None)
    learn(resumed)
    assert resumed.objective.began == 2
    assert Checkpoints(tmp_path).take_best(resumed).iteration == 4
    assert same(memory_of(resumed), memory_of(learn_on(learner)))


def learn_on(learner: Agent[Any]) -> Agent[Any]:
    learn(learner)
    return learner


def test_a_new_run_does_not_overwrite_a_longer_one(tmp_path: Path) -> None:
    learner = agent()
    learn(learner, until=2)
    Checkpoints(tmp_path).save(learner)
    with pytest.raises(CheckpointError, match="00000002 is later than iteration 0; load it"):
        Checkpoints(tmp_path).save(agent())


# Damage


def chain(folder: Path, steps: int = 3) -> tuple[list[dict[str, Tensor]], list[Path]]:
    learner, memories, folders = agent(), [], []
    for i in range(1, steps + 1):
        learn(learner, until=i)
        folders.append(Checkpoints(folder, keep=steps).save(learner))
        memories.append(memory_of(learner))
    return memories, folders


def test_a_damaged_one_is_passed_over_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    memories, folders = chain(tmp_path)
    flip(folders[2] / "agent.safetensors", 12345)
    (folders[1] / "manifest.json").write_text("{")
    resumed = agent()
    with caplog.at_level(logging.WARNING, "text_gym"):
        assert Checkpoints(tmp_path).load(resumed) == 1
    assert same(memory_of(resumed), memories[0])
    said = [r.getMessage() for r in caplog.records]
    assert "00000003 is damaged: agent.safetensors is not what was written" in said[0]
    assert "00000002 is damaged: its manifest.json cannot be read" in said[1]
    assert all("going on from checkpoint 00000001" in message for message in said)
    assert sorted(f.name for f in tmp_path.glob("*.damaged")) == ["00000002.damaged", "00000003.damaged"]
    learn(resumed, until=2)
    Checkpoints(tmp_path).save(resumed)  # what was set aside is in nobody's way
    assert Checkpoints(tmp_path).load(agent()) == 2


def test_where_none_is_intact_nothing_is_made_up(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "none").load(agent()) is None
    assert Checkpoints(tmp_path / "none").newest_state() is None
    _, folders = chain(tmp_path, steps=2)
    for folder in folders:
        (folder / "agent.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is intact: .*00000002.*00000001"):
        Checkpoints(tmp_path).load(agent())


def check_random_damage(tmp_path: Path, trials: int, seed: int) -> None:
    chance = random.Random(seed)
    memories, folders = chain(tmp_path, steps=2)
    for _ in range(trials):
        file = chance.choice(sorted(folders[1].iterdir()))
        whole = file.read_bytes()
        if chance.random() < 0.5:
            flip(file, chance.randrange(8 * len(whole)))
        else:
            file.write_bytes(whole[: chance.randrange(len(whole))])
        resumed = agent()
        assert Checkpoints(tmp_path).load(resumed) == 1
        assert same(memory_of(resumed), memories[0])
        (tmp_path / "00000002.damaged").rename(folders[1])
        file.write_bytes(whole)
    assert Checkpoints(tmp_path).load(agent()) == 2


def test_random_damage(tmp_path: Path) -> None:
    check_random_damage(tmp_path, 30, seed=0)


@pytest.mark.nightly
def test_random_damage_often(tmp_path: Path, tried: Callable[..., None]) -> None:
    check_random_damage(tmp_path, 1000, seed=1)
    tried(
        "a checkpoint with one bit turned or its end cut off is passed over for the one before",
        1000,
        "damages",
    )


def test_a_checkpoint_of_a_later_version_is_an_error_of_its_own(tmp_path: Path) -> None:
    _, folders = chain(tmp_path, steps=2)
    file = folders[1] / "manifest.json"
    manifest = json.loads(file.read_text())["manifest"] | {"format": 7}
    own = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    file.write_text(json.dumps({"manifest": manifest, "sha256": own}, indent=1, sort_keys=True) + "\n")
    with pytest.raises(CheckpointError, match="has format 7"):
        Checkpoints(tmp_path).load(agent())


@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
def test_a_full_disk_costs_the_new_checkpoint_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    import errno
    import os

    memories, _ = chain(tmp_path, steps=1)
    learner = agent()
    Checkpoints(tmp_path).load(learner)
    learn(learner, until=2)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os if call == "fsync" else Path, call, full)
        with pytest.raises(CheckpointError, match=r"cannot write .*00000002.*No space left on device"):
            Checkpoints(tmp_path).save(learner)
    resumed = agent()
    assert Checkpoints(tmp_path).load(resumed) == 1
    assert same(memory_of(resumed), memories[0])
    assert Checkpoints(tmp_path).save(learner).is_dir()


# What is refused


def test_nothing_is_saved_in_the_middle_of_an_update(tmp_path: Path) -> None:
    learner = agent()
    learn(learner, until=1)
    assert isinstance(learner, PPO)
    original = learner.apply_gradients

    def interrupted() -> float:
        original()
        raise KeyboardInterrupt

    learner.apply_gradients = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        learner.learn(1)
    with pytest.raises(CheckpointError, match="iteration 2 did not end"):
        Checkpoints(tmp_path).save(learner)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, poison: float) -> None:
    for name, _ in small_policy().named_parameters():
        learner = agent()
        with torch.no_grad():
            learner.policy.get_parameter(name).view(-1)[-1] = poison
        with pytest.raises(NonFiniteError, match=name.replace(".", "[.]")):
            Checkpoints(tmp_path).save(learner)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_something_else_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    learner = agent("rloo")
    learn(learner, until=1)
    Checkpoints(tmp_path).save(learner)
    wrong: list[tuple[Agent[Any], str]] = [
        (agent("ppo"), "is of algorithm rloo and cannot be loaded into ppo"),
        (agent("rloo", policy=small_policy(seed=1)), "another reference policy"),
        (agent("rloo", reward=lambda completion: 1.0), "reward '<lambda>' has no memory to restore"),
    ]
    other = agent("rloo")
    other.policy.value_head = nn.Linear(16, 2)
    wrong.append((other, r"another model: policy/value_head\.bias"))
    for one, message in wrong:
        before = memory_of(one)
        with pytest.raises(ConfigError, match=message):
            Checkpoints(tmp_path).load(one)
        assert same(memory_of(one), before)
        assert one.iteration == 0


@pytest.mark.parametrize("kinds", list(permutations(("detached", "separate", "shared"), 2)))
def test_a_checkpoint_with_a_critic_apart_is_not_taken_for_one_without(
    kinds: tuple[str, str], tmp_path: Path
) -> None:
    first, second = (agent(critic=kind) for kind in kinds)
    learn(first, until=1)
    Checkpoints(tmp_path).save(first)
    before = memory_of(second)
    with pytest.raises(ConfigError, match="another model: critic/"):
        Checkpoints(tmp_path).load(second)
    assert same(memory_of(second), before)


def test_rewards_whose_memory_cannot_be_had(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from text_gym.rewards.calls import Parallel

    with pytest.raises(ConfigError, match=r"in a worker process nobody can save that memory"):
        Checkpoints(tmp_path).save(agent(reward=Parallel(rating(), worker="process")))

    class Secretive(RewardSource):
        def score(self, episodes: Any) -> list[float]:
            return [0.0] * len(episodes)

        def state_dict(self) -> dict[str, Any]:
            return {"array": np.zeros(2)}

    with pytest.raises(ConfigError, match="memory of reward 'reward' is not plain JSON data"):
        Checkpoints(tmp_path).save(agent(reward=Secretive()))

    moody = source_of(lambda completion: 1.0)
    moody.deterministic = False
    with caplog.at_level(logging.WARNING, "text_gym"):
        Checkpoints(tmp_path).save(agent(reward=moody))
    assert "is not deterministic and has no memory that could be saved" in caplog.text


def test_the_memory_of_nested_rewards_finds_its_way_back() -> None:
    from text_gym import Episode

    episodes = [Episode.of("a", "a" * n, TOKENIZER) for n in range(4)]
    source, fresh = (2 * rating() + rating() + 1.0 for _ in range(2))
    source(episodes)
    state = json.loads(json.dumps(source.state_dict()))
    fresh.load_state_dict(state)
    assert fresh(episodes[:2]).totals.tolist() == source(episodes[:2]).totals.tolist()
    assert rating().state_dict() == {"count": 0, "mean": 0.0, "squares": 0.0}
    with pytest.raises(ConfigError, match="memory of another source"):
        source.load_state_dict({"parts": {"other": {"x": 1}}})
    with pytest.raises(ConfigError, match="memory of another source"):
        rating().load_state_dict({})
