"""A critic that reads the policy's states: what it learns, remembers and leaves alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from tests.small_models import parameters_of, same_parameters, small_policy
from text_gym import AllowedTokens, Episode, TextVectorEnv, WordTokenizer, as_reward_source
from text_gym.agents import PPO, LoRAPolicy, Policy, PPOConfig
from text_gym.agents.policies.critic import StateCritic, without_outliers
from text_gym.agents.training.metrics import Metrics
from text_gym.errors import NonFiniteError

B, T, D = 64, 16, 8
Floats = npt.NDArray[np.float64]
CONFIG = PPOConfig(critic="detached", iterations=3, learning_rate=1e-2, warmup=0)


def world(num_envs: int = 32, **changes: Any) -> TextVectorEnv:
    tokenizer = WordTokenizer("abcdefghi", separator="")
    settings: dict[str, Any] = {
        "prompts": ["a", "bcd", "efghi"],
        "reward": lambda completion: completion.count("a"),
    }
    return TextVectorEnv(tokenizer=tokenizer, max_tokens=8, num_envs=num_envs, **settings | changes)


def critic_of(agent: PPO) -> StateCritic:
    assert isinstance(agent.critic, StateCritic)
    return agent.critic


def copies(critic: StateCritic) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in critic.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


# What it learns


def linear(s: Floats, t: Floats) -> Floats:
    return np.asarray(2 * s[..., 0] - s[..., 3])


def curved(s: Floats, t: Floats) -> Floats:
    return np.asarray(s[..., 0] * s[..., 1] + np.abs(s[..., 2]))


def clock(s: Floats, t: Floats) -> Floats:
    return np.asarray((T - t) / T + 0 * s[..., 0])


def both(s: Floats, t: Floats) -> Floats:
    return np.asarray(s[..., 0] * (T - t) / T)


class Source:
    """Batches of states of mean 0 and variance 1, texts of 1 to `T` tokens, and their returns."""

    def __init__(self, function: Callable[[Floats, Floats], Floats], seed: int = 0) -> None:
        self.function, self.rng = function, np.random.default_rng(seed)

    def batch(self, mean: float = 0.0, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """States `(B, T, D)`, returns `(B, T)`, which have garbage past the ends, and mask."""
        states = self.rng.normal(size=(B, T, D))
        states = (states - states.mean(-1, keepdims=True)) / states.std(-1, keepdims=True)
        returns = mean + scale * self.function(states, np.arange(T, dtype=np.float64)[None, :])
        mask = np.arange(T) < self.rng.integers(1, T + 1, size=B)[:, None]
        returns[~mask] = 1e9
        columns = (torch.from_numpy(states).float(), torch.from_numpy(returns).float())
        return (*columns, torch.from_numpy(mask))


def explained(critic: StateCritic, batch: tuple[Tensor, Tensor, Tensor]) -> float:
    states, returns, mask = batch
    said, true = critic(states, mask)[mask].double().numpy(), returns[mask].double().numpy()
    return float(1 - ((said - true) ** 2).mean() / true.var())


class Pupil:
    """A critic and an optimizer for it."""

    def __init__(self) -> None:
        self.critic = StateCritic(D, T)
        self.optimizer = torch.optim.AdamW(self.critic.parameters(), lr=3e-3, weight_decay=0.0)
        self.rng = np.random.default_rng(0)

    def learn(self, batch: tuple[Tensor, Tensor, Tensor]) -> None:
        self.critic.remember(*batch, self.rng)
        for places in self.critic.minibatches(self.rng):
            self.optimizer.zero_grad()
            self.critic.loss(places).backward()
            self.optimizer.step()


@pytest.mark.parametrize("function", [linear, curved, clock, both])
def test_it_learns_what_returns_depend_on(function: Callable[[Floats, Floats], Floats]) -> None:
    """In the reward's unit: here a mean of 50 and a scale of 10; on a batch that it has not seen."""
    source, pupil = Source(function), Pupil()
    fresh = source.batch(50.0, 10.0)
    assert explained(pupil.critic, fresh) < 0
    for _ in range(40):
        pupil.learn(source.batch(50.0, 10.0))
    assert explained(pupil.critic, fresh) > 0.9


@pytest.mark.parametrize(("mean", "scale"), [(-100.0, 1.0), (0.0, 0.01), (0.0, 100.0)])
def test_it_follows_returns_that_jump_shrink_and_grow(mean: float, scale: float) -> None:
    source, pupil = Source(linear), Pupil()
    for _ in range(20):
        pupil.learn(source.batch())
    assert explained(pupil.critic, source.batch()) > 0.8
    assert explained(pupil.critic, source.batch(mean, scale)) < 0.1
    for _ in range(16):
        pupil.learn(source.batch(mean, scale))
    assert explained(pupil.critic, source.batch(mean, scale)) > 0.8


def test_the_scale_is_a_running_mean_and_standard_deviation() -> None:
    critic, rng = StateCritic(D, T), np.random.default_rng(0)
    mask = torch.ones(2, 4, dtype=torch.bool)
    expected: tuple[float, float] | None = None
    for values in ([1.0, 2, 3, 4, 5, 6, 7, 8], [10.0, 10, 10, 10, 30, 30, 30, 30], [0.0] * 8):
        mean, std = sum(values) / 8, math.sqrt(sum((v - sum(values) / 8) ** 2 for v in values) / 8)
        old = (mean, std) if expected is None else expected
        share = StateCritic.DECAY
        expected = (share * old[0] + (1 - share) * mean, share * old[1] + (1 - share) * std)
        critic.remember(torch.randn(2, 4, D), torch.tensor(values).view(2, 4), mask, rng)
        assert critic.scale.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_targets_are_in_units_of_their_own_batch() -> None:
    critic, rng = StateCritic(D, T), np.random.default_rng(0)
    mask = torch.ones(2, 4, dtype=torch.bool)
    for values in ([1.0, 2, 3, 4, 5, 6, 7, 8], [100.0, 120, 140, 160, 180, 200, 220, 240]):
        critic.remember(torch.randn(2, 4, D), torch.tensor(values).view(2, 4), mask, rng)
    for targets in critic.targets[:2, :8]:
        assert float(targets.mean()) == pytest.approx(0, abs=1e-5)
        assert float(targets.std(unbiased=False)) == pytest.approx(1, abs=1e-5)


def test_a_few_texts_far_out_do_not_drag_it_away() -> None:
    """One text of 64 has a return of -10,000, in units of the others' standard deviation."""
    found = []
    for far in (False, True):
        source, pupil = Source(linear), Pupil()
        for _ in range(20):
            pupil.learn(source.batch())
        for _ in range(4):
            states, returns, mask = source.batch()
            returns[0] = -1e4 if far else returns[0]
            mask[0] = True
            pupil.learn((states, returns, mask))
        found.append(explained(pupil.critic, source.batch()))
    assert found[1] > 0.8
    assert found[0] - found[1] < 0.15


def test_outliers_by_hand() -> None:
    """The middle 80 % reach from 1 to 9: what is below -7 is moved there."""
    x = torch.tensor([0.0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1000])
    assert torch.equal(without_outliers(x), x)  # what stands above counts in full
    assert without_outliers(9 - x).tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, -8]
    usual = torch.arange(11.0)
    assert torch.equal(without_outliers(usual), usual)
    assert without_outliers(torch.tensor([3.0])).tolist() == [3.0]


def test_rare_successes_tell_the_scale() -> None:
    """One text in 20 is paid 1: the mean is 0.05 and the standard deviation √(0.05 · 0.95)."""
    returns = torch.zeros(40, 1)
    returns[[3, 17]] = 1.0
    critic = StateCritic(D, T)
    critic.remember(torch.randn(40, 1, D), returns, returns >= 0, np.random.default_rng(0))
    assert critic.scale.tolist() == pytest.approx([0.05, math.sqrt(0.05 * 0.95)], rel=1e-5)
    assert float(critic.loss(torch.arange(40)).detach()) < 0.5


def test_equal_returns_are_the_value() -> None:
    source, pupil = Source(lambda s, t: 0 * s[..., 0]), Pupil()
    for _ in range(3):
        pupil.learn(source.batch(mean=2.5))
    states, _, mask = source.batch()
    values = pupil.critic(states, mask)
    assert values[mask].numpy() == pytest.approx(2.5, abs=1e-3)
    assert not values[~mask].any()


# What it remembers


def numbered(first: int, rows: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """A batch whose returns are the numbers `first …`."""
    returns = torch.arange(first, first + rows * tokens).view(rows, tokens).float()
    generator = torch.Generator().manual_seed(first)
    return torch.randn(rows, tokens, D, generator=generator), returns, torch.ones_like(returns) > 0


def numbers(critic: StateCritic, place: int) -> list[int]:
    """The returns remembered of a batch of consecutive numbers `n …`, less the smallest of them."""
    targets = critic.targets[place, : int(critic.counts[place])].sort().values.double()
    if len(targets) == 1:
        return [0]
    step = (targets[-1] - targets[0]) / (len(targets) - 1)
    return [round(float(x)) for x in (targets - targets[0]) / step]


def test_the_latest_four_batches_are_remembered_whole_where_they_fit() -> None:
    critic, rng = StateCritic(D, T), np.random.default_rng(0)
    assert StateCritic.WINDOW == 4
    sizes = [(10, 4), (3, 4), (1, 1), (7, 16), (2, 3), (5, 5)]
    tokens = [rows * columns for rows, columns in sizes]
    for i, (rows, columns) in enumerate(sizes):
        states, returns, mask = numbered(100, rows, columns)
        critic.remember(states, returns, mask, rng)
        place = i % 4
        kept = tokens[max(0, i - 3) : i + 1]
        assert sorted(critic.counts.tolist()) == sorted(kept + [0] * (4 - len(kept)))
        assert int(critic.batches) == i + 1
        assert numbers(critic, place) == list(range(rows * columns))
        # each target stands beside the state and the clock that it belongs to
        order = critic.targets[place, : rows * columns].argsort()
        x = states.view(-1, D)
        normal = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        steps = torch.arange(columns).repeat(rows)
        read = critic.remembered[place][order]
        assert torch.allclose(read[:, :D], normal, atol=1e-5)
        assert torch.allclose(read[:, D], 2 * steps / T - 1)
        assert torch.allclose(read[:, D + 1], torch.exp(-steps / 8))
    assert critic.counts.tolist() == [tokens[4], tokens[5], tokens[2], tokens[3]]


def test_of_a_large_batch_some_tokens_are_remembered() -> None:
    critic = StateCritic(D, 64)
    critic.remember(*numbered(0, 50, 64), np.random.default_rng(0))
    assert critic.counts.tolist() == [2048, 0, 0, 0]
    targets = critic.targets[0].double()
    assert len(targets.unique()) == 2048  # each once
    # a third of them, from everywhere
    third = (targets - targets.min()) / (targets.max() - targets.min()) * 3
    shares = torch.histc(third.float(), 3, 0, 3) / 2048
    assert shares.numpy() == pytest.approx(1 / 3, abs=0.05)


def test_each_epoch_takes_what_is_remembered_once() -> None:
    critic, rng = StateCritic(D, 64), np.random.default_rng(0)
    for rows in (50, 3, 40, 6, 2):  # the last takes the place of the first, and of its 2,048 tokens
        critic.remember(*numbered(0, rows, 64), rng)
    size = StateCritic.TOKENS
    there = [i * size + j for i, n in enumerate((128, 192, 2048, 384)) for j in range(n)]
    parts = critic.minibatches(rng)
    every = torch.cat(parts).tolist()
    assert len(every) == StateCritic.EPOCHS * len(there)
    for i in range(StateCritic.EPOCHS):
        epoch = every[i * len(there) : (i + 1) * len(there)]
        assert sorted(epoch) == there
        assert epoch != there
    assert {len(part) for part in parts} == {1376}  # 2,752 tokens in two


def test_the_loss_is_hubers() -> None:
    """In standard deviations of the batch: quadratic up to 1, linear from there on; it says 0 at first."""
    critic = StateCritic(D, T)
    returns = torch.tensor([[-1.0, 1.0] * 4 + [0.5, -0.5]])
    critic.remember(torch.randn(1, 10, D), returns, returns == returns, np.random.default_rng(0))
    mean, std = 0.0, math.sqrt((8 * 1.0 + 2 * 0.25) / 10)
    errors = [abs(x - mean) / std for x in returns[0].tolist()]
    expected = sum(e**2 / 2 if e <= 1 else e - 0.5 for e in errors) / 10
    assert float(critic.loss(torch.arange(10)).detach()) == pytest.approx(expected, rel=1e-5)


# What it leaves alone


def test_the_policy_learns_the_same_whatever_the_critic_is() -> None:
    """Given the same advantages; to the bit, even with a critic that takes enormous steps. Nor is there a
    value loss of the policy's own head."""
    batch = PPO(small_policy(), world(), CONFIG).collect()
    policies, critics = [], []
    for seed, speed, coefficient in ((0, 1e-3, 0.0), (1, 10.0, 1e3)):
        config = replace(CONFIG, critic_learning_rate=speed, value_coef=coefficient, max_grad_norm=0.1)
        agent = PPO(small_policy(), world(), config)
        critic = critic_of(agent)
        with torch.no_grad():
            for parameter in critic.parameters():
                parameter.normal_(generator=torch.Generator().manual_seed(seed))
        for _ in range(2):
            agent.update(batch)
            agent.iteration += 1
        policies.append(agent.policy)
        critics.append(copies(critic))
    assert same_parameters(policies[0], parameters_of(policies[1]))
    assert not same_parameters(policies[0], parameters_of(small_policy()))
    assert not same(critics[0], critics[1])


def test_the_critic_learns_the_same_however_the_policy_steps() -> None:
    batch = PPO(small_policy(), world(), CONFIG).collect()
    found, policies = [], []
    for speed in (0.0, 1e-2):
        agent = PPO(small_policy(), world(), replace(CONFIG, learning_rate=speed))
        fresh = copies(critic_of(agent))
        agent.update(batch)
        found.append(copies(critic_of(agent)))
        policies.append(agent.policy)
    assert same(found[0], found[1])
    assert not same(found[0], fresh)
    assert not same_parameters(policies[0], parameters_of(policies[1]))


def test_what_it_reads_and_in_which_order_is_another_in_every_iteration() -> None:
    agent = PPO(small_policy(), world(), CONFIG)
    critic, seen = critic_of(agent), []
    remember, minibatches = critic.remember, critic.minibatches

    def note(generator: np.random.Generator) -> np.random.Generator:
        seen.append(generator.bit_generator.state["state"]["state"])
        return generator

    vars(critic)["remember"] = lambda states, returns, mask, generator: remember(
        states, returns, mask, note(generator)
    )
    vars(critic)["minibatches"] = lambda generator: minibatches(note(generator))
    agent.learn(3)
    assert len(seen) == len(set(seen)) == 6


def test_nothing_is_drawn_from_a_global_generator() -> None:
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index] # noqa: NPY002
    agent = PPO(small_policy(), world(), CONFIG).learn(2)
    assert isinstance(agent, PPO)
    assert int(critic_of(agent).batches) == 2
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # type: ignore[index] # noqa: NPY002
    first, again, other = (copies(StateCritic(D, T, seed=seed)) for seed in (0, 0, 1))
    assert same(first, again)
    assert not same(first, other)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["rewards", "values", "log_probs"])
def test_a_batch_that_is_refused_is_not_remembered(where: str, poison: float) -> None:
    agent = PPO(small_policy(), world(), CONFIG).learn(1)
    assert isinstance(agent, PPO)
    batch, before = agent.collect(), copies(critic_of(agent))
    column = getattr(batch, where).clone()
    column[3, 0] = poison
    with pytest.raises(NonFiniteError):
        agent.update(replace(batch, **{where: column}))
    assert same(copies(critic_of(agent)), before)
    agent.update(batch)
    assert int(critic_of(agent).batches) == 2


def test_texts_that_were_not_paid_are_not_remembered() -> None:
    agent = PPO(small_policy(), world(limit="truncate"), CONFIG)
    batch = agent.collect()
    cut = batch.truncated
    assert 0 < int(cut.sum()) < len(cut)
    agent.update(batch)
    assert int(critic_of(agent).counts[0]) == int(batch.lengths[~cut].sum())
    # nor is a batch of which nothing was
    before = copies(critic_of(agent))
    agent.update(replace(batch, truncated=torch.ones_like(cut)))
    assert same(copies(critic_of(agent)), before)


# In PPO


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_it_reads_the_states_before_tokens(kind: str) -> None:
    """Against a pass over each text by itself."""
    policy = small_policy(kind, dtype=torch.float64)
    agent = PPO(policy, world(), CONFIG).learn(1)
    assert isinstance(agent, PPO)
    batch = agent.collect()
    assert batch.states is not None
    for i, (start, length) in enumerate(zip(batch.starts.tolist(), batch.lengths.tolist(), strict=True)):
        with torch.no_grad():
            said = policy.model(batch.tokens[i : i + 1, : start + length], output_hidden_states=True)
        expected = said.hidden_states[-1][0, start - 1 : -1]
        assert torch.allclose(batch.states[i, :length], expected, rtol=0, atol=1e-10)
        assert not batch.states[i, length:].any()
    assert torch.equal(batch.values, critic_of(agent)(batch.states, batch.mask))
    assert batch.values[batch.mask].std() > 0
    assert not batch.values[~batch.mask].any()


def test_states_are_kept_only_where_they_are_read() -> None:
    for critic in ("shared", "separate"):
        agent = PPO(small_policy(), world(), replace(CONFIG, critic=critic))
        assert agent.collect().states is None


def finite(logs: list[Metrics]) -> bool:
    return bool(logs) and all(math.isfinite(value) for row in logs for value in row.values())


def runs(policy: Policy, env: TextVectorEnv, **changes: Any) -> tuple[PPO, list[Metrics]]:
    logs: list[Metrics] = []
    agent = PPO(policy, env, replace(CONFIG, **changes))
    before = copies(critic_of(agent))
    agent.learn(callback=lambda _, metrics: logs.append(metrics))
    after = copies(critic_of(agent))
    assert all(not torch.equal(tensor, before[name]) for name, tensor in after.items())
    assert finite(logs)
    return agent, logs


def test_a_policy_in_bfloat16_has_a_critic_in_float32() -> None:
    agent, _ = runs(small_policy(dtype=torch.bfloat16), world())
    batch = agent.collect()
    assert batch.states is not None
    assert batch.states.dtype == torch.bfloat16
    assert batch.values.dtype == torch.float32
    assert {p.dtype for p in critic_of(agent).parameters()} == {torch.float32}


def test_it_reads_the_states_of_an_adapted_policy() -> None:
    policy = LoRAPolicy(small_policy(), rank=2)
    frozen = {name: p.clone() for name, p in policy.named_parameters() if not p.requires_grad}
    agent, _ = runs(policy, world())
    own = dict(policy.named_parameters())
    assert all(torch.equal(own[name], weight) for name, weight in frozen.items())
    trained = {id(p) for group in agent.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for n, p in own.items() if p.requires_grad and "value_head" not in n} | {
        id(p) for p in critic_of(agent).parameters()
    }


def test_it_learns_where_tokens_are_masked() -> None:
    agent, _ = runs(small_policy(), world(mask=AllowedTokens(ids=[0, 1])))
    batch = agent.collect()
    assert {int(x) for e in batch.episodes for x in e.completion_ids} == {0, 1, 9}  # 9 is EOS
    assert batch.values[batch.mask].std() > 0


def test_returns_that_depend_on_the_prompt_alone_are_explained() -> None:
    def length_of_prompt(episode: Episode) -> float:
        return 10.0 * len(episode.prompt.text)

    env = world(64, reward=as_reward_source(length_of_prompt))
    settings: dict[str, Any] = {"iterations": 25, "learning_rate": 0.0, "critic_learning_rate": 2e-2}
    settings |= {"kl_coef": 0.0, "anneal": False}
    _, logs = runs(small_policy(), env, **settings)
    found = [row["explained_variance"] for row in logs]
    assert found[0] <= 0
    assert min(found[-3:]) > 0.8


def test_its_speed_is_its_own_and_it_does_not_wait_for_the_policy() -> None:
    config = replace(CONFIG, iterations=4, warmup=4, critic_learning_rate=0.5, learning_rate=0.1)
    agent = PPO(small_policy(), world(), config)
    agent.learn(1)
    of_policy, of_critic = agent.optimizer.param_groups
    assert (of_policy["lr"], of_critic["lr"]) == pytest.approx((0.1 / 4, 0.5))
    agent.learn(1)
    assert (of_policy["lr"], of_critic["lr"]) == pytest.approx((0.1 / 2 * 3 / 4, 0.5 * 3 / 4))
    assert [id(p) for p in of_critic["params"]] == [id(p) for p in critic_of(agent).parameters()]
