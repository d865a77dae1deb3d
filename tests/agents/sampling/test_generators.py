"""Generators: the tokens are the engine's, everything else is the environment's and the policy's."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.small_models import parameters_of, plain_forward, same_parameters, small_policy
from tests.tiny_world import assert_same, batch_of, exact_gradient, gradient_of_update
from text_gym import Task, TextVectorEnv, WordTokenizer, load_task
from text_gym.agents import (
    GRPO,
    RLOO,
    Agent,
    BestOfNConfig,
    GRPOConfig,
    LoRAPolicy,
    Policy,
    RLOOConfig,
    Sampling,
    evaluate,
    rollout,
)
from text_gym.agents.algorithms.best_of_n import best_of_n
from text_gym.agents.algorithms.by_name import load_algorithm
from text_gym.agents.sampling.generators import Completion, check_gap
from text_gym.agents.training.metrics import TIMES
from text_gym.errors import ConfigError, GeneratorError
from text_gym.tasks.enumerable import trajectories

TOKENIZER = WordTokenizer("abcdefghi", separator="")


@dataclass
class Fake:
    """A model of its own, loaded by names, which writes with one plain forward pass a token."""

    model: Any
    tolerance: float = 1e-4
    deaf: bool = False
    loads: int = 0
    seen: list[int] = field(default_factory=list)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        self.loads += 1
        if not self.deaf:
            self.model.load_state_dict(dict(weights))

    def generate(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], **how: Any
    ) -> list[Completion]:
        self.seen += seeds
        return [self.write(list(p), seed, **how) for p, seed in zip(prompts, seeds, strict=True)]

    @torch.no_grad()
    def write(self, ids: list[int], seed: int, **how: Any) -> Completion:
        noise, begin, log_probs = torch.Generator().manual_seed(seed), len(ids), []
        while len(ids) - begin < how["max_tokens"] and (len(ids) == begin or ids[-1] not in how["eos_ids"]):
            logits = self.model(torch.tensor([ids])).logits[0, -1, : how["vocab_size"]] / how["temperature"]
            ids.append(int(torch.multinomial(logits.softmax(0), 1, generator=noise)))
            log_probs.append(float(logits.log_softmax(0)[ids[-1]]))
        return Completion(ids[begin:], log_probs)


@dataclass
class Script:
    """Writes what it is told."""

    texts: list[Completion]
    tolerance: float = 1e-3

    def load(self, weights: Mapping[str, Tensor]) -> None:
        pass

    def generate(self, *_: Any, **__: Any) -> list[Completion]:
        return self.texts


def world(num_envs: int = 8, max_tokens: int = 6, **changes: Any) -> TextVectorEnv:
    given: dict[str, Any] = {"prompts": ["a", "bcd"], "reward": lambda completion: completion.count("a")}
    return TextVectorEnv(
        tokenizer=TOKENIZER, max_tokens=max_tokens, num_envs=num_envs, **{**given, **changes}
    )


def fake(policy: Policy, **changes: Any) -> Fake:
    model = copy.deepcopy(policy.model)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()  # it begins without weights
    return Fake(model, **changes)


def said_of(policy: Policy, env: TextVectorEnv, texts: Sequence[Sequence[int]]) -> list[Completion]:
    """The texts as an engine with the policy's weights would return them."""
    found = []
    env.batch.begin(np.arange(len(texts)), np.zeros(len(texts), dtype=np.int64), np.arange(len(texts)))
    for row, text in enumerate(texts):
        start = int(env.batch.starts[row])
        ids = [*env.batch.tokens[row, :start].tolist(), *text]
        log_p, _ = plain_forward(policy, ids, start)
        found.append(Completion(text, log_p[range(len(text)), list(text)].tolist()))
    return found


# Episodes


@pytest.mark.parametrize("stop", [(), ("b", "ca")])
@pytest.mark.parametrize("keep_states", [False, True])
def test_native_tokens_make_the_native_rollout(stop: tuple[str, ...], keep_states: bool) -> None:
    """Bits aside: everything of it, with rubbish after the end of every text."""
    policy, env = small_policy(), world(32, 8, stop=stop)
    how: dict[str, Any] = {"keep_states": keep_states, "sampling": Sampling(temperature=0.8)}
    native = rollout(policy, env, np.arange(32), seed=3, **how)
    rubbish = [0, 1, 2, 3, 4, 5, 6, 7]
    texts = [
        Completion([*e.completion_ids.tolist(), *rubbish], [*said.tolist()[:n], *[-9.0] * 8])
        for e, said, n in zip(native.episodes, native.log_probs, native.lengths.tolist(), strict=True)
    ]
    found = rollout(policy, env, np.arange(32), seed=3, generator=Script(texts), **how)
    assert {e.finish_reason for e in native.episodes} >= {"eos", "length"} | ({"stop"} if stop else set())
    for ours, theirs in zip(found.episodes, native.episodes, strict=True):
        assert ours.prompt == theirs.prompt
        assert ours.completion_ids.tolist() == theirs.completion_ids.tolist()
        assert (ours.finish_reason, ours.stop, ours.index) == (
            theirs.finish_reason,
            theirs.stop,
            theirs.index,
        )
    for name in ("tokens", "starts", "lengths", "rewards", "truncated"):
        assert torch.equal(getattr(found, name), getattr(native, name)), name
    for name in ("log_probs", "values", *(["states"] if keep_states else [])):
        assert torch.allclose(getattr(found, name), getattr(native, name), rtol=0, atol=2e-5), name
    assert found.generator_log_probs is not None
    assert torch.equal(found.generator_log_probs, native.log_probs)
    assert native.generator_log_probs is None
    assert set(found.metrics()) - set(native.metrics()) == {
        "generator_gap", "generator_gap_max", "generator_ratio", "generator_kl", "generator_ess",
    }  # fmt: skip


def test_an_engine_gets_the_weights_and_one_seed_an_episode() -> None:
    policy = small_policy()
    engine = fake(policy)
    whole = rollout(policy, world(8), np.arange(8), seed=5, generator=engine)
    parts = [rollout(policy, world(4), np.arange(k, k + 4), seed=5, generator=engine) for k in (0, 4)]
    apart = [e.completion_ids.tolist() for part in parts for e in part.episodes]
    assert [e.completion_ids.tolist() for e in whole.episodes] == apart
    assert engine.seen[:8] == engine.seen[8:]
    assert len(set(engine.seen)) == 8
    assert min(engine.seen) >= 0
    rollout(policy, world(8), np.arange(8), seed=6, generator=engine)
    assert not set(engine.seen[16:]) & set(engine.seen[:16])
    assert engine.loads == 4
    assert whole.metrics()["generator_gap"] < 1e-5


def test_metrics_measure_the_gap_of_the_tokens_there_are() -> None:
    policy, env = small_policy(), world(2)
    texts = said_of(policy, env, [[0, 9], [0, 1, 2, 3, 4, 5]])
    shifted = [
        Completion(texts[0].tokens, [x + 0.25 for x in texts[0].log_probs]),
        Completion(texts[1].tokens, [x - 0.5 for x in texts[1].log_probs]),
    ]
    found = rollout(policy, env, np.arange(2), generator=Script(shifted, tolerance=1.0)).metrics()
    assert TOKENIZER.eos_ids == (9,)
    assert found["generator_gap"] == pytest.approx((2 * 0.25 + 6 * 0.5) / 8, abs=1e-5)
    assert found["generator_gap_max"] == pytest.approx(0.5, abs=1e-5)
    assert found["generator_ratio"] == pytest.approx((2 * np.exp(-0.25) + 6 * np.exp(0.5)) / 8, rel=1e-5)


# Refusals


def test_an_engine_that_did_not_take_the_weights_is_refused_before_anything_is_learnt() -> None:
    policy = small_policy()
    engine = fake(policy)
    config = GRPOConfig(iterations=4, group_size=4, learning_rate=1e-2, warmup=0)
    agent = GRPO(policy, world(reward=len), config, generator=engine)
    agent.learn(1)
    engine.deaf, before = True, parameters_of(policy)
    with pytest.raises(GeneratorError, match=r"nats a token from the policy's.*other weights"):
        agent.learn(1)
    assert same_parameters(policy, before)
    assert agent.iteration == 1
    engine.deaf = False
    assert agent.learn(1).iteration == 2


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([Completion([9], [-1.0])], "1 texts for 2 prompts"),
        (
            [Completion([9], [-1.0]), Completion([0, 1], [-1.0, -1.0])],
            "row 1 ended after 2 tokens with neither",
        ),
        ([Completion([9], [-1.0]), Completion([0, 11], [-1.0, -1.0])], "row 1 has the id 11"),
        ([Completion([9], [-1.0]), Completion([-1], [-1.0])], "row 1 has the id -1"),
        ([Completion([9], [-1.0]), Completion([9], [])], "1 tokens and 0 log-probabilities in row 1"),
        ([Completion([9], [-1.0]), Completion([9], [float("nan")])], "nan nats"),
    ],
)
def test_texts_that_are_no_episodes_are_refused(texts: list[Completion], said: str) -> None:
    assert TOKENIZER.vocab_size == 11
    with pytest.raises(GeneratorError, match=said):
        rollout(small_policy(), world(2), np.arange(2), generator=Script(texts))


class OnlyA:
    def bind(self, tokenizer: object, max_tokens: int) -> None: ...

    def allowed(self, prefixes: Any) -> Any:
        return np.ones((len(prefixes.rows), TOKENIZER.vocab_size), dtype=np.bool_)


def test_what_a_generator_cannot_play_is_refused_by_name() -> None:
    policy, engine = small_policy(), Script([])
    for sampling, name in (
        (Sampling(greedy=True), "greedy=True"),
        (Sampling(top_k=3), "top_k=3"),
        (Sampling(top_p=0.5), r"top_p=0\.5"),
    ):
        with pytest.raises(ConfigError, match=name):
            rollout(policy, world(2), np.arange(2), sampling=sampling, generator=engine)
    with pytest.raises(ConfigError, match="no action masks"):
        rollout(policy, world(2, mask=OnlyA()), np.arange(2), generator=engine)


# Learning


@pytest.mark.parametrize("name", ["ppo", "grpo", "rloo", "reinforce", "best_of_n"])
def test_every_algorithm_learns_with_a_generator_and_goes_on_to_the_same_bits(
    name: str, tmp_path: Path
) -> None:
    """Through a checkpoint as without one; and what was learnt is what the weights were handed over for."""

    def made(folder: Path | None = None) -> Agent[Any]:
        kind = load_algorithm(name)
        settings: dict[str, Any] = {"iterations": 3, "learning_rate": 1e-2, "warmup": 0}
        if folder is not None:
            agent = kind.load(folder, world(), device="cpu")
        else:
            agent = kind(small_policy(), world(), kind.config_class(**settings))
        agent.generator = fake(agent.policy)
        return agent

    rows: list[dict[str, Any]] = []
    whole = made().learn(callback=lambda _, metrics: rows.append(dict(metrics)))
    assert all(0 < row["generator_gap"] < 1e-5 for row in rows)
    assert all(abs(row["generator_ratio"] - 1) < 1e-4 for row in rows)
    made().learn(2).save(tmp_path, resumable=True)
    again = made(tmp_path)
    last: list[dict[str, Any]] = []
    again.learn(callback=lambda _, metrics: last.append(dict(metrics)))
    assert same_parameters(again.policy, parameters_of(whole.policy))
    assert {k: v for k, v in last[0].items() if k not in TIMES} == {
        k: v for k, v in rows[2].items() if k not in TIMES
    }


def test_weights_of_single_tokens_are_the_truncated_ratios() -> None:
    policy, env = small_policy(), world(8)
    agent = GRPO(policy, env, GRPOConfig(group_size=4))
    batch = agent.collect()
    drawn = batch.log_probs - torch.tensor([0.0, 0.3, -0.4, 0.6, 1.0, 9.0])[: batch.log_probs.shape[1]]
    expected = [1.0, np.exp(0.3), np.exp(-0.4), np.exp(0.6), 2.0, 2.0][: batch.log_probs.shape[1]]
    assert len(expected) >= 5
    for row in agent.importance_weights(batch, drawn):
        assert row.tolist() == pytest.approx(expected, rel=1e-5)


def test_evaluation_and_best_of_n_write_with_the_generator() -> None:
    policy = small_policy()
    engine, env = fake(policy), world()
    report = evaluate(policy, env, generator=engine, seed=1, episodes_per_prompt=3)
    assert [e.completion_ids.tolist() for e in report.episodes] == [
        e.completion_ids.tolist()
        for e in evaluate(policy, env, generator=engine, seed=1, episodes_per_prompt=3).episodes
    ]
    assert engine.seen == engine.seen[:6] * 2
    assert len(best_of_n(policy, env, 2, generator=engine).episodes) == len(engine.seen) - 12 == 4
    agent = load_algorithm("best_of_n")(policy, env, BestOfNConfig(sample_from="reference"), generator=engine)
    with torch.no_grad():
        policy.model.get_input_embeddings().weight.add_(0.1)
    assert agent.collect().metrics()["generator_gap"] < 1e-5  # the reference's weights, not the policy's


def test_an_adapter_is_handed_over_merged() -> None:
    plain = small_policy()
    engine = fake(plain)
    policy = LoRAPolicy(plain, 2)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    assert rollout(policy, world(), np.arange(8), generator=engine).metrics()["generator_gap"] < 1e-5
    without = rollout(policy.frozen(), world(), np.arange(8), generator=engine)
    assert without.metrics()["generator_gap"] < 1e-5


def test_groups_share_their_prompt() -> None:
    policy = small_policy()
    agent = RLOO(policy, world(8), RLOOConfig(group_size=4), generator=fake(policy))
    batch = agent.collect()
    prompts = [e.prompt.text for e in batch.episodes]
    assert prompts[:4] == prompts[:1] * 4
    assert prompts[4:] == prompts[4:5] * 4


@pytest.mark.nightly
def test_an_engine_of_another_distribution_gives_the_policys_gradient() -> None:
    """Importance weights of whole completions: the expectation over the engine's texts is the policy's.

    The oracle is automatic differentiation of the expected reward, a sum over all trajectories.
    """
    task: Task = load_task("enumerable", seed=0)
    policy = small_policy(seed=1, tokenizer=task.tokenizer, dtype=torch.float64, initializer_range=0.2)
    engine = small_policy(seed=1, tokenizer=task.tokenizer, dtype=torch.float64, initializer_range=0.19)
    env = TextVectorEnv(task=task, num_envs=2)
    agent = RLOO(policy, env, RLOOConfig(group_size=2, kl_coef=0.0, epochs=1, minibatches=1))
    episodes = trajectories(task)
    pairs = [e for a in episodes for b in episodes for e in (a, b)]
    batch, drawn = batch_of(policy, task, pairs), batch_of(engine, task, pairs).log_probs
    batch = replace(batch, generator_log_probs=drawn)
    assert 0.05 < float((batch.log_probs - drawn).sum(dim=1).abs().max()) < np.log(2.0)
    q = drawn.sum(dim=1).exp()
    chances = (q[0::2] * q[1::2]).repeat_interleave(2) * len(q) / 2
    found = gradient_of_update(agent, batch, chances)
    paid = torch.from_numpy(task.reward(episodes).values)
    expected = exact_gradient(policy, lambda log_p: (log_p.exp() * paid).sum(), episodes)
    assert_same(found, expected, atol=1e-8)
    plain = gradient_of_update(agent, replace(batch, generator_log_probs=None), chances)
    assert max(float((a - b).abs().max()) for a, b in zip(plain, expected, strict=True)) > 1e-4


def test_a_gap_is_of_the_tokens_that_were_written_not_of_the_room_for_them() -> None:
    """Texts of one token with room for eight, each 1 nat apart."""
    batch: Any = SimpleNamespace(starts=np.array([3, 5]), lengths=np.array([4, 6]))
    theirs = torch.zeros(2, 8)
    theirs[:, 0] = -1.0
    check_gap(theirs, torch.zeros(2, 8), batch, tolerance=1.0)
    with pytest.raises(GeneratorError, match="are 1 nats a token"):
        check_gap(theirs, torch.zeros(2, 8), batch, tolerance=0.9)
