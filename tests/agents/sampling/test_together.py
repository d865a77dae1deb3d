"""Rewards and texts that several processes found out, put together, with processes that are threads here."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tests.worlds import as_played
from text_gym import ByteTokenizer, Episode, EpisodeBatch, load_task
from text_gym.agents.sampling.together import share_scores
from text_gym.rewards.values import Rewards
from text_gym.tasks.conversations.enumerable_dialogue import dialogues


@dataclass
class Thread:
    """As much of a `World` as scores need."""

    rank: int
    said: list[Any]
    all_said: threading.Barrier

    def gather(self, value: Any) -> list[Any]:
        self.said[self.rank] = json.dumps(value)
        self.all_said.wait(10)
        return [json.loads(one) for one in self.said]


def by_two(make: Callable[[], EpisodeBatch], first: int) -> list[tuple[list[Episode], Rewards]]:
    """Two threads, the first with the first rows, score a batch that each of them has."""
    said, all_said = [None, None], threading.Barrier(2)

    def share(rank: int) -> Any:
        batch = make()
        rows = np.arange(batch.num_rows)
        world: Any = Thread(rank, said, all_said)
        return share_scores(world, batch, rows[first:] if rank else rows[:first])

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(share, range(2)))


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
    _, alone = as_played(task, episodes).score(np.arange(len(episodes)))
    for found, rewards in by_two(lambda: as_played(task, episodes), len(both[0])):
        assert [e.completion_ids.tolist() for e in found] == [e.completion_ids.tolist() for e in episodes]
        assert np.array_equal(rewards.values, alone.values)
        assert rewards.per_token is not None
        assert alone.per_token is not None
        for own, wanted in zip(rewards.per_token, alone.per_token, strict=True):
            assert np.array_equal(own, wanted)


WRITTEN = ["a", "bb", "", "dddd"]


def of_bytes(written: list[str]) -> EpisodeBatch:
    batch = EpisodeBatch(["p"], ByteTokenizer(), lambda completion: len(completion), 5, num_rows=len(written))
    rows = np.arange(len(written))
    batch.begin(rows, np.zeros_like(rows), rows)
    for row, text in enumerate(written):
        for token in [*text.encode(), 256]:
            batch.advance(np.array([row]), np.array([token]))
    return batch


def test_both_know_all_rewards_and_texts_and_none_is_decoded_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    decode = Episode._decode

    def decode_and_note(episode: Episode) -> str:
        decoded.append(decode(episode))
        return decoded[-1]

    monkeypatch.setattr(Episode, "_decode", decode_and_note)
    for episodes, rewards in by_two(lambda: of_bytes(WRITTEN), 2):
        assert rewards.totals.tolist() == [1, 2, 0, 4]
        assert [episode.completion for episode in episodes] == WRITTEN
    assert sorted(decoded) == sorted(WRITTEN)


def test_texts_travel_whatever_is_in_them() -> None:
    hostile = ['"]}', "\\u0", "\x00\x7f", "\u2028"]  # of five bytes at most
    for episodes, _ in by_two(lambda: of_bytes(hostile), 1):
        assert [episode.decoded for episode in episodes] == hostile
