from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.small_models import parameters_of, small_policy
from text_gym import Rewards, Task, TextVectorEnv, WordTokenizer, load_task
from text_gym.agents import PPO, Policy, PPOConfig, Rollout, exact_policy_gradient, trajectory_log_probs
from text_gym.agents.algorithms.policy_gradient import Part
from text_gym.agents.policies.policy import Evaluation
from text_gym.agents.training.metrics import Metrics
from text_gym.errors import ConfigError
from text_gym.tasks.enumerable import optimal_policy, total_variation, trajectories

Kind = Literal["detached", "separate", "shared"]
CRITICS: tuple[Kind, ...] = ("detached", "separate", "shared")
BETA = 0.5
STILL = PPOConfig(
    iterations=1,
    learning_rate=0.0,
    warmup=0,
    kl_coef=BETA,
    value_clip=None,
    value_coef=0.1,
    whiten_advantages=False,
)


def world(num_envs: int = 64, max_tokens: int = 8, **changes: Any) -> TextVectorEnv:
    settings: dict[str, Any] = {
        "prompts": ["a", "bcd", "efghi"],
        "reward": lambda completion: completion.count("a"),
    }
    tokenizer = WordTokenizer("abcdefghi", separator="")
    return TextVectorEnv(tokenizer=tokenizer, max_tokens=max_tokens, num_envs=num_envs, **settings | changes)


class Recorder(PPO):
    """PPO whose policy takes no step; keeps the gradient and the metrics of each of its minibatches."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rows: list[Tensor] = []
        self.gradients: list[list[Tensor]] = []
        self.seen: list[Metrics] = []

    def apply_gradients(self) -> float:
        parameters = list(self.policy.model.parameters())
        if all(p.grad is None for p in parameters):  # a step of a critic apart
            return super().apply_gradients()
        self.gradients.append([torch.zeros_like(p) if p.grad is None else p.grad for p in parameters])
        return 0.0

    def gradient(self, batch: Rollout, rows: Tensor, *args: Any) -> Metrics:
        self.rows.append(rows)
        self.seen.append(super().gradient(batch, rows, *args))
        return self.seen[-1]


# The enumerable world: expectations are sums over all 40 trajectories


def every_trajectory(policy: Policy, task: Task) -> Rollout:
    """All trajectories as one batch, each played once."""
    episodes = trajectories(task)
    tokens = torch.full((len(episodes), 1 + task.max_tokens), task.tokenizer.pad_id)
    for row, e in zip(tokens, episodes, strict=True):
        row[: 1 + len(e.completion_ids)] = torch.tensor([*e.prompt_ids, *e.completion_ids])
    starts = torch.ones(len(episodes), dtype=torch.int64)
    lengths = torch.tensor([len(e.completion_ids) for e in episodes])
    with torch.no_grad():
        said = policy.evaluate(tokens, starts, lengths)
        states = policy.model(tokens, output_hidden_states=True).hidden_states[-1][:, :-1]
    scores = task.reward(episodes)
    rewards = torch.zeros_like(said.values)
    rewards[range(len(episodes)), lengths - 1] = torch.from_numpy(scores.values)
    return Rollout(
        tokens, starts, lengths, said.log_probs, said.values, rewards,
        torch.zeros(len(episodes), dtype=torch.bool), episodes, scores, states=states,
    )  # fmt: skip


def expected_gradient(agent: Recorder, batch: Rollout) -> list[Tensor]:
    """Of the loss per episode, over the policy's own trajectories: minibatches of one are weighted."""
    agent.update(batch)
    weights = batch.log_probs.sum(1).exp() * batch.lengths  # the loss is a mean over tokens
    assert sorted(int(r) for rows in agent.rows for r in rows) == list(range(len(batch.tokens)))
    total = [torch.zeros_like(p) for p in agent.policy.model.parameters()]
    for rows, gradients in zip(agent.rows, agent.gradients, strict=True):
        for sum_, gradient in zip(total, gradients, strict=True):
            sum_ += weights[rows].sum() * gradient
    return total


def pair(task: Task) -> tuple[Policy, Policy]:
    """A policy with a critic of random values, and another policy as its reference."""
    kwargs: dict[str, Any] = {"tokenizer": task.tokenizer, "dtype": torch.float64, "initializer_range": 0.2}
    return small_policy(seed=1, **kwargs), small_policy(seed=2, **kwargs).frozen()


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_expected_first_step_is_the_exact_policy_gradient(seed: int, critic: Kind) -> None:
    """Of E[r] - β KL(policy ‖ reference), summed over all trajectories."""
    task = load_task("enumerable", seed=seed)
    policy, reference = pair(task)
    config = replace(STILL, epochs=1, minibatches=40, value_coef=0.0, critic=critic)
    agent = Recorder(policy, TextVectorEnv(task=task, num_envs=40), config, reference)
    batch = every_trajectory(policy, task)
    assert float(batch.log_probs.sum(1).exp().sum()) == pytest.approx(1, abs=1e-12)
    found = expected_gradient(agent, batch)

    exact = exact_policy_gradient(policy, batch.episodes, batch.scores.values, reference=reference, beta=BETA)
    assert max(float(g.abs().max()) for g in exact.values()) > 1e-2
    for ours, theirs in zip(found, exact.values(), strict=True):
        assert torch.allclose(-ours, theirs, rtol=0, atol=1e-10)


def test_k2_in_the_loss_has_the_gradient_of_the_kl_at_every_state() -> None:
    """Exactly that of Σ_s d(s) KL(policy(·|s) ‖ reference(·|s)) over the full vocabulary, d held fixed."""
    task = load_task("enumerable")
    policy, reference = pair(task)
    config = replace(STILL, epochs=1, minibatches=40, value_coef=0.0, kl_in="loss", kl_estimator="k2")
    batch = every_trajectory(policy, task)
    batch = replace(batch, rewards=batch.values * 0)  # the KL alone: advantages come from rewards and values
    batch = replace(batch, values=batch.values * 0)
    agent = Recorder(policy, TextVectorEnv(task=task, num_envs=40), config, reference)
    found = expected_gradient(agent, batch)

    states = {
        tuple(e.completion_ids[:t].tolist()) for e in batch.episodes for t in range(len(e.completion_ids))
    }
    assert len(states) == 1 + 3 + 9
    total: Tensor = torch.zeros((), dtype=torch.float64)
    start = int(batch.tokens[0, 0])
    for state in states:
        text = torch.tensor([[start, *state, 0]])
        log_p, log_q = (p.model(text).logits[0].log_softmax(1) for p in (policy, reference))
        reached = log_p[range(len(state)), list(state)].sum().exp().detach()
        total = total + reached * (log_p[-2].exp() * (log_p[-2] - log_q[-2].detach())).sum()
    exact = torch.autograd.grad(BETA * total, list(policy.model.parameters()))
    assert max(float(g.abs().max()) for g in exact) > 1e-2
    for ours, theirs in zip(found, exact, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-10)


def distance_to_optimum(seed: int, **settings: Any) -> tuple[float, float]:
    """Total variation between π_ref·exp(r/β) and what PPO has learnt, and what it began with."""
    task = load_task("enumerable", seed=seed)
    policy = Policy.new(task.tokenizer, width=32, layers=1, heads=2, context=8, seed=seed, device="cpu")
    env = TextVectorEnv(task=task, num_envs=128)  # nothing comes after the third token
    config = PPOConfig(
        iterations=180,
        learning_rate=5e-3,
        warmup=20,
        epochs=4,
        minibatches=1,
        kl_coef=BETA,
        lam=1.0,
        whiten_advantages=False,
        value_clip=None,
        value_coef=0.5,
        seed=seed,
        **settings,
    )
    agent = PPO(policy, env, config)
    episodes = trajectories(task)
    before = trajectory_log_probs(policy, episodes).detach().double().exp().numpy()
    agent.learn()
    after = trajectory_log_probs(policy, episodes).detach().double().exp().numpy()
    best = optimal_policy(before, task.reward(episodes).values, BETA)
    return total_variation(after, best), total_variation(before, best)


# By night every critic, with and without a bound on the KL.
BY_DAY = [(0, "detached", 0.03)]
BY_NIGHT = [case for case in product(range(10), CRITICS, (None, 0.03)) if case not in BY_DAY]


@pytest.mark.parametrize(
    ("seed", "critic", "target_kl"),
    [*BY_DAY, *(pytest.param(*case, marks=pytest.mark.nightly) for case in BY_NIGHT)],
)
def test_ppo_reaches_the_closed_form_optimum(seed: int, critic: Kind, target_kl: float | None) -> None:
    reached, began = distance_to_optimum(seed, critic=critic, target_kl=target_kl)
    print(f"seed {seed}, {critic}, {target_kl}: total variation {began:.4f} -> {reached:.4f}")
    assert began > 0.1
    assert reached <= 0.01


@pytest.mark.nightly
def test_ppo_reaches_the_closed_form_optimum_with_its_own_critic_and_bound() -> None:
    reached, _ = distance_to_optimum(1)
    assert reached <= 0.01


# Invariances


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_at_learning_rate_zero_nothing_moves_in_any_epoch(kind: str, temperature: float) -> None:
    policy = small_policy(kind)
    before = parameters_of(policy)
    config = replace(STILL, iterations=2, epochs=3, temperature=temperature, whiten_advantages=True)

    class Watched(PPO):
        norms: list[float] = []  # noqa: RUF012
        seen: list[Metrics] = []  # noqa: RUF012

        def gradient(self, *args: Any) -> Metrics:
            self.seen.append(super().gradient(*args))
            return self.seen[-1]

        def apply_gradients(self) -> float:
            of_policy = any(p.grad is not None for p in self.policy.parameters())
            norm = super().apply_gradients()
            self.norms += [norm] if of_policy else []
            return norm

    agent = Watched(policy, world(), config)
    logs: list[Metrics] = []
    agent.learn(callback=lambda _, metrics: logs.append(metrics))
    assert len(agent.seen) == 2 * 3 * 4
    for metrics in agent.seen:
        assert metrics["ratio_max"] == pytest.approx(1, abs=1e-5)
        assert metrics["clip_fraction"] == 0
        assert abs(metrics["approx_kl"]) < 1e-9
    assert len(agent.norms) == len(agent.seen)
    assert min(agent.norms) > 0
    for row in logs:
        assert abs(row["kl"]) < 1e-5  # the reference is the policy; cached and full passes round differently
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), before, strict=True))


def played(policy: Policy, **changes: Any) -> Rollout:
    return PPO(policy, world(), replace(STILL, **changes)).collect()


def rows_of(batch: Rollout, rows: Sequence[int]) -> Rollout:
    """Some episodes of a batch, in this order, with columns to spare."""
    index = torch.tensor(rows)
    assert batch.states is not None
    names = ("tokens", "starts", "lengths", "log_probs", "values", "rewards", "truncated", "states")
    scores = Rewards(batch.scores.values[list(rows)])
    columns = {name: getattr(batch, name)[index] for name in names}
    longest = int(columns["lengths"].max())
    for name in ("log_probs", "values", "rewards", "states"):
        columns[name] = columns[name][:, :longest]
    return Rollout(**columns, episodes=[batch.episodes[i] for i in rows], scores=scores)


def gradient_of(policy: Policy, batch: Rollout, minibatches: int = 1, **changes: Any) -> list[Tensor]:
    """Of the loss over the batch, each minibatch counting by its tokens."""
    config = replace(STILL, epochs=1, minibatches=minibatches, entropy_coef=0.01, **changes)
    agent = Recorder(
        policy, world(len(batch.tokens)), config, small_policy(seed=9, dtype=torch.float64).frozen()
    )
    agent.update(batch)
    tokens = [int(batch.lengths[rows].sum()) for rows in agent.rows]
    parts = zip(*agent.gradients, strict=True)
    return [sum(n * g for n, g in zip(tokens, p, strict=True)) / sum(tokens) for p in parts]


def assert_same(first: list[Tensor], second: list[Tensor], atol: float = 1e-12) -> None:
    assert max(float(g.abs().max()) for g in first) > 1e-3
    for a, b in zip(first, second, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize(
    "changes", [{}, {"whiten_advantages": True}, {"kl_in": "loss", "kl_estimator": "k3"}]
)
def test_the_gradient_ignores_order_padding_and_the_number_of_parts(changes: dict[str, Any]) -> None:
    policy = small_policy(dtype=torch.float64)
    batch = played(policy)
    plain = gradient_of(policy, batch, **changes)
    order = np.random.default_rng(0).permutation(len(batch.tokens)).tolist()
    assert_same(gradient_of(policy, rows_of(batch, order), **changes), plain)
    wide = replace(batch, tokens=torch.nn.functional.pad(batch.tokens, (0, 5), value=3))
    assert_same(gradient_of(policy, wide, **changes), plain)
    for parts in (2, 7, 64):
        assert_same(gradient_of(policy, batch, parts, **changes), plain)


def test_a_constant_added_to_every_reward_changes_no_whitened_update() -> None:
    policy = small_policy(dtype=torch.float64)
    batch = played(policy)
    more = batch.rewards.clone()
    more[range(len(more)), batch.lengths - 1] += 5.0
    changes: dict[str, Any] = {"whiten_advantages": True, "value_coef": 0.0}
    assert_same(
        gradient_of(policy, batch, **changes),
        gradient_of(policy, replace(batch, rewards=more), **changes),
        1e-6,
    )


# The loss by hand


def agent_with(**changes: Any) -> PPO:
    return PPO(small_policy(), world(), replace(STILL, **changes))


def said(log_probs: list[float], values: list[float], entropy: list[float] | None = None) -> Evaluation:
    rows = (log_probs, values, entropy or [0.0] * len(values))
    return Evaluation(*(torch.tensor([row], dtype=torch.float64) for row in rows))


def old(**columns: list[float]) -> dict[str, Tensor]:
    zeros = [0.0] * 4
    names = ("log_probs", "values", "advantages", "returns", "reference")
    return {n: torch.tensor([columns.get(n, zeros)], dtype=torch.float64) for n in names}


MASK = torch.tensor([[True, True, True, False]])


def test_the_clipped_surrogate_by_hand() -> None:
    now = said([math.log(x) for x in (1.5, 0.5, 1.5, 99.0)], [0.0] * 4)
    loss, metrics = agent_with(clip=0.2, value_coef=0.0).loss(
        now, old(advantages=[1.0, 1.0, -1.0, 7.0]), Part.whole(MASK)
    )
    # gains are cut at 1.2; 0.5 * 1 is not; a loss of 1.5 is not cut either
    assert float(loss) == pytest.approx(-(1.2 + 0.5 - 1.5) / 3)
    assert metrics["policy_loss"] == float(loss)
    assert metrics["clip_fraction"] == pytest.approx(1.0)
    assert metrics["ratio_max"] == pytest.approx(1.5)
    higher, _ = agent_with(clip=0.2, clip_higher=0.4, value_coef=0.0).loss(
        now, old(advantages=[1.0, 1.0, -1.0, 7.0]), Part.whole(MASK)
    )
    assert float(higher) == pytest.approx(-(1.4 + 0.5 - 1.5) / 3)
    expected = np.mean([r - 1 - math.log(r) for r in (1.5, 0.5, 1.5)])
    assert metrics["approx_kl"] == pytest.approx(expected)


def test_the_value_loss_by_hand() -> None:
    shared: dict[str, Any] = {"critic": "shared", "value_coef": 2.0}
    now = said([0.0] * 4, [1.0, 0.1, -1.0, 50.0])
    before = old(values=[0.0, 0.0, 0.0, 0.0], returns=[1.0, 1.0, 1.0, 1.0])
    loss, metrics = agent_with(**shared, value_clip=None).loss(now, before, Part.whole(MASK))
    assert metrics["value_loss"] == pytest.approx((0 + 0.81 + 4) / 6)
    assert float(loss) == pytest.approx(2 * metrics["value_loss"])
    _, metrics = agent_with(**shared, value_clip=0.2).loss(now, before, Part.whole(MASK))
    assert metrics["value_loss"] == pytest.approx((0.8**2 + 0.81 + 4) / 6)  # the worse of clipped and not


def test_entropy_and_kl_terms_by_hand() -> None:
    now = said([-1.0, -2.0, -3.0, 0.0], [0.0] * 4, [0.3, 0.6, 0.9, 9.0])
    same = old(log_probs=[-1.0, -2.0, -3.0, 0.0], reference=[-1.0, -1.0, -5.0, 0.0])
    loss, metrics = agent_with(entropy_coef=0.5, value_coef=0.0).loss(now, same, Part.whole(MASK))
    assert float(loss) == pytest.approx(-0.5 * 0.6)
    assert metrics["entropy"] == pytest.approx(0.6)
    loss, _ = agent_with(kl_in="loss", kl_estimator="k2", value_coef=0.0).loss(now, same, Part.whole(MASK))
    assert float(loss) == pytest.approx(BETA * (0 + 0.5 + 2) / 3)
    loss, metrics = agent_with(value_coef=0.0).loss(now, same, Part.whole(MASK))
    assert float(loss) == 0
    assert metrics["entropy"] == pytest.approx(2.0)  # an estimate, -mean log p, where it is not computed


def test_an_annealed_entropy_bonus_falls_linearly_to_nothing() -> None:
    now = said([0.0] * 4, [0.0] * 4, [0.3, 0.6, 0.9, 9.0])
    agent = agent_with(entropy_coef=0.5, anneal_entropy=True, iterations=4, value_coef=0.0)
    found = []
    for agent.iteration in (0, 1, 3, 4, 5):  # the last two are beyond what was planned
        loss, _ = agent.loss(now, old(), Part.whole(MASK))
        found.append(float(loss))
    assert found == pytest.approx([-0.3, -0.225, -0.075, 0, 0])


def test_the_kl_and_explained_variance_reported() -> None:
    policy = small_policy(dtype=torch.float64)
    reference = small_policy(seed=9, dtype=torch.float64).frozen()
    agent = Recorder(policy, world(), STILL, reference)
    batch = agent.collect()
    metrics = agent.update(batch)
    with torch.no_grad():
        log_p, log_q = (trajectory_log_probs(p, batch.episodes) for p in (policy, reference))
    assert metrics["kl"] == pytest.approx(float((log_p - log_q).mean()), abs=1e-10)
    assert metrics["kl_per_token"] == pytest.approx(
        float((log_p - log_q).sum()) / batch.num_tokens, abs=1e-10
    )

    # λ = 1: the return is what is paid from here on, KL included; after a cut there is nothing.
    paid = batch.rewards - BETA * (
        batch.log_probs - reference.score(batch.tokens, batch.starts, batch.lengths)
    )
    returns, values = [], []
    for i, n in enumerate(batch.lengths.tolist()):
        returns += [float(paid[i, t:n].sum()) for t in range(n)]
        values += batch.values[i, :n].tolist()
    expected = 1 - np.mean((np.array(returns) - values) ** 2) / np.var(returns)
    assert metrics["explained_variance"] == pytest.approx(expected)
    assert any(episode.finish_reason == "length" for episode in batch.episodes)


# What settings do


def test_epochs_stop_when_the_policy_has_moved_far_enough() -> None:
    config = replace(STILL, learning_rate=1e-3, epochs=50, minibatches=1)
    free, bound = (PPO(small_policy(), world(), replace(config, target_kl=t)) for t in (None, 0.02))
    updates = [int(agent.update(agent.collect())["updates"]) for agent in (free, bound)]
    assert updates[0] == 50
    assert 1 < updates[1] < 20


def test_the_kl_coefficient_adapts_to_its_target() -> None:
    """Errors beyond a fifth count as a fifth; what lies between them is tried below."""
    policy = small_policy()
    far = small_policy(seed=9).frozen()
    up, down = (PPO(policy, world(), replace(STILL, kl_target=t), far) for t in (1e-3, 1e3))
    up.learn()
    down.learn()
    assert up.kl.coefficient == pytest.approx(BETA * (1 + 0.2 * 64 / 2000))
    assert down.kl.coefficient == pytest.approx(BETA * (1 - 0.2 * 64 / 2000))


@pytest.mark.parametrize("error", [-0.15, -0.05, 0.1, 0.19])
def test_beta_follows_the_kl_of_whole_episodes(error: float) -> None:
    """Ziegler et al.'s error is not clipped here, so that it tells which KL it was taken of."""
    far = small_policy(seed=9).frozen()
    batch = PPO(small_policy(), world(), STILL, far).collect()
    with torch.no_grad():
        log_p, log_q = (trajectory_log_probs(p, batch.episodes) for p in (small_policy(), far))
    kl = float((log_p - log_q).mean())
    assert kl > 1
    assert 2 < batch.num_tokens / 64 < 8  # a token's KL is another number
    agent = PPO(small_policy(), world(), replace(STILL, kl_target=kl / (1 + error)), far).learn()
    assert agent.kl.coefficient == pytest.approx(BETA * (1 + error * 64 / 2000), rel=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"minibatches": 0},
        {"clip": 0.0},
        {"gamma": 1.1},
        {"lam": -0.1},
        {"kl_coef": -1.0},
        {"learning_rate": math.nan},
        {"kl_in": "loss"},  # with k1, whose gradient is nothing on average
    ],
)
def test_settings_without_sense_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong)).replace("kl_in", "k1")):
        PPOConfig(**wrong)


@pytest.mark.parametrize("episodes", [1, 3])
def test_fewer_episodes_than_minibatches(episodes: int) -> None:
    agent = PPO(small_policy(), world(episodes), PPOConfig(iterations=2)).learn()
    assert agent.iteration == 2


def test_ppo_learns_to_please() -> None:
    policy = Policy.new(
        WordTokenizer("abcdefghi", separator=""), width=16, layers=1, heads=2, context=16, device="cpu"
    )
    logs: list[Metrics] = []
    config = PPOConfig(iterations=25, learning_rate=1e-2, warmup=0, kl_coef=0.01)
    PPO(policy, world(), config).learn(callback=lambda _, metrics: logs.append(metrics))
    assert logs[0]["reward"] < 2
    assert logs[-1]["reward"] > 5


def test_the_value_head_learns_at_a_speed_of_its_own() -> None:
    settings: dict[str, Any] = {"critic": "shared", "learning_rate": 1e-3, "value_lr_factor": 5.0}
    agent = agent_with(**settings, warmup=0, iterations=2, anneal=False)
    agent.learn(1)
    trunk, head = agent.optimizer.param_groups
    assert (trunk["lr"], head["lr"]) == pytest.approx((1e-3, 5e-3))
    assert {id(p) for p in head["params"]} == {id(p) for p in agent.policy.value_head.parameters()}
    both = [*trunk["params"], *head["params"]]
    assert len(both) == len(list(agent.policy.parameters()))  # each weight is trained, and once
