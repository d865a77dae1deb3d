from __future__ import annotations

import itertools
import statistics

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from text_gym import load_task
from text_gym.errors import ConfigError, RewardError
from text_gym.tasks.enumerable import (
    TableReward,
    best_of_n_law,
    bradley_terry,
    enumerable,
    expected_dpo_loss,
    expected_group_advantages,
    expected_win_rate,
    kl_divergence,
    optimal_policy,
    total_variation,
    trajectories,
)

P = np.array([0.1, 0.4, 0.15, 0.3, 0.05])
Q = np.array([0.3, 0.1, 0.2, 0.2, 0.2])
R = np.array([0.5, -1.0, 2.0, 0.5, 0.7])  # two equals


def test_forty_trajectories_all_different_and_rightly_ended() -> None:
    task = enumerable()
    episodes = trajectories(task)
    ids = [tuple(e.completion_ids.tolist()) for e in episodes]
    assert task.tokenizer.vocab_size == 4
    assert len(set(ids)) == 40  # 1 of one token, 3 of two, 9 * 4 of three
    assert [len([i for i in ids if len(i) == n]) for n in (1, 2, 3)] == [1, 3, 36]
    assert sum(e.finish_reason == "length" for e in episodes) == 27
    assert all(e.finish_reason == ("eos" if e.completion_ids[-1] == 3 else "length") for e in episodes)
    assert all(3 not in i[:-1] for i in ids)


def test_uniform_probabilities_sum_to_one_and_give_the_random_return() -> None:
    task = enumerable()
    episodes = trajectories(task)
    rewards = task.reward(episodes).values
    probabilities = np.array([0.25 ** len(e.completion_ids) for e in episodes])
    assert probabilities.sum() == 1
    assert task.random_return == pytest.approx(probabilities @ rewards)
    assert task.optimum == rewards.max()
    assert 0 <= rewards.min() < rewards.max() < 1


def test_the_table_is_fixed_by_its_seed() -> None:
    first, again, other = enumerable(), load_task("enumerable"), enumerable(seed=1)
    table = [task.reward(trajectories(task)).values.tolist() for task in (first, again, other)]
    assert table[0] == table[1] != table[2]
    assert len(set(table[0])) == 40


def test_other_tiny_tasks_can_be_listed_too() -> None:
    task = load_task("copy", length=1, symbols="ab")
    assert task.reward(trajectories(task, task.prompts[1])).totals.tolist() == [0, 0.5, 1, 0, 0, 0.5, 0.5]


def test_an_unknown_trajectory_is_an_error() -> None:
    with pytest.raises(RewardError, match=r"\(3,\) is none of the 1"):
        TableReward({(0, 3): 1.0})(trajectories(enumerable())[:1])


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"max_tokens": 60}, {"symbols": ""}])
def test_bad_parameters_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        load_task("enumerable", **wrong)


@given(seed=st.integers(0, 10_000), beta=st.floats(0.05, 5))
def test_no_distribution_beats_the_closed_form(seed: int, beta: float) -> None:
    rng = np.random.default_rng(seed)
    rewards = rng.normal(size=40)
    reference, rival = rng.dirichlet(np.ones(40)), rng.dirichlet(np.ones(40))

    def value(policy: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
        return float(policy @ rewards - beta * (policy @ np.log(policy / reference)))

    best = optimal_policy(reference, rewards, beta)
    positive = best > 0
    reached = best[positive] @ (rewards[positive] - beta * np.log(best[positive] / reference[positive]))
    assert best.sum() == pytest.approx(1)
    assert reached == pytest.approx(beta * np.log(reference @ np.exp(rewards / beta)), rel=1e-6)
    assert value(0.9 * best + 0.1 * rival) <= reached + 1e-9


def test_beta_has_to_be_positive() -> None:
    with pytest.raises(ConfigError, match="beta is 0"):
        optimal_policy(np.ones(1), np.ones(1), 0)


# Closed forms, each against a sum or a search that knows nothing of it


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_the_best_of_n_by_all_the_ways_to_draw_them(n: int) -> None:
    expected = np.zeros(5)
    for drawn in itertools.product(range(5), repeat=n):
        best = max(drawn, key=lambda i: R[i])  # the first of equals, as it is drawn
        expected[best] += np.prod(P[list(drawn)])
    assert best_of_n_law(P, R, n) == pytest.approx(expected, abs=1e-15)


def test_the_best_of_n_never_takes_what_is_never_written() -> None:
    found = best_of_n_law(np.array([0.0, 1.0, 0.0]), np.array([1.0, 0.0, -1.0]), 3)
    assert found.tolist() == [0.0, 1.0, 0.0]
    with pytest.raises(ConfigError, match="n is 0"):
        best_of_n_law(P, R, 0)


def test_distances_against_scipy_and_a_search_over_all_sets() -> None:
    assert kl_divergence(P, Q) == pytest.approx(scipy.stats.entropy(P, Q))
    assert kl_divergence(np.array([0.0, 1.0]), np.array([0.5, 0.5])) == pytest.approx(np.log(2))
    assert kl_divergence(np.array([0.5, 0.5]), np.array([0.0, 1.0])) == np.inf
    sets = itertools.chain.from_iterable(itertools.combinations(range(5), k) for k in range(6))
    assert total_variation(P, Q) == pytest.approx(max(abs(P[list(s)].sum() - Q[list(s)].sum()) for s in sets))


def test_the_win_rate_by_every_pair_of_texts() -> None:
    expected = 0.0
    for i, j in itertools.product(range(5), repeat=2):
        expected += P[i] * Q[j] * (1.0 if R[i] > R[j] else 0.5 if R[i] == R[j] else 0.0)
    assert expected_win_rate(P, Q, R) == pytest.approx(expected)
    assert expected_win_rate(P, Q, R) + expected_win_rate(Q, P, R) == pytest.approx(1)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("std", [True, False])
def test_advantages_by_every_group(size: int, std: bool) -> None:
    expected = np.zeros(5)
    for drawn in itertools.product(range(5), repeat=size):
        returns = [float(R[i]) for i in drawn]
        spread = statistics.pstdev(returns) if std else 1.0
        advantage = (returns[0] - statistics.fmean(returns)) / spread if len(set(returns)) > 1 else 0.0
        expected[drawn[0]] += advantage * np.prod(P[list(drawn[1:])])
    assert expected_group_advantages(P, R, size, std=std) == pytest.approx(expected, abs=1e-12)


def test_groups_that_are_none_or_too_many_are_refused() -> None:
    for size in (1, 12):
        with pytest.raises(ConfigError, match=f"group_size is {size}"):
            expected_group_advantages(P, R, size)


def test_a_bradley_terry_raters_preferences() -> None:
    found = bradley_terry(R)
    for i, j in itertools.product(range(5), repeat=2):
        assert found[i, j] == pytest.approx(scipy.special.expit(R[i] - R[j]))


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_a_search_for_the_least_loss_of_dpo_ends_at_the_optimum_of_rlhf(beta: float) -> None:
    def loss(logits: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
        return expected_dpo_loss(scipy.special.softmax(logits), Q, bradley_terry(R), beta)

    found = scipy.optimize.minimize(loss, np.zeros(5), method="BFGS", options={"gtol": 1e-9})
    odds = Q * np.exp(R / beta)
    assert scipy.special.softmax(found.x) == pytest.approx(odds / odds.sum(), abs=1e-4)
    assert loss(np.log(Q)) == pytest.approx(np.log(2))
    assert found.fun < np.log(2)
    with pytest.raises(ConfigError, match="beta is 0"):
        expected_dpo_loss(P, Q, bradley_terry(R), 0)
