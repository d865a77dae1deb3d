from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worlds import PROMPTS, Abstains, Moody, PerToken, Terms, count_b
from text_gym import ByteTokenizer, Episode, EpisodeBatch, EpisodeOptions, MinLength, WordTokenizer
from text_gym.episode import stream_keys
from text_gym.errors import ConfigError, PromptError
from text_gym.rewards.source import RewardSource
from text_gym.rewards.values import Rewards

AB = WordTokenizer("ab", separator="")  # a 0, b 1, EOS 2, padding 3
MAX_TOKENS = 5


def make(
    num_rows: int, reward: Any = count_b, options: EpisodeOptions | None = None, max_tokens: int = MAX_TOKENS
) -> EpisodeBatch:
    return EpisodeBatch(PROMPTS, AB, reward, max_tokens, num_rows, options)


def begun(num_rows: int, *args: Any, **kwargs: Any) -> EpisodeBatch:
    batch = make(num_rows, *args, **kwargs)
    batch.begin(np.arange(num_rows), np.zeros(num_rows, dtype=np.int64), np.arange(num_rows))
    return batch


def row(i: int) -> Any:
    return np.array([i])


# The transition


def test_a_stop_string_may_take_four_tokens_for_each_character() -> None:
    stop, text = "🙂" * 6, "Well " + "🙂" * 6
    tokens = text.encode()
    batch = EpisodeBatch(["x"], ByteTokenizer(), count_b, 64, 1, EpisodeOptions(stop=stop))
    batch.begin(row(0), row(0), row(0))
    ended = [bool(batch.advance(row(0), row(token))[0]) for token in tokens]
    assert ended == [False] * (len(tokens) - 1) + [True]
    (episode,) = batch.episodes(row(0))
    assert (episode.finish_reason, episode.stop) == ("stop", stop)


def test_a_row_forgets_the_episode_before() -> None:
    """A long text that a stop string ended and a causal source paid; then a short one that EOS ends."""
    options = EpisodeOptions(stop="bb", shuffle=False)
    batch = EpisodeBatch(["abab", "a"], AB, PerToken(causal=True), 5, 1, options)

    def played(index: int, tokens: list[int]) -> tuple[Episode, float]:
        batch.begin(row(0), row(0), row(index))
        assert batch.tokens[0].tolist() == [[0, 1, 0, 1], [0, 3, 3, 3]][index] + [3] * 5
        assert batch.attention_mask[0].sum() == batch.lengths[0] == [4, 1][index]
        paid = 0.0
        for token in tokens:
            ended = batch.advance(row(0), row(token))
            paid += 0.0 if ended[0] else float(batch.pay_tokens(row(0))[0])
        (episode,), scores = batch.score(row(0))
        return episode, paid + float(batch.last_rewards(row(0), scores)[0])

    episode, paid = played(0, [0, 1, 0, 1, 1])
    assert (episode.finish_reason, episode.stop, episode.completion) == ("stop", "bb", "aba")
    assert paid == pytest.approx(3 + 5 / 100)  # the ids, and a hundredth of the length
    episode, paid = played(1, [1, 0, 2])
    assert (episode.finish_reason, episode.stop, episode.completion) == ("eos", "", "ba")
    assert paid == pytest.approx(3 + 3 / 100)


def test_a_batch_by_hand() -> None:
    batch = begun(3, options=EpisodeOptions(stop="bb", shuffle=False), max_tokens=3)
    assert batch.starts.tolist() == batch.lengths.tolist() == [1, 2, 4]  # a, ba, abab
    assert not batch.done.any()
    assert batch.advance(np.arange(3), np.array([0, 1, 2])).tolist() == [False, False, True]
    assert batch.remaining.tolist() == [2, 2, 2]
    assert batch.advance(np.array([1, 0]), np.array([1, 0])).tolist() == [True, False]
    assert batch.advance(row(0), np.array([1])).tolist() == [True]
    assert batch.done.all()
    assert batch.lengths.tolist() == [4, 4, 5]
    assert batch.tokens[1].tolist() == [1, 0, 1, 1, *[3] * 8]
    assert batch.attention_mask.sum(axis=1).tolist() == [4, 4, 5]
    episodes = batch.episodes(np.array([2, 1, 0]))
    assert [(e.finish_reason, e.stop, e.completion) for e in episodes] == [
        ("eos", "", ""),
        ("stop", "bb", ""),
        ("length", "", "aab"),
    ]
    assert [(e.seed, e.index, e.prompt.text) for e in episodes] == [(0, 2, "abab"), (0, 1, "ba"), (0, 0, "a")]


Plays = list[tuple[int, int, list[int]]]  # seed, number, tokens


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 99), st.lists(st.integers(0, 2), min_size=5, max_size=5)),
        min_size=1,
        max_size=4,
    ),
    st.randoms(use_true_random=False),
)
def test_an_episode_is_a_function_of_seed_number_and_tokens(plays: Plays, chance: Any) -> None:
    """Alone, or with others in rows that held something else before, and in any order of steps."""
    options = EpisodeOptions(stop="bab")
    alone = []
    for seed, number, tokens in plays:
        batch = make(1, Terms(), options)
        batch.begin(row(0), row(seed), row(number))
        while not batch.done[0]:
            batch.advance(row(0), row(tokens[int(batch.lengths[0] - batch.starts[0])]))
        alone.append(batch.score(row(0)))

    together = begun(len(plays) + 1, Terms(), options)
    together.advance(np.arange(len(plays) + 1), np.full(len(plays) + 1, 1))
    places = chance.sample(range(len(plays) + 1), len(plays))
    for place, (seed, number, _) in zip(places, plays, strict=True):
        together.begin(row(place), row(seed), row(number))
    while running := [i for i, place in enumerate(places) if not together.done[place]]:
        some = chance.sample(running, chance.randint(1, len(running)))
        rows = np.array([places[i] for i in some])
        steps = (together.lengths - together.starts)[rows]
        together.advance(rows, np.array([plays[i][2][step] for i, step in zip(some, steps, strict=True)]))
    episodes, scores = together.score(np.array(places))
    for i, ((one,), score) in enumerate(alone):
        assert vars(one).keys() == vars(episodes[i]).keys()
        assert one.prompt == episodes[i].prompt
        assert one.completion_ids.tolist() == episodes[i].completion_ids.tolist()
        assert (one.finish_reason, one.stop) == (episodes[i].finish_reason, episodes[i].stop)
        assert (one.seed, one.index) == (episodes[i].seed, episodes[i].index) == plays[i][:2]
        assert score.values[0] == scores.values[i]
        assert score.terms["length"][0] == scores.terms["length"][i]


def test_masks_are_asked_for_rows_that_run_and_nobody_enforces_them() -> None:
    batch = begun(2, options=EpisodeOptions(mask=MinLength(2)))
    assert batch.action_masks()[:, 2].tolist() == [False, False]
    batch.advance(np.arange(2), np.array([0, 2]))
    assert batch.action_masks().tolist() == [[True, True, False, True], [True] * 4]
    batch.advance(row(0), row(0))
    assert batch.action_masks().all()
    assert begun(2).action_masks().all()


def test_what_action_masks_returns_is_the_callers_own() -> None:
    batch = begun(1, options=EpisodeOptions(mask=MinLength(2)))
    batch.action_masks()[:] = True
    assert not batch.action_masks()[0, 2]


# Rewards


class Asked(RewardSource):
    """Remembers what it was asked about."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def score(self, episodes: Sequence[Episode]) -> Rewards:
        self.batches.append([e.completion for e in episodes])
        ones = tuple(np.ones(len(e.completion_ids)) for e in episodes)
        return Rewards(np.full(len(episodes), 7.0), ones, {"x": np.full(len(episodes), 3.0)})


@pytest.mark.parametrize("limit", ["end", "truncate"])
def test_a_batch_is_scored_at_once_and_without_texts_that_were_cut(limit: Any) -> None:
    source = Asked()
    batch = begun(3, source, EpisodeOptions(limit=limit), max_tokens=2)
    batch.advance(np.arange(3), np.array([1, 2, 0]))
    batch.advance(np.array([0, 2]), np.array([2, 1]))
    assert batch.truncated.tolist() == [False, False, limit == "truncate"]
    episodes, scores = batch.score(np.array([2, 0, 1]))
    cut = limit == "truncate"
    assert source.batches == [["b", ""] if cut else ["ab", "b", ""]]
    assert [e.completion for e in episodes] == ["ab", "b", ""]
    assert scores.values.tolist() == [0.0 if cut else 7.0, 7.0, 7.0]
    assert scores.totals.tolist() == [0.0 if cut else 9.0, 9.0, 8.0]
    np.testing.assert_equal(scores.terms["x"], [np.nan if cut else 3.0, 3.0, 3.0])
    assert not scores.abstained.any()


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), min_size=5, max_size=5), st.booleans(), st.booleans())
def test_token_and_last_rewards_sum_to_what_the_episode_is_worth(
    tokens: list[int], causal: bool, moody: bool
) -> None:
    batch = begun(1, Moody() if moody else PerToken(causal))
    paid: list[float] = []
    while not batch.done[0]:
        ended = batch.advance(row(0), row(tokens[len(paid)]))
        paid.append(0.0 if ended[0] else float(batch.pay_tokens(row(0))[0]))
    episodes, scores = batch.score(row(0))
    paid[-1] = float(batch.last_rewards(row(0), scores)[0])
    played = tokens[: len(paid)]
    if moody and 0 in played:  # no opinion on texts with an `a`
        assert sum(paid) == 0
    else:  # the ids, and a hundredth of the length
        assert sum(paid) == pytest.approx(sum(played) + len(played) / 100)
    assert paid[:-1] == (played[:-1] if causal or moody else [0.0] * (len(paid) - 1))
    assert episodes[0].completion_ids.tolist() == played


def test_abstentions_are_scored_as_such() -> None:
    batch = begun(2, Abstains())
    batch.advance(np.arange(2), np.array([0, 1]))
    batch.advance(np.arange(2), np.array([2, 2]))
    _, scores = batch.score(np.arange(2))
    assert (scores.abstained.tolist(), scores.values.tolist()) == ([True, False], [0.0, 1.0])


# Prompts


def test_prompts_are_drawn_uniformly() -> None:
    prompts = [f"{'ab'[i % 2]}" * (i + 1) for i in range(10)]
    batch = EpisodeBatch(prompts, AB, count_b, 5)
    n = 20_000
    drawn = batch.prompt_of(np.repeat(np.arange(20), n // 20), np.tile(np.arange(n // 20), 20))
    counts = np.bincount(drawn)
    # Chi-squared with 9 degrees of freedom: 27.9 has probability 0.001.
    assert ((counts - n / 10) ** 2 / (n / 10)).sum() < 27.9


def test_stream_keys_are_splitmix64() -> None:
    # First outputs of the reference implementation (Vigna) from the states 0 and 1234567.
    keys = stream_keys(np.array([0, 1234567]))
    assert keys.tolist() == [0xE220A8397B1DCDAF, 6457827717110365317]


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(1, 4))
def test_a_choice_depends_on_seed_and_number_alone(seed: int, k: int, group_size: int) -> None:
    batch = make(1, options=EpisodeOptions(group_size=group_size))
    alone = batch.prompt_of(row(seed), row(k))
    among = batch.prompt_of(np.array([5, seed, seed]), np.array([k, k, k - k % group_size]))
    assert among[1] == among[2] == alone[0]


def test_neighbouring_streams_have_nothing_in_common() -> None:
    batch = EpisodeBatch(["a", "b"], AB, count_b, MAX_TOKENS)
    k = np.arange(4000)
    one, two, shifted = (
        batch.prompt_of(np.full(4000, seed), k + lag) for seed, lag in ((7, 0), (8, 0), (8, 1))
    )
    for other in (two, shifted):
        assert abs((one == other).mean() - 0.5) < 4 * 0.5 / 4000**0.5  # 4 standard errors


def test_the_group_size_may_change_between_episodes() -> None:
    batch = begun(4, options=EpisodeOptions(shuffle=False))
    assert [e.prompt.text for e in batch.episodes(np.arange(4))] == PROMPTS[:4]
    batch.group_size = 2
    batch.begin(np.arange(4), np.zeros(4, dtype=np.int64), np.arange(4))
    assert [e.prompt.text for e in batch.episodes(np.arange(4))] == ["a", "a", "ba", "ba"]
    with pytest.raises(ConfigError, match="group_size is 0"):
        batch.group_size = 0


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"prompts": []}, PromptError, "no prompts"),
        ({"tokenizer": 3}, ConfigError, "not a tokenizer"),
        ({"max_tokens": 0}, ConfigError, "max_tokens is 0"),
        ({"num_rows": 2.0}, ConfigError, "num_rows is 2.0"),
    ],
)
def test_batches_that_make_no_sense(change: dict[str, Any], error: type[Exception], says: str) -> None:
    given: dict[str, Any] = {"prompts": PROMPTS, "tokenizer": AB, "reward": count_b, "max_tokens": 5}
    with pytest.raises(error, match=says):
        EpisodeBatch(**(given | change))
