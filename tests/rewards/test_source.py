from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worlds import PerToken
from text_gym import (
    ByteTokenizer,
    Episode,
    FunctionReward,
    Prompt,
    Rewards,
    RewardSource,
    WordTokenizer,
    as_reward_source,
)
from text_gym.errors import RewardError, TextGymError, TokenError
from text_gym.rewards.tokens import checked_tokens
from text_gym.rewards.values import TokenBatch

BYTES = ByteTokenizer()


def of(*completions: str, **columns: Any) -> list[Episode]:
    return [Episode.of(f"prompt {i}", text, BYTES, **columns) for i, text in enumerate(completions)]


class Says(RewardSource):
    """Returns what it was given, whatever is asked."""

    def __init__(self, scores: Any, **attributes: Any) -> None:
        self.scores = scores
        self.__dict__.update(attributes)

    def score(self, episodes: Sequence[Episode]) -> Any:
        return self.scores


# Functions of every signature


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda completion: len(completion), [2, 3]),
        (lambda text: len(text), [2, 3]),
        (len, [2, 3]),
        (lambda prompt, completion: float(prompt[-1]) * len(completion), [0, 3]),
        (lambda prompt, completion, answer: completion == answer, [1, 0]),
        (lambda completion, answer: completion == answer, [1, 0]),
        (lambda completion, **columns: columns["answer"] == completion, [1, 0]),
        (lambda completion, *, answer, other=5: other * (completion == answer), [5, 0]),
        (lambda completion, scale=10: scale * len(completion), [20, 30]),
        (
            lambda prompts, completions: [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)],
            [10, 11],
        ),
        (lambda completions, answer: [c == a for c, a in zip(completions, answer, strict=True)], [1, 0]),
        (lambda completions, **columns: [len(columns["completion_ids"][0])] * len(completions), [3, 3]),
        (lambda episode: len(episode.completion_ids), [3, 4]),
        (lambda episodes: np.array([len(e.completion_ids) for e in episodes]), [3, 4]),
        (lambda completion: np.float32(0.5), [0.5, 0.5]),
        (lambda completion: True, [1, 1]),
    ],
)
def test_functions_of_every_signature(function: Callable[..., Any], expected: list[float]) -> None:
    source = as_reward_source(function)
    rewards = source(of("hi", "you", answer="hi"))
    assert rewards.values.dtype == np.float64
    assert rewards.values.tolist() == expected
    assert source.score is not None
    assert source(of("hi", "you", answer="hi", answer2="x")).values.tolist() == expected  # other columns


def test_a_callable_object_and_a_name() -> None:
    class Counts:
        def __call__(self, completion: str) -> int:
            return completion.count("a")

    assert as_reward_source(Counts()).name == "Counts"
    assert as_reward_source(len).name == "len"
    assert FunctionReward(len, name="length").name == "length"
    source = Says([1.0])
    assert as_reward_source(source) is source
    with pytest.raises(RewardError, match="int is not a reward"):
        as_reward_source(3)  # type: ignore[arg-type]


def test_a_column_that_the_prompts_lack_is_named() -> None:
    with pytest.raises(RewardError, match=r"asks for reference, but .* columns answer"):
        as_reward_source(lambda completion, *, reference: 0.0)(of("a", answer="a"))
    with pytest.raises(RewardError, match=r"asks for reference"):
        as_reward_source(lambda completions, reference: [0.0])(of("a", answer="a"))


# What may be a reward


@pytest.mark.parametrize(
    "value", [0, -3, 2.5, True, np.int8(3), np.float16(0.5), np.array(1.5), Fraction(1, 4), 3.4e38]
)
def test_numbers_of_every_type_are_taken(value: Any) -> None:
    assert Says([value, 1.0])(of("a", "b")).values.tolist() == [float(value), 1.0]


BAD = st.sampled_from(
    [
        math.nan,
        math.inf,
        -math.inf,
        None,
        1e39,
        -1e300,
        10**400,
        "1.0",
        b"1",
        1j,
        [1.0],
        {},
        object(),
        np.float64("nan"),
        np.complex64(1),
        np.array([1.0]),
        np.datetime64("2020"),
        Decimal("NaN"),
    ]
) | st.text(max_size=3)


@settings(max_examples=200)
@given(BAD, st.integers(0, 3))
def test_a_bad_reward_is_refused_with_its_place_or_dropped(value: Any, at: int) -> None:
    scores: list[Any] = [0.5, 1.0, -1.0]
    scores.insert(at, value)
    source = Says(scores, name="taste")
    episodes = of("text 0", "text 1", "text 2", "text 3")
    with pytest.raises(RewardError, match=rf"'taste': episode {at} .*'prompt {at}'.*'text {at}'"):
        source(episodes)
    dropped = source(episodes, "drop")
    assert dropped.abstained.tolist() == [i == at for i in range(4)]
    assert dropped.values[at] == 0
    assert np.delete(dropped.values, at).tolist() == [0.5, 1.0, -1.0]


@pytest.mark.nightly
@settings(max_examples=10_000)
@given(st.lists(BAD | st.floats(), min_size=1, max_size=5))
def test_ten_thousand_lists_of_rewards(scores: list[Any]) -> None:
    episodes = of(*["t"] * len(scores))
    largest = float(np.finfo(np.float32).max)
    good = [type(s) is float and abs(s) <= largest for s in scores]
    if all(good):
        assert Says(scores)(episodes).values.tolist() == scores
    else:
        with pytest.raises(RewardError):
            Says(scores)(episodes)
    assert Says(scores)(episodes, "drop").abstained.tolist() == [not g for g in good]


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    assert Says(torch.tensor([1.0, 2.0]))(of("a", "b")).values.tolist() == [1.0, 2.0]
    assert Says([torch.tensor(1.0), 2])(of("a", "b")).values.tolist() == [1.0, 2.0]
    for wrong in (torch.ones(2, requires_grad=True), [torch.ones((), requires_grad=True), 0.0]):
        with pytest.raises(RewardError, match="tensor with gradient"):
            Says(wrong)(of("a", "b"))
    with pytest.raises(RewardError, match="is nan"):
        Says(torch.tensor([1.0, math.nan]))(of("a", "b"))


@pytest.mark.parametrize("n", range(7))
def test_another_number_of_rewards_is_refused_with_both_numbers(n: int) -> None:
    for scores in ([1.0] * n, np.ones(n), Rewards(np.ones(n))):
        if n == 3:
            assert len(Says(scores)(of("a", "b", "c"))) == 3
            continue
        with pytest.raises(RewardError, match=rf"{n} rewards for 3 episodes"):
            Says(scores)(of("a", "b", "c"))


@pytest.mark.parametrize(
    "scores",
    [
        1.0,
        None,
        "abc",
        b"abc",
        {0: 1, 1: 2, 2: 3},
        {1, 2, 3},
        np.float64(1),
        iter([1, 2, 3]),
        np.ones((3, 1)),
    ],
)
def test_what_is_no_list_of_rewards(scores: Any) -> None:
    with pytest.raises(RewardError, match="reward 'reward'"):
        Says(scores)(of("a", "b", "c"))


def test_no_episodes_no_call() -> None:
    assert len(as_reward_source(lambda completion: 1 / 0)([])) == 0


# Abstaining


def test_none_and_nan_are_no_opinion_if_the_source_says_so() -> None:
    rewards = Says([None, math.nan, np.nan, 0.5], abstains=True)(of(*"abcd"))
    assert rewards.abstained.tolist() == [True, True, True, False]
    assert rewards.values.tolist() == [0, 0, 0, 0.5]
    with pytest.raises(RewardError, match="is inf"):
        Says([math.inf], abstains=True)(of("a"))


def test_a_source_may_abstain_by_itself() -> None:
    rewards = Says(Rewards(np.array([9.0, 1.0]), abstained=np.array([True, False])))(of("a", "b"))
    assert rewards.values.tolist() == [0.0, 1.0]


# Per-token rewards and terms


def test_totals_are_values_and_per_token_rewards_together() -> None:
    scored = Says(Rewards(np.array([1.0, 2.0]), (np.array([0.5, 0.25]), np.zeros(3))))(of("a", "bc"))
    assert scored.totals.tolist() == [1.75, 2.0]


@pytest.mark.parametrize(
    ("per_token", "says"),
    [
        ((np.zeros(2),), "1 of 2 episodes"),
        ((np.zeros(2), np.zeros(2)), r"episode 1 has per-token shape \(2,\), not \(3,\)"),
        ((np.zeros(2), np.zeros((3, 1))), "per-token shape"),
        ((np.array([0.0, math.nan]), np.zeros(3)), "episode 0 .*not a finite"),
        ((np.zeros(2), np.array([0.0, 1e39, 0.0])), "episode 1 .*not a finite"),
    ],
)
def test_bad_per_token_rewards(per_token: tuple[Any, ...], says: str) -> None:
    with pytest.raises(RewardError, match=says):
        Says(Rewards(np.zeros(2), per_token))(of("a", "bc"))


def test_bad_per_token_rewards_are_dropped_with_their_episode() -> None:
    bad = Rewards(np.ones(2), (np.array([math.nan, 1.0]), np.ones(3)))
    scored = Says(bad)(of("a", "bc"), "drop")
    assert scored.abstained.tolist() == [True, False]
    assert scored.totals.tolist() == [0.0, 4.0]


def test_a_term_of_another_length_is_named() -> None:
    with pytest.raises(RewardError, match=r"term 'grammar' has shape \(3,\), expected \(2,\)"):
        Says(Rewards(np.zeros(2), terms={"grammar": np.zeros(3)}))(of("a", "b"))


def token_batch() -> TokenBatch:
    tokenizer = WordTokenizer("ab", separator="")
    ids = np.array([[0, 1], [1, 1]])
    episodes = [Episode(Prompt("a"), ids[0][:1], row, tokenizer) for row in ids]
    rows, steps = np.zeros(2, dtype=np.int64), np.array([2, 2])
    return TokenBatch([Prompt("a")], rows, ids[:, 1], steps, tokenizer, lambda: episodes)


def test_token_rewards_are_the_last_of_the_per_token_rewards() -> None:
    assert checked_tokens(PerToken(causal=True), token_batch()).tolist() == [1.0, 1.0]
    assert checked_tokens(Says([1.0, 2.0]), token_batch()).tolist() == [0.0, 0.0]  # none per token


def test_token_rewards_that_raise_are_wrapped() -> None:
    class Raises(PerToken):
        def token_rewards(self, batch: TokenBatch) -> Any:
            raise ZeroDivisionError("oh")

    with pytest.raises(RewardError, match="ZeroDivisionError: oh") as caught:
        checked_tokens(Raises(causal=True), token_batch())
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


# Sources that raise


@given(st.sampled_from([ValueError, KeyError, ZeroDivisionError, RuntimeError, MemoryError]))
def test_what_a_source_raises_is_named_and_kept_as_the_cause(error: type[Exception]) -> None:
    def function(completion: str) -> float:
        raise error("it broke")

    with pytest.raises(RewardError, match=re.escape("'function' raised")) as caught:
        as_reward_source(function)(of("a"))
    assert error.__name__ in str(caught.value)
    assert "'prompt 0'" in str(caught.value)
    assert type(caught.value.__cause__) is error


def test_our_own_errors_go_through_as_they_are() -> None:
    def function(completion: str) -> float:
        raise TokenError("own")

    with pytest.raises(TextGymError, match=r"^own$"):
        as_reward_source(function)(of("a"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_stopping_is_no_bad_reward(error: type[BaseException]) -> None:
    def function(completion: str) -> float:
        raise error

    with pytest.raises(error):
        as_reward_source(function)(of("a"), "drop")


def test_the_exit_status_of_a_program_whose_reward_raises() -> None:
    program = (
        "import text_gym as t\n"
        "env = t.TextVectorEnv(['a'], t.ByteTokenizer(), lambda completion: 1 / 0, 1)\n"
        "env.reset(seed=0)\n"
        "env.step([97])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "RewardError: reward '<lambda>' raised ZeroDivisionError" in done.stderr
    assert "The above exception was the direct cause" in done.stderr
