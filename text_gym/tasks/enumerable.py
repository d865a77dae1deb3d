"""Enumerable: a world small enough to list, so that what an agent should do can be computed exactly.

One prompt, an arbitrary but fixed reward for every trajectory. With three symbols, EOS and at most three
tokens there are 1 + 3 + 36 = 40 trajectories. It is an oracle for agents, nothing to generalise from.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import numpy as np

from text_gym.episode import Episode, FloatArray, Prompt
from text_gym.errors import ConfigError, RewardError
from text_gym.rewards.source import RewardSource
from text_gym.tokenizer import Tokenizer, WordTokenizer

from .classic import check_range
from .task import Task

MAX_TRAJECTORIES = 100_000

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
    )


def trajectories(task: Task, prompt: Prompt | None = None) -> list[Episode]:
    """Every finished episode that a prompt can have, shorter ones first; any tiny task will do.

    Args:
        task: Gives vocabulary and token limit.
        prompt: The task's first prompt if None.

    Raises:
        ConfigError: There are more than 100,000.
    """
    prompt = task.prompts[0] if prompt is None else prompt
    prompt_ids = np.array(task.tokenizer.encode(prompt.text), dtype=np.int64)
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
