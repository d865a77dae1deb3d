from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from text_gym import ByteTokenizer, Episode, as_reward_source
from text_gym.errors import ConfigError, DataError, UnknownNameError
from text_gym.reward_models import Ensemble
from text_gym.reward_models.people.acquisition import (
    ACQUISITIONS,
    Pool,
    choose_pairs,
    choose_texts,
    member_scores,
    split_budget,
)

TOKENIZER = ByteTokenizer()


def episode(prompt: str, completion: str) -> Episode:
    return Episode.of(prompt, completion, TOKENIZER)


def pool(count: int = 6, prompts: int = 2, scores: list[list[float]] | None = None) -> Pool:
    """Texts `t0`, `t1`, …, the prompts `p0`, `p1`, … by turns."""
    episodes = [episode(f"p{i % prompts}", f"t{i}") for i in range(count)]
    return Pool(episodes, None if scores is None else np.array(scores))


# Texts

SCORES = [[0.0, 0.1, 0.5, 0.6, 0.9, 1.0], [0.0, 0.1, 0.5, 0.0, 0.9, 0.2]]
# mean: 0, .1, .5, .3, .9, .6; std: 0, 0, 0, .3, 0, .4; median of the means: 0.4


def test_disagreement_asks_where_members_differ() -> None:
    assert choose_texts(pool(scores=SCORES), 2, "disagreement") == [5, 3]


def test_uncertainty_asks_in_the_middle() -> None:
    assert set(choose_texts(pool(scores=SCORES), 2, "uncertainty")) == {2, 3}


@pytest.mark.parametrize("seed", range(5))
def test_top_against_random_takes_the_best_by_turns(seed: int) -> None:
    chosen = choose_texts(pool(scores=SCORES), 4, "top-against-random", seed)
    assert chosen[0] == 4
    assert {4, 5} <= set(chosen)
    chances = {tuple(choose_texts(pool(scores=SCORES), 6, "top-against-random", s)) for s in range(20)}
    assert len(chances) > 1


def test_diversity_goes_to_the_farthest() -> None:
    texts = ["a a a", "a a a b", "x y z", "x y w"]
    near = Pool([episode("p", t) for t in texts])
    for seed in range(8):
        first, second = choose_texts(near, 2, "diversity", seed)
        assert {first, second} in ({0, 2}, {0, 3}, {1, 2}, {1, 3})  # one of each kind
    asked = Pool([episode("p", t) for t in texts], asked=frozenset({("p", "a a a")}))
    assert choose_texts(asked, 1, "diversity")[0] in (2, 3)


def test_diversity_covers_every_kind_of_text_before_it_repeats_one() -> None:
    texts = ["a a a", "a a a b", "x y z", "x y z w", "u v", "u v v"]
    some = Pool([episode("p", t) for t in texts])
    for seed in range(12):
        chosen = choose_texts(some, 3, "diversity", seed)
        assert {texts[i][0] for i in chosen} == {"a", "x", "u"}


def test_diversity_is_far_from_what_was_asked_before() -> None:
    texts = ["x y w", "x y z z", "a b c"]
    asked = frozenset({("q", "x y z"), ("q", "x y")})  # of another prompt, too
    for seed in range(12):
        assert choose_texts(Pool([episode("p", t) for t in texts], None, asked), 1, "diversity", seed) == [2]


def test_without_a_model_chance_decides() -> None:
    for how in ("disagreement", "uncertainty", "top-against-random"):
        assert choose_texts(pool(), 3, how, 7) == choose_texts(pool(), 3, "random", 7)


def test_every_text_is_equally_likely_at_random() -> None:
    counts = np.zeros(6)
    for seed in range(3000):
        counts[choose_texts(pool(), 2, seed=seed)] += 1
    assert np.abs(counts / 3000 - 1 / 3).max() < 0.04  # 4.6 standard deviations


@settings(max_examples=60, deadline=None)
@given(
    words=st.lists(st.sampled_from("abcd"), max_size=12),
    asked=st.lists(st.sampled_from("abcd"), max_size=2),
    how=st.sampled_from(ACQUISITIONS),
    count=st.integers(0, 8),
    seed=st.integers(0, 9),
)
def test_no_text_twice_and_none_that_was_asked(
    words: list[str], asked: list[str], how: str, count: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    some = Pool(
        [episode("p", w) for w in words],
        rng.normal(size=(3, len(words))),
        frozenset(("p", w) for w in asked),
    )
    chosen = choose_texts(some, count, how, seed)
    texts = [words[i] for i in chosen]
    assert len(set(texts)) == len(texts)
    assert not set(texts) & set(asked)
    assert len(texts) == min(count, len(set(words) - set(asked)))
    assert chosen == choose_texts(some, count, how, seed)


# Pairs


def test_pairs_are_of_one_prompt_and_disjoint_first() -> None:
    for how in ACQUISITIONS:
        some = pool(8, 2, [[float(i) for i in range(8)], [float(-i % 3) for i in range(8)]])
        pairs = choose_pairs(some, 4, how, 3)
        assert all(a % 2 == b % 2 and a != b for a, b in pairs), how
        alone = [i for pair in pairs[: (2 if how == "top-against-random" else 4)] for i in pair]
        assert len(set(alone)) == len(alone), how


def test_uncertainty_pairs_are_close_ones() -> None:
    close = pool(4, 1, [[0.0, 0.05, 3.0, 6.0]])
    assert set(choose_pairs(close, 1, "uncertainty")[0]) == {0, 1}


def test_disagreement_pairs_split_the_members() -> None:
    split = pool(3, 1, [[0.0, 2.0, 5.0], [2.0, 0.0, 5.0]])
    assert set(choose_pairs(split, 1, "disagreement")[0]) == {0, 1}


def test_members_disagree_by_what_they_think_likely_and_not_by_the_size_of_their_scores() -> None:
    # On 0 and 1 the members contradict each other; that both beat 2 they agree, by 10 or by 20.
    some = pool(3, 1, [[0.0, -1.0, -10.0], [0.0, 1.0, -20.0]])
    assert set(choose_pairs(some, 1, "disagreement")[0]) == {0, 1}


def test_the_best_of_a_prompt_meets_the_others() -> None:
    pairs = choose_pairs(pool(6, 2, [[0, 9, 5, 1, 2, 3]]), 4, "top-against-random")
    assert {frozenset(p) for p in pairs} == {frozenset(p) for p in ((2, 0), (2, 4), (1, 3), (1, 5))}


def test_sides_are_chance() -> None:
    lefts = [choose_pairs(pool(2, 1, [[0, 1]]), 1, "top-against-random", s)[0][0] for s in range(400)]
    assert 0.4 < np.mean(lefts) < 0.6


def test_a_single_text_gives_no_pair() -> None:
    assert choose_pairs(pool(2, 2), 5) == []
    assert choose_pairs(Pool([episode("p", "same"), episode("p", "same")]), 5) == []


# The rest


@given(st.integers(1, 2000), st.floats(0, 1))
def test_the_budget_is_spent_and_not_exceeded(labels: int, overlap: float) -> None:
    questions, shared = split_budget(labels, overlap)
    assert 0 <= shared <= questions
    assert questions + shared == labels
    assert shared <= overlap * questions + 2


def test_budgets() -> None:
    assert split_budget(200, 0.0) == (200, 0)
    assert split_budget(60, 0.1) == (54, 6)
    assert split_budget(10, 1.0) == (5, 5)
    assert split_budget(1, 1.0) == (1, 0)
    for labels, overlap in ((0, 0.0), (5, 1.5), (5, -0.1), (5, float("nan"))):
        with pytest.raises(ConfigError):
            split_budget(labels, overlap)


def test_members_are_asked_one_by_one() -> None:
    members = [as_reward_source(lambda completion: 1.0), as_reward_source(lambda completion: len(completion))]
    episodes = [episode("p", "ab"), episode("p", "abc")]
    assert member_scores(Ensemble(members), episodes).tolist() == [[1, 1], [2, 3]]
    assert member_scores(members[1], episodes).tolist() == [[2, 3]]


def test_refusals() -> None:
    with pytest.raises(UnknownNameError, match="disagreement"):
        choose_texts(pool(), 1, "disagreements")
    with pytest.raises(UnknownNameError):
        choose_pairs(pool(), 1, "best")
    with pytest.raises(DataError, match="finite"):
        Pool(pool().episodes, np.zeros((2, 5)))
    with pytest.raises(DataError, match="finite"):
        Pool(pool().episodes, np.full((2, 6), np.nan))
