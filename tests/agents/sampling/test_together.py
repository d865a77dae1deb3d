from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from text_gym import ByteTokenizer, Episode
from text_gym.agents.sampling.together import share_scores
from text_gym.envs.episode_batch import EpisodeBatch
from text_gym.models.world import World
from text_gym.rewards.values import Rewards

WRITTEN = ["a", "bb", "", "dddd"]


def batch_of(written: list[str]) -> EpisodeBatch:
    batch = EpisodeBatch(["p"], ByteTokenizer(), lambda completion: len(completion), 5, num_rows=len(written))
    rows = np.arange(len(written))
    batch.begin(rows, np.zeros(len(rows), dtype=np.int64), rows)
    for row, text in enumerate(written):
        for token in [*text.encode(), 256]:
            batch.advance(np.array([row]), np.array([token]))
    return batch


def by_two(written: list[str]) -> list[tuple[list[Episode], Rewards]]:
    """Two threads, each a rank with half of the rows, score a batch together."""
    barrier, said = threading.Barrier(2, timeout=3), ["", ""]

    def score(rank: int) -> tuple[list[Episode], Rewards]:
        world = object.__new__(World)
        world.rank, world.size = rank, 2

        def gather(value: Any) -> list[Any]:
            said[rank] = json.dumps(value)
            barrier.wait()
            return [json.loads(one) for one in said]

        world.gather = gather  # type: ignore[method-assign]
        batch = batch_of(written)
        return share_scores(world, batch, world.share(len(written)))

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(score, range(2)))


def test_both_know_all_rewards_and_texts_and_none_is_decoded_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    decode = Episode._decode
    monkeypatch.setattr(Episode, "_decode", lambda self: decoded.append(decode(self)) or decode(self))
    for episodes, rewards in by_two(WRITTEN):
        assert rewards.totals.tolist() == [1, 2, 0, 4]
        assert [episode.completion for episode in episodes] == WRITTEN
    assert sorted(decoded) == sorted(WRITTEN)


def test_texts_travel_whatever_is_in_them() -> None:
    hostile = ['"]}', "\\u0", "\x00\x7f", "\u2028"]  # of five bytes at most
    for episodes, _ in by_two(hostile):
        assert [episode.decoded for episode in episodes] == hostile
