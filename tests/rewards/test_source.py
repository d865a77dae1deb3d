from __future__ import annotations

import functools
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reward_tools import BYTES, Says, of
from text_gym import Episode, FunctionReward, Prompt, as_reward_source
from text_gym.errors import RewardError, TextGymError, TokenError

# Functions of every signature


def exec_lambda(body: str) -> Callable[..., Any]:
    """Return a function whose parameters only have places, as those of built-in ones."""
    return cast("Callable[..., Any]", eval(f"lambda {body}"))


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
        (lambda completion, prompt: float(prompt[-1]) * len(completion), [0, 3]),
        (lambda text, prompt: float(prompt[-1]) * len(text), [0, 3]),
        (lambda completion, *, prompt: float(prompt[-1]) * len(completion), [0, 3]),
        (lambda completion, prompt="9": float(prompt[-1]) * len(completion), [0, 3]),
        (functools.partial(lambda completion, prompt: len(prompt), prompt="Rate this"), [9, 9]),
        (lambda answer, completion: completion == answer, [1, 0]),
        (lambda prompt, answer, completion: (completion == answer) + len(prompt), [9, 8]),
        (exec_lambda("answer, completion, /: completion == answer"), [1, 0]),
        (lambda *texts: len(texts[0]), [2, 3]),
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
    with pytest.raises(RewardError, match=r"the reward is the class Counts; make one: Counts\(...\)"):
        as_reward_source(Counts)
    assert as_reward_source(float).name == "float"  # what it makes of a text is a number
    with pytest.raises(RewardError, match="int is not a reward"):
        as_reward_source(3)  # type: ignore[arg-type]


def test_a_column_that_the_prompts_lack_is_named() -> None:
    with pytest.raises(RewardError, match=r"asks for reference, but .* columns answer"):
        as_reward_source(lambda completion, *, reference: 0.0)(of("a", answer="a"))
    with pytest.raises(RewardError, match=r"asks for reference"):
        as_reward_source(lambda completions, reference: [0.0])(of("a", answer="a"))
    # A text in the place of the column would be a reward of something else, without a word.
    for function in (lambda completion, reference: 0.0, lambda completion, answer, reference: 0.0):
        with pytest.raises(RewardError, match=r"asks for reference, but .* columns answer"):
            as_reward_source(function)(of("a", answer="a"))


def test_columns_with_the_names_of_texts_do_not_hide_them() -> None:
    hiding = {"completion": "data", "completions": "data", "prompts": "data", "episode": 3}
    prompts = [Prompt(f"prompt {i}", columns=hiding) for i in range(2)]
    episodes = [Episode.of(prompt, "hi", BYTES) for prompt in prompts]
    for function in (
        lambda completion: completion == "data",
        lambda prompt, completion: completion == "data",
        lambda prompts, completions: [
            p == "data" or c == "data" for p, c in zip(prompts, completions, strict=True)
        ],
        lambda episode: episode.completion == "data",
    ):
        assert as_reward_source(function)(episodes).values.tolist() == [0, 0]
    assert as_reward_source(lambda completion, episode: episode)(episodes).values.tolist() == [3, 3]


@pytest.mark.parametrize(
    "function", [lambda prompt: 1.0, lambda answer: 1.0, lambda: 1.0, lambda **names: 1.0]
)
def test_a_function_that_never_sees_the_text_is_named(function: Callable[..., Any]) -> None:
    with pytest.raises(RewardError, match=r"would not see what was written: .* called completion"):
        as_reward_source(function)(of("a", answer="a"))


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


def test_stopping_is_no_bad_reward() -> None:
    def function(completion: str) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        as_reward_source(function)(of("a"), "drop")


@pytest.mark.parametrize("status", [0, 3, "bye"])
def test_a_reward_that_exits_does_not_end_the_program(status: Any) -> None:
    def function(completion: str) -> float:
        sys.exit(status)

    with pytest.raises(RewardError, match=f"'function' raised SystemExit: {status}"):
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
