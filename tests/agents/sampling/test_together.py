"""Rewards that several processes found out, put together, with processes that are threads here."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from text_gym import Episode, EpisodeBatch, Task, load_task
from text_gym.agents.sampling.together import share_scores
from text_gym.envs.options import sort_options
from text_gym.tasks.conversations.enumerable_dialogue import dialogues


@dataclass
class Thread:
    """As much of a `World` as scores need."""

    rank: int
    said: list[Any]
    all_said: threading.Barrier

    def gather(self, value: Any) -> list[Any]:
        self.said[self.rank] = value
        self.all_said.wait(10)
        return self.said


def played(task: Task, episodes: list[Episode]) -> EpisodeBatch:
    _, options, _ = sort_options(task, {})
    batch = EpisodeBatch(task.prompts, task.tokenizer, task.reward, task.max_tokens, len(episodes), options)
    rows = np.arange(len(episodes))
    batch.begin(rows, np.zeros_like(rows), rows)
    for step in range(task.max_tokens):
        going = np.array([i for i, e in enumerate(episodes) if step < len(e.agent_ids)])
        batch.advance(going, np.array([episodes[i].agent_ids[step] for i in going]))
    return batch


@pytest.mark.parametrize("paid_first", [False, True])
def test_conversations_whose_replies_paid_in_one_process_alone(paid_first: bool) -> None:
    """The rewards are those of one process, though the other's part has none of single tokens."""
    task = load_task("enumerable-dialogue", max_tokens=3, seed=0)

    def pays(episode: Episode) -> bool:
        return any(turn.reward for turn in episode.turns)

    every = dialogues(task)
    paid, unpaid = [e for e in every if pays(e)], [e for e in every if not pays(e)]
    assert paid
    assert unpaid
    both = [paid, unpaid] if paid_first else [unpaid, paid]
    episodes = [e for part in both for e in part]
    rows, first = np.arange(len(episodes)), len(both[0])
    said, all_said = [None, None], threading.Barrier(2)

    def share(rank: int) -> Any:
        mine = rows[first:] if rank else rows[:first]
        return share_scores(Thread(rank, said, all_said), played(task, episodes), mine)  # type: ignore[arg-type]

    _, alone = played(task, episodes).score(rows)
    with ThreadPoolExecutor(2) as pool:
        for found, rewards in pool.map(share, range(2)):
            assert [e.completion_ids.tolist() for e in found] == [e.completion_ids.tolist() for e in episodes]
            assert np.array_equal(rewards.values, alone.values)
            assert rewards.per_token is not None
            assert alone.per_token is not None
            for own, wanted in zip(rewards.per_token, alone.per_token, strict=True):
                assert np.array_equal(own, wanted)
