"""What PPO, GRPO, RLOO and REINFORCE share; their gradients are tested in their own files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.small_models import parameters_of, plain_forward, same_parameters, small_policy
from tests.tiny_world import columns_of_update, learn_in
from text_gym import (
    AllowedTokens,
    Episode,
    MinLength,
    Rewards,
    TextVectorEnv,
    WordTokenizer,
    as_reward_source,
    load_task,
)
from text_gym.agents import (
    GRPO,
    PPO,
    REINFORCE,
    RLOO,
    Agent,
    BestOfN,
    Policy,
    PPOConfig,
    Rollout,
)
from text_gym.agents.algorithms.by_name import load_algorithm
from text_gym.agents.algorithms.configs import PolicyGradientConfig
from text_gym.agents.algorithms.groups import grouped_returns
from text_gym.agents.algorithms.policy_gradient import Part, check_loss, minibatches
from text_gym.agents.training.metrics import Metrics
from text_gym.errors import ConfigError, NonFiniteError
from text_gym.tasks.enumerable import optimal_policy, total_variation


@given(
    episodes=st.integers(1, 50), epochs=st.integers(1, 3), parts=st.integers(1, 8), seed=st.integers(0, 99)
)
def test_every_epoch_takes_every_episode_once(episodes: int, epochs: int, parts: int, seed: int) -> None:
    batches = minibatches(episodes, epochs, parts, (seed, 0))
    per_epoch = min(parts, episodes)
    assert len(batches) == epochs * per_epoch
    for e in range(epochs):
        rows = torch.cat(batches[e * per_epoch : (e + 1) * per_epoch])
        assert sorted(rows.tolist()) == list(range(episodes))
    again = minibatches(episodes, epochs, parts, (seed, 0))
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))


def test_minibatches_are_others_in_every_epoch_iteration_and_seed() -> None:
    def drawn(seed: int, iteration: int) -> list[list[int]]:
        agent = moving(target_kl=None, epochs=3, minibatches=2, seed=seed)
        batch = agent.collect()
        agent.iteration = iteration
        return [rows.tolist() for rows in agent.minibatches(batch)]

    first = drawn(0, 0)
    every = [*first, *drawn(0, 1), *drawn(0, 2), *drawn(1, 0)]
    assert len({tuple(rows) for rows in every}) == len(every) == 24
    assert drawn(0, 0) == first


@pytest.mark.parametrize("name", ["ppo", "grpo", "rloo", "reinforce", "best of n"])
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_where_tokens_are_masked_the_ratio_is_that_of_what_was_drawn_from(
    name: str, temperature: float
) -> None:
    """Before any step the policy is the one that played, and the reference: ratio 1 and KL 0."""
    kind, settings = LEARNERS[name]
    mask = AllowedTokens(texts=["ab"]) & MinLength(1)  # neither c, nor EOS at once
    env = TextVectorEnv(["a", "bb"], TOKENIZER, lambda completion: len(completion), 4, num_envs=16, mask=mask)
    config: Any = kind.config_class(**settings | {"learning_rate": 0.0, "temperature": temperature})
    agent = kind(small_policy(tokenizer=TOKENIZER), env, config)
    batch = agent.collect()
    assert not (batch.tokens == TOKENIZER.encode("c")[0]).any()
    metrics = agent.update(batch)
    assert metrics["kl"] == pytest.approx(0, abs=1e-5)
    if name != "best of n":
        assert metrics["ratio"] == pytest.approx(1, abs=1e-5)
        assert metrics["ratio_max"] == pytest.approx(1, abs=1e-5)
    else:  # the likelihood of the chosen texts, as it was when they were drawn
        agent.config = replace(config, epochs=1, minibatches=1)
        assert agent.update(batch)["loss"] == pytest.approx(metrics["loss"], rel=1e-4)


def test_the_objective_is_under_the_beta_that_was_played() -> None:
    agent = learner("ppo", kl_target=1e-3, kl_coef=0.5)
    batch = agent.collect()
    metrics = agent.update(batch)
    rewards = batch.scores.totals[batch.scored.numpy()]
    assert abs(metrics["kl"]) > 0.1
    assert metrics["objective"] == pytest.approx(rewards.mean() - 0.5 * metrics["kl"])
    assert metrics["kl_coef"] == agent.kl.coefficient != 0.5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"minibatches": 0}, "minibatches is 0"),
        ({"clip": 0.0}, "clip is 0"),
        ({"clip_higher": -0.1}, "clip_higher is -0.1"),
        ({"kl_in": "loss"}, "no gradient on average"),
    ],
)
def test_settings_without_sense_are_named(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PolicyGradientConfig(**wrong)  # type: ignore[arg-type]


def test_averages_divide_by_the_whole_minibatch() -> None:
    mask = torch.tensor([[True, True, True], [True, False, False]])
    first, second = Part(mask[1:, :1], tokens=4, episodes=2), Part(mask[:1], tokens=4, episodes=2)
    x = torch.tensor([[1.0, 2.0, 3.0], [10.0, 99.0, 99.0]])
    assert [float(first.per_token(x[1:, :1])), float(second.per_token(x[:1]))] == [10 / 4, 6 / 4]
    assert [float(first.per_episode(x[1:, :1])), float(second.per_episode(x[:1]))] == [10 / 2, 6 / 2]
    assert float(Part.whole(mask).per_token(x)) == 16 / 4


def test_finite_numbers_pass_however_large() -> None:
    check_loss(torch.tensor(1e30), {"x": torch.full((9,), 3e38)}, 3)
    with pytest.raises(NonFiniteError, match=r"loss is 0\.0 in iteration 3.*before it: y$"):
        check_loss(torch.tensor(0.0), {"x": torch.full((9,), 3e38), "y": torch.tensor([1, math.inf])}, 3)


# Episodes that were not paid

LEARNERS: dict[str, tuple[type[Agent[Any]], dict[str, Any]]] = {
    "ppo": (PPO, {"kl_target": 0.1}),
    "ppo, shared critic": (PPO, {"critic": "shared", "value_clip": None}),
    "ppo, separate critic": (PPO, {"critic": "separate"}),
    "grpo": (GRPO, {"group_size": 4, "kl_target": 0.1}),
    "rloo": (RLOO, {"group_size": 4}),
    "reinforce": (REINFORCE, {"epochs": 2, "minibatches": 2}),
    "reinforce, critic": (REINFORCE, {"baseline": "critic"}),
    "best of n": (BestOfN, {"n": 4}),
}
KL = [{"kl_in": "reward"}, {"kl_in": "loss", "kl_estimator": "k2"}, {"kl_in": "loss", "kl_estimator": "k3"}]
CASES = [
    (name, {} if name == "best of n" else kl)
    for name in LEARNERS
    for kl in KL[: 1 + 2 * (name != "best of n")]
]
TOKENIZER = WordTokenizer("abc", separator="", pad=False)


def learner(name: str, **changes: Any) -> Agent[Any]:
    """The same agent every time, in a world in which about half of the texts are cut."""
    kind, settings = LEARNERS[name]
    env = TextVectorEnv(
        ["a", "bb", "c"],
        TOKENIZER,
        lambda completion: completion.count("a") / 2,
        3,
        num_envs=32,
        numbering="global",
        limit="truncate",
    )
    policy = small_policy(tokenizer=TOKENIZER, initializer_range=0.1)
    reference = small_policy(tokenizer=TOKENIZER, initializer_range=0.1, seed=1).frozen()
    config: Any = kind.config_class(iterations=9, learning_rate=1e-2, warmup=0, **settings | changes)
    return kind(policy, env, config, reference)


def after_update(agent: Agent[Any], batch: Rollout) -> list[Tensor]:
    """All weights, and β, after one update."""
    agent.update(batch)
    states = (network.state_dict() for network in agent.networks.values())  # buffers too
    weights = [tensor.detach().clone() for state in states for tensor in state.values()]
    return [*weights, torch.tensor(agent.kl.coefficient)]


def equal(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def without(batch: Rollout, rows: Tensor) -> Rollout:
    """A batch in which these rows were never played."""
    kept = (~rows).nonzero()[:, 0]
    columns = {f.name: getattr(batch, f.name) for f in fields(batch)}
    columns = {name: x[kept] if isinstance(x, Tensor) else x for name, x in columns.items()}
    longest = int(columns["lengths"].max())
    names = ("log_probs", "values", "rewards", *(["states"] if batch.states is not None else []))
    columns |= {name: columns[name][:, :longest] for name in names}
    columns["tokens"] = columns["tokens"][:, : int((columns["starts"] + columns["lengths"]).max())]
    columns["episodes"] = [batch.episodes[i] for i in kept.tolist()]
    return Rollout(**columns | {"scores": Rewards(batch.scores.values[kept.numpy()])})


@pytest.mark.parametrize(("name", "kl"), CASES)
@pytest.mark.parametrize("garbage", [1e6, math.nan, -math.inf])
def test_garbage_in_texts_that_were_cut_changes_no_bit(name: str, kl: dict[str, Any], garbage: float) -> None:
    agent = learner(name, **kl)
    before = parameters_of(agent.policy)
    batch = agent.collect()
    cut = torch.tensor([e.finish_reason == "length" for e in batch.episodes])
    assert torch.equal(batch.truncated, cut)
    assert 8 < int(cut.sum()) < 24
    assert torch.equal(batch.scored, ~cut)
    plain = after_update(agent, batch)
    assert not same_parameters(agent.policy, before)
    names = ("rewards", "values", "log_probs", *(["states"] if batch.states is not None else []))
    dirty = replace(batch, **{c: getattr(batch, c).clone() for c in names})
    for c in names:
        getattr(dirty, c)[cut] = garbage
    assert equal(after_update(learner(name, **kl), dirty), plain)


@pytest.mark.parametrize("name", sorted(LEARNERS))
@pytest.mark.parametrize("garbage", [1e6, math.nan])
def test_garbage_past_the_end_of_texts_changes_no_bit(name: str, garbage: float) -> None:
    agent = learner(name)
    before = parameters_of(agent.policy)
    batch = agent.collect()
    assert int((~batch.mask).sum()) > 8
    plain = after_update(agent, batch)
    assert not same_parameters(agent.policy, before)
    names = ("rewards", "values", "log_probs", *(["states"] if batch.states is not None else []))
    dirty = replace(batch, **{c: getattr(batch, c).clone() for c in names})
    for c in names:
        getattr(dirty, c)[~batch.mask] = garbage
    assert equal(after_update(learner(name), dirty), plain)


@pytest.mark.parametrize(("name", "kl"), CASES)
def test_an_update_is_that_of_a_batch_without_the_rows_that_were_not_paid(
    name: str, kl: dict[str, Any]
) -> None:
    """Whole groups here, so that those left over are groups; and rows cut, or without a judgement."""
    batch = learner(name, **kl).collect()
    every = replace(batch, truncated=torch.zeros(32, dtype=torch.bool))
    gone = torch.zeros(32, dtype=torch.bool)
    gone[4:12] = gone[28:] = True
    expected = after_update(learner(name, **kl), without(every, gone))
    mute = Rewards(batch.scores.values, abstained=gone.numpy())
    for some in (replace(batch, truncated=gone), replace(every, scores=mute)):
        assert equal(after_update(learner(name, **kl), some), expected)
    assert not equal(after_update(learner(name, **kl), every), expected)


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("why", ["cut", "not judged"])
def test_where_nothing_was_paid_nothing_is_updated(name: str, why: str) -> None:
    agent = learner(name)
    batch = agent.collect()
    all_of_them = np.ones(32, dtype=np.bool_)
    batch = replace(batch, truncated=torch.from_numpy(all_of_them & (why == "cut")))
    batch = replace(batch, scores=Rewards(np.zeros(32), abstained=all_of_them & (why == "not judged")))
    before = [p.clone() for network in agent.networks.values() for p in network.parameters()]
    beta = agent.kl.coefficient
    metrics = agent.update(batch)
    assert equal(before, [p for network in agent.networks.values() for p in network.parameters()])
    assert agent.kl.coefficient == beta
    assert not agent.optimizer.state
    assert metrics["updates"] == 0
    assert math.isnan(metrics["kl"])
    agent.learn(1)  # and it can go on


def test_groups_are_of_the_episodes_that_were_paid() -> None:
    """Returns 1, 3, (cut), 8; a lone 5; nobody; 2, 2, 2, 6."""
    batch = learner("rloo").collect()
    rows = torch.arange(16)
    returns = torch.tensor([1.0, 3, 99, 8, 99, 99, 5, 99, 99, 99, 99, 99, 2, 2, 2, 6])
    paid = torch.zeros(16, 3)
    paid[rows, batch.lengths[:16] - 1] = returns
    first = without(batch, torch.arange(32) >= 16)
    first = replace(first, truncated=returns == 99, rewards=paid[:, : first.rewards.shape[1]])
    left = first.only(first.scored)
    found, present, places = grouped_returns(left, left.rewards, 4)
    assert found.tolist() == [[1, 3, 0, 8], [0, 0, 5, 0], [2, 2, 2, 6]]
    assert present.int().tolist() == [[1, 1, 0, 1], [0, 0, 1, 0], [1, 1, 1, 1]]
    assert found[places].tolist() == [1, 3, 8, 5, 2, 2, 2, 6]

    def of_first_tokens(agent: Agent[Any]) -> list[float]:
        columns, _ = columns_of_update(agent, left)
        return [float(x) for x in columns["advantages"][:, 0]]

    by_rloo = [1 - 5.5, 3 - 4.5, 8 - 2, 0, 2 - 10 / 3, 2 - 10 / 3, 2 - 10 / 3, 6 - 2]
    sizes = left.lengths.tolist()
    assert of_first_tokens(learner("rloo", kl_coef=0.0)) == pytest.approx(
        [a / n for a, n in zip(by_rloo, sizes, strict=True)]
    )
    by_grpo = [-3, -1, 4, 0, -1, -1, -1, 3]
    assert of_first_tokens(learner("grpo", std_normalisation=False, kl_coef=0.0)) == pytest.approx(by_grpo)


def test_the_mean_reward_is_of_the_texts_that_were_paid() -> None:
    batch = learner("ppo").collect()
    paid = batch.scores.totals[batch.scored.numpy()]
    assert 0 < len(paid) < 32
    assert batch.metrics()["reward"] == pytest.approx(paid.mean()) != pytest.approx(paid.sum() / 32)
    assert batch.metrics()["reward_std"] == pytest.approx(paid.std())


def test_only_keeps_what_belongs_to_the_rows() -> None:
    batch = learner("ppo").collect()
    short = batch.lengths == 1
    assert 0 < int(short.sum()) < 32
    found = batch.only(short)
    assert found.log_probs.shape == (int(short.sum()), 1)
    assert found.tokens.shape[1] == int((batch.starts + 1)[short].max())
    assert [e.index for e in found.episodes] == short.nonzero()[:, 0].tolist() == found.rows.tolist()  # type: ignore[union-attr]
    assert torch.equal(found.tokens, batch.tokens[short][:, : found.tokens.shape[1]])
    assert found.scores.values.tolist() == batch.scores.values[short.numpy()].tolist()
    again = found.only(torch.arange(len(found.tokens)) > 0)
    assert torch.equal(again.rows, found.rows[1:])  # type: ignore[arg-type, index]
    every = batch.only(batch.lengths > 0)
    assert every.episodes is batch.episodes
    assert torch.equal(every.log_probs, batch.log_probs)


# Stopping that is worth it, but hardly: torn texts pay 0.9

STOPPING: dict[str, dict[str, Any]] = {
    "ppo": {
        "epochs": 4,
        "minibatches": 1,
        "whiten_advantages": False,
        "value_clip": None,
        "learning_rate": 5e-3,
    },
    "grpo": {"kl_in": "reward", "kl_estimator": "k1", "length_normalisation": "constant"},
    "rloo": {},
    "reinforce": {},
}


def hardly_worth_it(episode: Episode) -> float:
    """1 for a text that stops by itself, and almost as much for one that does not."""
    return 1.0 if episode.finish_reason == "eos" else 0.9


BY_DAY = ("ppo", 0)  # the others know no value that could be added to a torn text
BY_NIGHT = [case for case in product(STOPPING, range(5)) if case != BY_DAY]


@pytest.mark.parametrize(
    ("name", "seed"), [BY_DAY, *(pytest.param(*case, marks=pytest.mark.nightly) for case in BY_NIGHT)]
)
def test_stopping_is_learnt_where_torn_texts_pay_almost_as_much(name: str, seed: int) -> None:
    """The closed form again: a limit that pays once leaves stopping worth 0.1 more, however small β is."""
    task = replace(load_task("enumerable", seed=seed), reward=as_reward_source(hardly_worth_it))
    kind, beta = load_algorithm(name), 0.03
    config = kind.config_class(
        **{"iterations": 120, "learning_rate": 5e-3, "warmup": 0, "kl_coef": beta, "seed": seed}
        | STOPPING[name]
    )
    task, episodes, before, after = learn_in(seed, lambda policy, env: kind(policy, env, config), 128, task)
    best = optimal_policy(before, task.reward(episodes).values, beta)
    stops = np.array([e.finish_reason == "eos" for e in episodes])
    print(
        f"{name}: stops {before[stops].sum():.3f} -> {after[stops].sum():.3f}, best {best[stops].sum():.3f}"
    )
    assert before[stops].sum() < 0.7
    assert best[stops].sum() > 0.8  # the odds of stopping rise by exp(0.1 / β) = 28
    assert total_variation(after, best) <= 0.05


# Minibatches that find the policy too far from the one that played


def moving(**changes: Any) -> PPO:
    env = TextVectorEnv(["a"], TOKENIZER, lambda completion: completion.count("a"), 3, num_envs=32)
    config = PPOConfig(learning_rate=0.05, warmup=0, iterations=9, **changes)
    policy = Policy.new(TOKENIZER, layers=1, width=16, context=8, device="cpu")
    return PPO(policy, env, config)


def state_of(agent: PPO) -> list[Tensor]:
    """Weights, and what the optimizer remembers of them, of the policy."""
    memory = [agent.optimizer.state[p] for p in agent.policy.parameters() if p in agent.optimizer.state]
    return parameters_of(agent.policy) + [x.clone() for state in memory for x in state.values()]


@pytest.mark.parametrize("critic", ["detached", "separate", "shared"])
def test_the_first_minibatch_is_learnt_from_and_the_next_ones_change_no_bit(critic: Any) -> None:
    """Whatever the bound; an update that is stopped there is one of a single minibatch."""
    one = moving(critic=critic, target_kl=None, epochs=1, minibatches=1)
    bound = moving(critic=critic, target_kl=1e-12, epochs=4, minibatches=1)
    start = state_of(bound)
    batch = one.collect()
    metrics = bound.update(batch)
    assert metrics == one.update(batch)
    assert metrics["updates"] == 1
    assert all(math.isfinite(value) for value in metrics.values())
    assert equal(state_of(bound), state_of(one))
    assert len(state_of(bound)) > len(start)  # it took a step


@pytest.mark.parametrize("refused", [0, 1, 5, 7])
def test_a_minibatch_that_is_refused_ends_the_epochs(refused: int) -> None:
    """Of 8; that the first one is told to be far away (rounding, say) does not matter."""

    class Told(PPO):
        states: list[list[Tensor]] = []  # noqa: RUF012

        def gradient(self, *args: Any) -> Metrics:
            self.states.append(state_of(self))
            return super().gradient(*args) | {"approx_kl": float(len(self.states) == refused + 1)}

    agent = moving(target_kl=0.5, epochs=4, minibatches=2)
    agent.__class__, Told.states = Told, []
    metrics = agent.update(agent.collect())
    assert metrics["updates"] == (refused or 8)
    assert len(Told.states) == (refused + 1 if refused else 8)
    assert all(math.isfinite(value) for value in metrics.values())
    if refused:
        assert equal(Told.states[-1], state_of(agent))
        assert metrics["approx_kl"] == 0  # metrics are of what was learnt from


def test_the_bound_is_on_the_kl_to_the_policy_that_played() -> None:
    """Against the log-probabilities of single texts after each step."""
    agent = moving(target_kl=None, epochs=6, minibatches=1)
    batch = agent.collect()
    found: list[float] = []
    original = agent.apply_gradients

    def far() -> float:
        with torch.no_grad():
            now = trajectory_log_probs_by_token(agent.policy, batch)
        was = torch.cat([row[:n] for row, n in zip(batch.log_probs, batch.lengths.tolist(), strict=True)])
        return float(((now - was).exp() - 1 - (now - was)).mean())

    def apply_gradients() -> float:
        if any(p.grad is not None for p in agent.policy.parameters()):
            found.append(far())
        return original()

    vars(agent)["apply_gradients"] = apply_gradients
    agent.update(batch)
    assert len(found) == 6
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert found[1] > 1e-4
    again = moving(target_kl=(found[0] + found[1]) / 2, epochs=6, minibatches=1)
    assert again.update(batch)["updates"] == 1
    farthest = next(i for i in range(1, 6) if found[i] == max(found[: i + 1]) and found[i] > found[1])
    again = moving(target_kl=(max(found[:farthest]) + found[farthest]) / 2, epochs=6, minibatches=1)
    assert again.update(batch)["updates"] == farthest


def trajectory_log_probs_by_token(policy: Policy, batch: Rollout) -> Tensor:
    """`(N,)`, of every token of a batch, each text by itself."""
    rows = []
    for e in batch.episodes:
        ids, start = [*e.prompt_ids.tolist(), *e.completion_ids.tolist()], len(e.prompt_ids)
        log_p, _ = plain_forward(policy, ids, start)
        rows.append(log_p[range(len(ids) - start), ids[start:]])
    return torch.cat(rows)
