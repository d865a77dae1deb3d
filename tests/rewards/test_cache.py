from __future__ import annotations

import pickle
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rewards.test_compose import Fixed, PerToken, episodes, nan_equal
from text_gym import ByteTokenizer, Episode, Prompt, Rewards, RewardSource
from text_gym.errors import ConfigError, RewardError
from text_gym.rewards.cache import Cache


class Counting(RewardSource):
    """Number of the episode plus its own per-token rewards; counts how often it is asked."""

    name = "counting"

    def __init__(self) -> None:
        self.asked: list[int] = []

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        self.asked += [int(e.completion) for e in episodes]
        values = np.array([float(e.completion) for e in episodes])
        return Rewards(values, tuple(np.full(len(e.completion_ids), 0.5) for e in episodes), {"same": values})


def same(one: Rewards, two: Rewards) -> bool:
    return (
        one.values.tolist() == two.values.tolist()
        and one.abstained.tolist() == two.abstained.tolist()
        and str(one.per_token) == str(two.per_token)
        and list(one.terms) == list(two.terms)
        and all(nan_equal(one.terms[k].tolist(), two.terms[k].tolist()) for k in one.terms)
    )


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=8), max_size=5), st.integers(1, 4))
def test_cache_on_equals_cache_off(batches: list[list[int]], size: int) -> None:
    source = Fixed([1, None, 3, 4, None, 6]) + PerToken()
    cached = Cache(source, size=size)
    for batch in batches:
        rows = [episodes(6)[i] for i in batch]
        assert same(cached(rows), source(rows))
    assert cached.hits + cached.misses == sum(map(len, batches))


def test_cache_asks_once() -> None:
    source = Counting()
    cached = Cache(source, size=2)
    batch = episodes(3)
    cached([batch[0], batch[1], batch[0]])
    assert (source.asked, cached.hits, cached.misses) == ([0, 1], 1, 2)
    cached([batch[0], batch[2]])  # 1 is the least recently used and goes
    cached([batch[0], batch[2]])
    assert source.asked == [0, 1, 2]
    cached([batch[1]])
    assert source.asked == [0, 1, 2, 1]


def test_cache_tells_apart_what_a_source_may_see() -> None:
    source = Counting()
    cached = Cache(source)
    base = Episode.of(Prompt("p", {"a": 1}, "id"), "1", ByteTokenizer())
    others = [
        Episode.of(Prompt("q", {"a": 1}, "id"), "1", ByteTokenizer()),
        Episode.of(Prompt("p", {"a": 2}, "id"), "1", ByteTokenizer()),
        Episode.of(Prompt("p", {"a": 1}, "other"), "1", ByteTokenizer()),
        Episode(base.prompt, base.prompt_ids, base.completion_ids, base.tokenizer, finish_reason="length"),
        Episode(base.prompt, base.prompt_ids, base.completion_ids[:-1], base.tokenizer, finish_reason="eos"),
    ]
    cached([base, *others])
    assert len(source.asked) == 6
    cached([base, *others])
    assert len(source.asked) == 6
    odd = Episode.of(Prompt("p", {"a": object()}), "1", ByteTokenizer())  # no faithful text: never cached
    cached([odd])
    cached([odd])
    assert len(source.asked) == 8


def test_cache_remembers_no_abstentions() -> None:
    """A judge that was down may be up again."""
    fixed = Fixed([None, 5])
    cached = Cache(fixed)
    assert cached(episodes(2)).abstained.tolist() == [True, False]
    fixed.values = [4, 6]
    assert cached(episodes(2)).values.tolist() == [4, 5]


def test_cache_remembers_no_errors() -> None:
    fixed = Fixed([float("nan")])
    fixed.abstains = False
    cached = Cache(fixed)
    assert cached(episodes(1), on_bad_reward="drop").abstained.tolist() == [True]
    with pytest.raises(RewardError, match="nan"):
        cached(episodes(1))


def test_cache_refuses_non_deterministic_sources() -> None:
    source = Fixed([1])
    source.deterministic = False
    with pytest.raises(ConfigError, match="not deterministic"):
        Cache(source)
    with pytest.raises(ConfigError):
        Cache(Fixed([1]), size=0)
    assert pickle.loads(pickle.dumps(Cache(Fixed([1]))))(episodes(1)).values.tolist() == [1]


class Kinds(RewardSource):
    """Tells texts as keys from numbers, and lists from tuples."""

    name = "kinds"

    def score(self, episodes: Sequence[Episode]) -> list[float]:
        return [float(sum(map(ord, repr(dict(e.prompt.columns))))) for e in episodes]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": {1: 7}}, {"a": {"1": 7}}),
        ({"a": (1, 2)}, {"a": [1, 2]}),
        ({"a": [{"b": (1,)}]}, {"a": [{"b": [1]}]}),
        ({"a": {True: 1}}, {"a": {"true": 1}}),
        ({"a": {None: 1}}, {"a": {"null": 1}}),
    ],
)
def test_what_json_cannot_tell_apart_is_never_cached(one: object, other: object) -> None:
    for first, second in ((one, other), (other, one)):
        rows = [
            Episode.of(Prompt("p", columns, "p"), "same", ByteTokenizer())  # type: ignore[arg-type]
            for columns in (first, second)
        ]
        cached = Cache(Kinds())
        for row in (*rows, *rows):
            assert same(cached([row]), Kinds()([row]))
        assert cached.hits == 1  # the one that is JSON
