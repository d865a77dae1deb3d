from __future__ import annotations

import pickle
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_gym import ByteTokenizer, Episode, Prompt, TextVectorEnv, load_task
from text_gym.errors import ConfigError, RewardError
from text_gym.tasks.keywords import KeywordsReward, _Writer, keywords
from text_gym.tasks.products import ProductsReward, read

BYTES = ByteTokenizer()
HIKERS = Prompt("", {"words": ("hikers", "steel"), "low": 4, "high": 5})


def score(text: str, **changes: Any) -> float:
    return float(KeywordsReward()([replace(Episode.of(HIKERS, text, BYTES), **changes)]).values[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hikers, love STEEL tents!", 1.0),
        ("hikers steel a b c", 1.0),
        ("", 0.0),
        (" .,!?\n", 0.0),
        ("hikers steel", (1 + 2 / 4) / 2),
        ("hikers and more and", (1 / 2 + 1) / 2),
        ("hikers hikers steel now", (3 / 4 + 1) / 2),
        ("hikers steel steel steel", (2 / 3 + 1) / 2),
        ("a hiker likes steely tents", 1 / 2),  # other words
        ("the hikers' steel don't rust", 1.0),
        ("hikers's steel is hikers' own", 1.0),  # "hikers's" is one word, "hikers" another
        ("steel-hikers need $24 now.", 1.0),  # five
        ("hikers steel a b c d", (1 + 2 - 6 / 5) / 2),
        ("hikers steel " + "a " * 8, 1 / 2),  # ten words, twice the most: nothing left
        ("hikers steel " + "a " * 99, 1 / 2),
    ],
)
def test_rewards_by_hand(text: str, expected: float) -> None:
    assert score(text) == pytest.approx(expected, abs=1e-12)


def test_nobody_knows_how_long_a_cut_text_was_to_be() -> None:
    assert score("hikers and steel today", finish_reason="length") == 0.5


def test_terms_and_the_sparse_reward() -> None:
    texts = ("hikers and steel today", "hikers and so on", "hikers steel", "")
    rewards = KeywordsReward(sparse=True)([Episode.of(HIKERS, text, BYTES) for text in texts])
    assert rewards.values.tolist() == [1, 0, 0, 0]
    assert {k: v.tolist() for k, v in rewards.terms.items()} == {
        "used": [1, 0.5, 1, 0],
        "length": [1, 1, 0.5, 0],
        "perfect": [1, 0, 0, 0],
    }


WORDS = st.lists(st.sampled_from("hikers Steel steel the a it's ! . café".split()), max_size=12)  # noqa: SIM905


@given(st.text(max_size=60) | WORDS.map(" ".join), st.booleans())
def test_any_text_earns_between_0_and_1(text: str, whole: bool) -> None:
    rewards = KeywordsReward()(
        [replace(Episode.of(HIKERS, text, BYTES), finish_reason="eos" if whole else "length")]
    )
    assert all(0.0 <= term[0] <= 1.0 for term in rewards.terms.values())
    assert rewards.values[0] == pytest.approx((rewards.terms["used"][0] + rewards.terms["length"][0]) / 2)
    assert (rewards.values[0] == 1.0) == bool(rewards.terms["perfect"][0])


@given(WORDS)
def test_perfect_is_what_one_would_count_by_hand(words: list[str]) -> None:
    lower = [word.lower() for word in words]
    n = sum(word not in "!." for word in words)
    perfect = lower.count("hikers") == lower.count("steel") == 1 and n in (4, 5)
    assert (score(" ".join(words)) == 1.0) == perfect


def test_a_prompt_without_the_columns_is_named() -> None:
    with pytest.raises(RewardError, match="'a mug' lacks low, high"):
        KeywordsReward()([Episode.of("a mug", "steel", BYTES, words=["steel"])])


# Task

PROMPT = re.compile(r"# use: ([a-z, ]+) \| (\d+) to (\d+) words\n")


def solve(prompt: str) -> str:
    """Reads the prompt alone: its words and then as many `so` as the shortest length asks for."""
    found = PROMPT.fullmatch(prompt)
    assert found is not None
    words = found[1].split(", ")
    return " ".join(words + ["so"] * (int(found[2]) - len(words)))


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"words": 1, "sentences": 1, "band": 1},
        {"words": 3, "sentences": 1},
        {"words": 6, "band": 40},
        {"words": 7, "sentences": 3, "band": 2},
    ],
)
def test_a_solver_that_sees_the_prompt_alone_reaches_the_optimum_in_time(parameters: dict[str, Any]) -> None:
    task = keywords(**parameters, n_train=200, n_held_out=50)
    prompts = [*task.prompts, *task.held_out]
    episodes = [Episode.of(p, solve(p.text), task.tokenizer) for p in prompts]
    assert (task.reward(episodes).values == task.optimum).all()
    assert max(len(e.completion_ids) for e in episodes) <= task.max_tokens


def test_every_prompt_has_a_fluent_answer() -> None:
    pairs = _Writer(words=3, sentences=2, band=5, seed=0).pairs(0, 300, careless=0.0)
    task = keywords(n_train=200, n_held_out=100)
    assert {p.text for p in [*task.prompts, *task.held_out]} <= {p.text for p, _ in pairs}
    episodes = [Episode.of(p, text, task.tokenizer) for p, text in pairs]
    assert (task.reward(episodes).values == 1).all()
    assert max(len(e.completion_ids) for e in episodes) <= task.max_tokens
    # The products' own reward reads their grammar: every joint of a long enough text is one of it.
    product = dict.fromkeys(("name", "category", "material", "colour", "feature", "audience", "price"), "")
    long = [text for _, text in pairs if read(text).n_words >= 20]
    clear = ProductsReward()([Episode.of(Prompt("", product), text, task.tokenizer) for text in long])
    assert len(long) > 30
    assert (clear.terms["clarity"] == 1).all()
    places = {len(text.split()) - p.columns["low"] for p, text in pairs}
    assert places == {0, 1, 2, 3, 4}  # the answer's length is anywhere in the band


def test_the_corpus_is_half_perfect_and_knows_no_held_out_prompt() -> None:
    task = keywords(n_train=300, n_held_out=60)
    assert task.corpus is not None
    learn, judge = task.corpus()
    assert len(learn) > 3 * 300
    assert [p for p, _ in judge] == list(task.held_out)
    assert [p for p, _ in learn][: len(task.prompts)] == list(task.prompts)
    assert not {p.text for p, _ in learn} & {p.text for p in task.held_out}
    rewards = task.reward([Episode.of(p, text, task.tokenizer) for p, text in learn])
    assert 0.45 < rewards.terms["perfect"].mean() < 0.6


def test_prompts_are_as_the_parameters_say() -> None:
    task = keywords(words=4, band=3, n_train=100)
    for prompt in task.prompts:
        found = PROMPT.fullmatch(prompt.text)
        assert found is not None
        words, low, high = found[1].split(", "), int(found[2]), int(found[3])
        assert len(set(words)) == len(words) == 4
        assert high - low == 2
        assert (tuple(words), low, high) == tuple(prompt.columns[k] for k in ("words", "low", "high"))


def test_the_seed_decides_and_a_longer_task_begins_alike() -> None:
    task, longer, other = (keywords(n_train=n, n_held_out=40, seed=s) for n, s in ((50, 0), (80, 0), (50, 1)))
    assert longer.held_out == task.held_out
    assert longer.prompts[: len(task.prompts)] == task.prompts
    assert other.held_out != task.held_out
    assert pickle.loads(pickle.dumps(task)).prompts == task.prompts


def test_prompt_and_completion_fit_the_shipped_policy() -> None:
    TextVectorEnv(task="keywords", context=128, words=9, sentences=3, n_train=200)


@pytest.mark.parametrize(
    "wrong", [{"words": 0}, {"words": 7}, {"sentences": 0}, {"sentences": 4}, {"band": 0}, {"band": 1.5}]
)
def test_bad_parameters_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        load_task("keywords", **wrong)
