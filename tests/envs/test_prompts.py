from __future__ import annotations

import pytest

from text_gym import Prompt, WordTokenizer
from text_gym.envs.prompts import PromptTable
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
