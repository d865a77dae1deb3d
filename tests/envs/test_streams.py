from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.worlds import Abstains
from text_gym.envs.streams import MOST_ABSTENTIONS, EpisodeStreams, Redraws
from text_gym.errors import ConfigError, RewardError

ROWS = np.arange(3)


def started(numbering: Any, seed: int = 5) -> EpisodeStreams:
    streams = EpisodeStreams(3, numbering)
    streams.reseed(ROWS, streams.of_seed(seed), np.random.default_rng(0))
    return streams


def taken(streams: EpisodeStreams, *rows: int) -> list[tuple[int, int]]:
    seeds, index = streams.take(np.array(rows, dtype=np.int64))
    return list(zip(seeds.tolist(), index.tolist(), strict=True))


def test_rows_have_streams_of_their_own_or_share_one() -> None:
    own, shared = started("per_env"), started("global")
    assert taken(own, 0, 1, 2) == [(5, 0), (6, 0), (7, 0)]
    assert taken(own, 1) == [(6, 1)]
    assert taken(own, 0, 1) == [(5, 1), (6, 2)]
    assert taken(shared, 0, 1, 2) == [(5, 0), (5, 1), (5, 2)]
    assert taken(shared, 2) == [(5, 3)]
    assert taken(shared) == []
    assert taken(shared, 0, 2) == [(5, 4), (5, 5)]


def test_streams_go_on_after_what_was_chosen() -> None:
    own, shared = started("per_env"), started("global")
    for streams in (own, shared):
        seeds, index = streams.choose(np.array([0, 2]), np.array([10, 4]))
        assert index.tolist() == [10, 4]
        assert seeds.tolist() == streams.seeds[[0, 2]].tolist()
    assert taken(own, 0, 1, 2) == [(5, 11), (6, 0), (7, 5)]
    assert taken(shared, 1, 0) == [(5, 11), (5, 12)]


def test_a_new_seed_starts_a_stream_anew_in_the_rows_that_want_one() -> None:
    streams = started("per_env")
    taken(streams, 0, 1, 2)
    streams.reseed(np.array([0, 1]), [None, 40, 41], np.random.default_rng(0))
    assert taken(streams, 0, 1, 2) == [(5, 1), (40, 0), (7, 1)]


def test_a_first_start_without_seeds_draws_one() -> None:
    drawn: list[int] = []
    for entropy in (1, 1, 2):
        streams = EpisodeStreams(3, "per_env")
        begun = [streams.started]
        streams.reseed(ROWS, streams.of_seed(None), np.random.default_rng(entropy))
        assert [*begun, streams.started] == [False, True]
        assert np.diff(streams.seeds).tolist() == [1, 1]
        drawn.append(int(streams.seeds[0]))
    assert drawn[0] == drawn[1] != drawn[2]


def test_seeds_for_another_number_of_rows() -> None:
    with pytest.raises(ConfigError, match="2 entries for num_envs=3"):
        EpisodeStreams(3, "global").of_seed([1, 2])


@pytest.mark.parametrize("seed", [-1, 1.5, "1", "ab", np.array(1.0), [1, 2, 2.5], [None, -3, 0]])
def test_what_is_no_seed_is_named(seed: Any) -> None:
    with pytest.raises(ConfigError, match=r"seed (is|has) .*"):
        EpisodeStreams(3, "per_env").of_seed(seed)


def test_seeds_may_be_an_array() -> None:
    assert EpisodeStreams(3, "per_env").of_seed(np.array([4, 5, 6])) == [4, 5, 6]  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [2**63 - 2, 2**63, 2**64 - 1, 10**30])
def test_large_seeds_are_seeds_too(seed: int) -> None:
    streams = EpisodeStreams(3, "per_env")
    rows = streams.of_seed(seed)
    assert rows == streams.of_seed([seed, seed + 1, seed + 2])
    assert len(set(rows)) == 3
    streams.reseed(ROWS, rows, np.random.default_rng(0))
    assert streams.seeds.tolist() == rows
    assert EpisodeStreams(3, "global").of_seed(seed) == [rows[0]] * 3


def test_redraws_are_counted_by_row_and_given_up() -> None:
    redraws = Redraws(3)
    judged, silent = np.zeros(3, dtype=np.bool_), np.ones(3, dtype=np.bool_)
    some = np.array([True, False, True])
    assert redraws.count(ROWS, some, Abstains()).tolist() == [0, 2]
    assert redraws.count(ROWS[:1], some[:1], Abstains()).tolist() == [0]
    assert redraws.since_judged.tolist() == [2, 0, 1]
    assert redraws.count(ROWS, judged, Abstains()).tolist() == []
    assert redraws.since_judged.tolist() == [0, 0, 0]
    assert redraws.total == 3
    for _ in range(MOST_ABSTENTIONS // 3):
        redraws.count(ROWS, silent, Abstains())
    with pytest.raises(RewardError, match=r"judged none of the last 102 episodes.*gave no reason"):
        redraws.count(ROWS, silent, Abstains())
    redraws.count(ROWS, silent, Abstains())  # after that it begins to count anew
