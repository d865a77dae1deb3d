from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_gym import Prompt, WordTokenizer
from text_gym.envs.prompts import PromptTable, stream_keys
from text_gym.errors import ConfigError, PromptError

AB = WordTokenizer("ab", separator="")  # padding 3


def table(*texts: str, **kwargs: object) -> PromptTable:
    return PromptTable([Prompt(t) for t in texts], AB, 2, **kwargs)  # type: ignore[arg-type]


def test_prompts_are_padded_on_the_right() -> None:
    made = table("ab", "b", "")
    assert made.tokens.tolist() == [[0, 1], [1, 3], [3, 3]]  # the last is BOS and padding
    assert made.lengths.tolist() == [2, 1, 1]
    assert made.texts.tolist() == ["ab", "b", ""]
    assert made.ids[1].tolist() == [1]
    assert table("").tokens.shape == (1, 1)


def test_the_table_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        table("ab").tokens[0, 0] = 1


def test_long_prompts_lose_their_left_end_if_asked() -> None:
    made = table("abb", "b", limit=2, on_long="truncate")
    assert made.tokens.tolist() == [[1, 1], [1, 3]]
    assert made.dropped.tolist() == [1, 0]
    assert table("abb", context=4, on_long="truncate").tokens.shape == (1, 2)
    assert table("abb", limit=5, context=4, on_long="truncate").tokens.shape == (1, 2)


@pytest.mark.parametrize(
    ("kwargs", "error", "says"),
    [
        ({"limit": 2}, PromptError, r"prompt 0 \('abb'\) has 3 tokens"),
        ({"context": 4}, PromptError, r"prompt 0, 'abb'\) and max_tokens=2 exceed the context of 4"),
        ({"context": 2, "on_long": "truncate"}, ConfigError, "no room"),
        ({"limit": 0}, ConfigError, "max_prompt_tokens is 0"),
        ({"on_long": "drop"}, ConfigError, "on_long_prompt is 'drop'"),
    ],
)
def test_prompts_that_do_not_fit(kwargs: dict[str, object], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        table("abb", "a", **kwargs)


def test_stream_keys_are_splitmix64() -> None:
    # First outputs of the reference implementation (Vigna) from the states 0 and 1234567.
    keys = stream_keys(np.array([0, 1234567]))
    assert keys.tolist() == [0xE220A8397B1DCDAF, 6457827717110365317]


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(1, 4))
def test_a_choice_depends_on_seed_and_number_alone(seed: int, k: int, group_size: int) -> None:
    made = table("a", "b", "ab", "ba", "aa", group_size=group_size)
    alone = made.choose(stream_keys(np.array([seed])), np.array([k]))
    among = made.choose(stream_keys(np.array([5, seed, seed])), np.array([k, k, k - k % group_size]))
    assert among[1] == among[2] == alone[0]


def test_neighbouring_streams_have_nothing_in_common() -> None:
    made = table("a", "b")
    k = np.arange(4000)
    one, two, shifted = (
        made.choose(np.full(4000, stream_keys(np.array([seed]))[0]), k + lag)
        for seed, lag in ((7, 0), (8, 0), (8, 1))
    )
    for other in (two, shifted):
        assert abs((one == other).mean() - 0.5) < 4 * 0.5 / 4000**0.5  # 4 standard errors
