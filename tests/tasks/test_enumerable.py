from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_gym import load_task
from text_gym.errors import ConfigError, RewardError
from text_gym.tasks.enumerable import TableReward, enumerable, optimal_policy, trajectories


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
