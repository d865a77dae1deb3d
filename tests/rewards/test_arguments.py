"""Which arguments a plain function is given, told by what it says it was given."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from text_gym import ByteTokenizer, Episode
from text_gym.errors import RewardError
from text_gym.rewards.arguments import Arguments


class Method:
    def __call__(self, prompt: str, completion: str) -> Any:
        return prompt, completion


def first_is_settled(weight: int, completion: str) -> Any:
    return weight, completion


@pytest.mark.parametrize(
    ("function", "given"),
    [
        (lambda completion: completion, "said"),
        (lambda text: text, "said"),
        (lambda p, c: (p, c), ("asked", "said")),
        (lambda prompt, response: (prompt, response), ("asked", "said")),
        (lambda completion, prompt: (completion, prompt), ("said", "asked")),
        (lambda completion, answer: (completion, answer), ("said", 7)),
        (lambda answer, completion: (answer, completion), (7, "said")),
        (lambda text, answer: (text, answer), ("said", 7)),
        (lambda prompt, answer, completion: (prompt, answer, completion), ("asked", 7, "said")),
        (lambda completion, weight=2: (completion, weight), ("said", 2)),
        (lambda completion, /, answer: (completion, answer), ("said", 7)),
        (lambda *, completion, answer: (completion, answer), ("said", 7)),
        (lambda completion, **columns: (completion, columns), ("said", {"answer": 7})),
        (lambda *texts: texts, ("said",)),
        (lambda episode: episode.completion, "said"),
        (functools.partial(first_is_settled, 3), (3, "said")),
        (functools.partial(lambda completion, answer: (completion, answer), answer=1), ("said", 1)),
        (functools.partial(lambda completion, **columns: columns, answer=1), {"answer": 1}),
        (Method(), ("asked", "said")),
    ],
)
def test_texts_and_columns_go_to_the_parameters_that_name_them(
    function: Callable[..., Any], given: object
) -> None:
    episode = Episode.of("asked", "said", ByteTokenizer(), answer=7)
    assert Arguments(function, "mine").plan(("answer",)).call(function, episode) == given


def test_a_column_never_hides_what_was_written() -> None:
    columns = {"prompt": "other", "completion": "other"}
    episode = Episode.of("asked", "said", ByteTokenizer())
    episode.prompt.columns.update(columns)  # type: ignore[attr-defined]
    function: Callable[..., Any] = lambda prompt, completion: (prompt, completion)  # noqa: E731
    assert Arguments(function, "mine").plan(tuple(columns)).call(function, episode) == ("asked", "said")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda completion, answr: 0.0, "asks for answr, but the prompts have only the columns answer"),
        (lambda answer: 0.0, "would not see what was written: its parameters are answer"),
        (lambda prompt: 0.0, "would not see what was written: its parameters are prompt"),
        (lambda: 0.0, r"its parameters are \(none\)"),
    ],
)
def test_what_cannot_be_given_is_named(function: Callable[..., Any], said: str) -> None:
    with pytest.raises(RewardError, match=f"'mine'.*{said}"):
        Arguments(function, "mine").plan(("answer",))


def test_batches_go_by_name_and_lack_what_prompts_lack() -> None:
    episodes = [Episode.of("a", "b", ByteTokenizer(), answer=1), Episode.of("c", "d", ByteTokenizer())]
    asks = Arguments(lambda prompts, completions, answer: 0.0, "mine")
    assert asks.batched
    assert asks.of_batch(episodes) == {"prompts": ["a", "c"], "completions": ["b", "d"], "answer": [1, None]}
    with pytest.raises(RewardError, match="asks for missing"):
        Arguments(lambda completions, missing: 0.0, "mine").of_batch(episodes)
    assert Arguments(lambda episodes: 0.0, "mine").whole
