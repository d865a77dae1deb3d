"""Enumerable: a world small enough to list, so that what an agent should do can be computed exactly.

One prompt, an arbitrary but fixed reward for every trajectory. With three symbols, EOS and at most three
tokens there are 1 + 3 + 36 = 40 trajectories. It is an oracle for agents, nothing to generalise from.
Beside it stand closed forms over the trajectories of any tiny task, as NumPy arrays: a policy is the vector
of its trajectories' probabilities here. What differentiates through a policy's network is in
`text_gym.agents.verification.exact`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from text_gym.episode import Episode, FloatArray, Prompt
from text_gym.errors import ConfigError, RewardError
from text_gym.rewards.source import RewardSource
from text_gym.tokenizer import Tokenizer, WordTokenizer

from .classic import check_range
from .task import Task

__all__ = [
    "best_of_n_law",
    "bradley_terry",
    "enumerable",
    "expected_dpo_loss",
    "expected_group_advantages",
    "expected_win_rate",
    "kl_divergence",
    "optimal_policy",
    "total_variation",
    "trajectories",
]

MAX_TRAJECTORIES = 100_000
MAX_GROUPS = 1_000_000  # groups of completions that an expectation is summed over

Trajectory = tuple[int, ...]


class TableReward(RewardSource):
    """Looks a trajectory's reward up.

    Args:
        table: Completion ids, EOS included, to reward.
    """

    name = "table"

    def __init__(self, table: Mapping[Trajectory, float]) -> None:
        self.table = dict(table)

    def score(self, episodes: Sequence[Episode]) -> list[float]:
        """Rewards of finished episodes; `RewardError` for one that the table does not have."""
        keys = [tuple(e.completion_ids.tolist()) for e in episodes]
        for key in keys:
            if key not in self.table:
                raise RewardError(f"{key} is none of the {len(self.table)} trajectories in the table")
        return [self.table[key] for key in keys]


def enumerable(symbols: str = "abc", max_tokens: int = 3, seed: int = 0) -> Task:
    """A task with one prompt and a reward in `[0, 1)` for every trajectory, drawn by `seed`.

    State: the prompt (the first symbol) and the tokens so far. Action: a symbol or EOS, so that `V` is
    `len(symbols) + 1`. A trajectory of `max_tokens` tokens without EOS is cut at the limit and has its reward
    too. Optimum: the largest reward in the table. The random policy gets the mean reward, weighted by
    `V^-tokens`. The prompt is held out as well, since there is no other.

    Args:
        symbols: The vocabulary beside EOS, one character each.
        max_tokens: Token limit, EOS included.
        seed: Seed of the rewards.

    Raises:
        ConfigError: A parameter out of its range, or more than 100,000 trajectories.

    >>> task = enumerable()
    >>> task.tokenizer.vocab_size, len(trajectories(task))
    (4, 40)
    """
    check_range("max_tokens", max_tokens, 1)
    if not symbols:
        raise ConfigError("symbols is empty; give at least one character")
    tokenizer = WordTokenizer(symbols, separator="", pad=False)
    rng = random.Random(seed)
    table = {ids: rng.random() for ids in _every_trajectory(tokenizer, max_tokens)}
    prompts = [Prompt(symbols[0])]
    return Task(
        name="enumerable",
        prompts=prompts,
        held_out=prompts,
        tokenizer=tokenizer,
        reward=TableReward(table),
        max_tokens=max_tokens,
        optimum=max(table.values()),
        random_return=sum(reward * tokenizer.vocab_size ** -len(ids) for ids, reward in table.items()),
        golden=partial(_best_text, tokenizer.decode(max(table.items(), key=lambda item: item[1])[0])),
    )


def _best_text(text: str, prompt: Prompt) -> str:
    return text


def trajectories(task: Task, prompt: Prompt | None = None) -> list[Episode]:
    """Every finished episode that a prompt can have, shorter ones first; any tiny task will do.

    Args:
        task: Gives vocabulary and token limit.
        prompt: The task's first prompt if None.

    Raises:
        ConfigError: There are more than 100,000.
    """
    prompt = task.prompts[0] if prompt is None else prompt
    prompt_ids = np.array(prompt.encode(task.tokenizer), dtype=np.int64)
    return [
        Episode(
            prompt=prompt,
            prompt_ids=prompt_ids,
            completion_ids=np.array(ids, dtype=np.int64),
            tokenizer=task.tokenizer,
            finish_reason="eos" if ids[-1] in task.tokenizer.eos_ids else "length",
        )
        for ids in _every_trajectory(task.tokenizer, task.max_tokens)
    ]


def optimal_policy(reference: FloatArray, rewards: FloatArray, beta: float) -> FloatArray:
    """The distribution over trajectories that maximises expected reward minus `beta` times the KL.

    In closed form `reference * exp(rewards / beta)`, normalised; its value is
    `beta * log(sum(reference * exp(rewards / beta)))` (Korbak, Perez & Buckley 2022).

    Args:
        reference: `(N,)` float64, probabilities of the trajectories under the reference policy.
        rewards: `(N,)` float64, their returns.
        beta: Weight of KL(policy ‖ reference), in reward per nat, above 0.

    Returns:
        `(N,)` float64, probabilities.

    >>> optimal_policy(np.array([0.5, 0.5]), np.array([0.0, np.log(3.0)]), beta=1.0)
    array([0.25, 0.75])
    """
    if not beta > 0:
        raise ConfigError(f"beta is {beta!r}; it must be above 0")
    tilted = reference * np.exp((rewards - rewards.max()) / beta)
    optimal: FloatArray = tilted / tilted.sum()
    return optimal


def best_of_n_law(probabilities: FloatArray, rewards: FloatArray, n: int) -> FloatArray:
    """The distribution of the best of `n` texts that are drawn independently, the first among equals.

    With `F` the distribution function of the reward, a text of reward `r` is chosen with probability
    `F(r)^n - F(r-)^n`, shared among the texts of that reward in proportion to their own probabilities.

    Args:
        probabilities: `(N,)` float64, of the trajectories under the policy that writes.
        rewards: `(N,)` float64, by which the best is chosen.
        n: How many texts are drawn, at least 1.

    Returns:
        `(N,)` float64, probabilities. Their KL to `probabilities` is at most `log n - (n - 1)/n`.

    >>> best_of_n_law(np.array([0.5, 0.5]), np.array([0.0, 1.0]), n=2)
    array([0.25, 0.75])
    """
    if n < 1:
        raise ConfigError(f"n is {n}; at least 1 text has to be drawn")
    levels, level = np.unique(rewards, return_inverse=True)
    mass = np.bincount(level, probabilities, len(levels))
    upto = np.cumsum(mass)
    chosen = upto**n - np.concatenate([[0.0], upto[:-1]]) ** n
    share = np.divide(chosen, mass, out=np.zeros_like(mass), where=mass > 0)
    law: FloatArray = probabilities * share[level]
    return law


def kl_divergence(policy: FloatArray, reference: FloatArray) -> float:
    """KL(policy ‖ reference) in nats; infinite where the policy writes what the reference never does.

    Args:
        policy: `(N,)` float64, probabilities of the trajectories.
        reference: `(N,)` float64, likewise.

    >>> round(kl_divergence(np.array([1.0, 0.0]), np.array([0.5, 0.5])), 4)
    0.6931
    """
    written = policy > 0
    with np.errstate(divide="ignore"):
        return float(np.sum(policy[written] * np.log(policy[written] / reference[written])))


def total_variation(p: FloatArray, q: FloatArray) -> float:
    """The largest difference between the probabilities that two policies give to any set of trajectories.

    Args:
        p: `(N,)` float64, probabilities of the trajectories.
        q: `(N,)` float64, likewise.

    Returns:
        In [0, 1]: half the sum of absolute differences.

    >>> total_variation(np.array([0.5, 0.5]), np.array([0.75, 0.25]))
    0.25
    """
    return float(np.abs(p - q).sum() / 2)


def expected_win_rate(policy: FloatArray, rival: FloatArray, rewards: FloatArray) -> float:
    """The probability that a text of one policy has more reward than one of another, ties counting half.

    Args:
        policy: `(N,)` float64, probabilities of the trajectories.
        rival: `(N,)` float64, those of the other policy, which draws independently.
        rewards: `(N,)` float64.

    >>> expected_win_rate(np.array([0.0, 1.0]), np.array([0.5, 0.5]), np.array([0.0, 1.0]))
    0.75
    """
    wins = (np.sign(rewards[:, None] - rewards[None, :]) + 1) / 2  # (N, N)
    return float(policy @ wins @ rival)


def expected_group_advantages(
    probabilities: FloatArray, rewards: FloatArray, group_size: int, *, std: bool = True
) -> FloatArray:
    """The advantage that GRPO gives a text on average over the other texts of its group.

    A text's return less the mean of its group, with `std` over the group's standard deviation (divisor
    `group_size`); a group of equal returns has advantage 0. With these in place of the rewards,
    `exact_policy_gradient` is the expected gradient of GRPO at the policy that played. Without `std` they are
    `(k - 1)/k` times `rewards - mean`; those of RLOO are `rewards - mean`.

    Args:
        probabilities: `(N,)` float64, of the trajectories.
        rewards: `(N,)` float64.
        group_size: `k`, texts of a group, at least 2.
        std: Whether to divide by the standard deviation.

    Returns:
        `(N,)` float64.

    Raises:
        ConfigError: A group of fewer than 2, or more than a million groups to sum over.

    >>> expected_group_advantages(np.array([0.5, 0.5]), np.array([0.0, 1.0]), group_size=2)
    array([-0.5,  0.5])
    """
    count = len(rewards)
    if group_size < 2 or count**group_size > MAX_GROUPS * count:
        raise ConfigError(
            f"group_size is {group_size}; it must be at least 2, and {count} trajectories make "
            f"{count}^{group_size - 1} groups around each, of which {MAX_GROUPS} can be summed over"
        )
    others = np.indices((count,) * (group_size - 1)).reshape(group_size - 1, -1)  # (k - 1, groups)
    weights = probabilities[others].prod(axis=0)
    own = np.empty(count)
    for i, reward in enumerate(rewards):
        group = np.vstack([np.full(others.shape[1], reward), rewards[others]])
        advantage = reward - group.mean(axis=0)
        if std:
            spread = np.where(np.ptp(group, axis=0) > 0, group.std(axis=0), np.inf)
            advantage = advantage / spread
        own[i] = weights @ advantage
    return own


def bradley_terry(rewards: FloatArray) -> FloatArray:
    """Return how often a rater whose log-odds are reward differences prefers each text to each other.

    Args:
        rewards: `(N,)` float64.

    Returns:
        `(N, N)` float64, the probability that the text of the row is preferred to that of the column
        (Bradley & Terry 1952).

    >>> bradley_terry(np.array([0.0, np.log(3.0)]))
    array([[0.5 , 0.25],
           [0.75, 0.5 ]])
    """
    odds: FloatArray = 1 / (1 + np.exp(-(rewards[:, None] - rewards[None, :])))
    return odds


def expected_dpo_loss(
    policy: FloatArray, reference: FloatArray, preferences: FloatArray, beta: float
) -> float:
    """The expected loss of DPO where both texts of a pair are drawn from the reference policy.

    For a rater by Bradley and Terry its minimum is `optimal_policy(reference, rewards, beta)`, the optimum
    of RLHF (Rafailov et al. 2023).

    Args:
        policy: `(N,)` float64, probabilities of the trajectories, above 0.
        reference: `(N,)` float64, likewise.
        preferences: `(N, N)` float64, how often the row's text is preferred to the column's.
        beta: β of DPO, above 0.

    >>> half = np.array([0.5, 0.5])
    >>> round(expected_dpo_loss(half, half, bradley_terry(np.array([0.0, 1.0])), beta=0.1), 4)
    0.6931
    """
    if not beta > 0:
        raise ConfigError(f"beta is {beta!r}; it must be above 0")
    implicit = beta * np.log(policy / reference)
    margins = implicit[:, None] - implicit[None, :]
    losses = preferences * np.logaddexp(0, -margins) + preferences.T * np.logaddexp(0, margins)
    return float(reference @ losses @ reference)


def _every_trajectory(tokenizer: Tokenizer, max_tokens: int) -> list[Trajectory]:
    finished: list[Trajectory] = []
    running: list[Trajectory] = [()]
    for step in range(1, max_tokens + 1):
        grown = [(*ids, token) for ids in running for token in range(tokenizer.vocab_size)]
        running = [ids for ids in grown if ids[-1] not in tokenizer.eos_ids]
        finished += [ids for ids in grown if ids[-1] in tokenizer.eos_ids]
        if len(finished) + len(running) > MAX_TRAJECTORIES:
            raise ConfigError(
                f"more than {MAX_TRAJECTORIES} trajectories within {step} tokens; lower max_tokens"
            )
    return finished + running
