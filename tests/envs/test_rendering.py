from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worlds import SMALL, count_b
from text_gym import AllowedTokens, ByteTokenizer, Episode, TextEnv, TextVectorEnv, WordTokenizer
from text_gym.envs.rendering import CELL_HEIGHT, CELL_WIDTH, COLUMNS, LINES, draw_episode
from text_gym.errors import ConfigError

Frame = npt.NDArray[np.uint8]
HOSTILE = [
    "\x1b[2J\x07",
    "\u202eabc",
    "👩‍🚀🙂",
    "字" * 500,
    "\n" * 99,
    "a\tb\r",
    "",
    "x" * 10_000,
    "\ud800",
    "̈" * 40,
]


def cells(frame: Frame, line: int, start: int, stop: int) -> Frame:
    return frame[line * CELL_HEIGHT : (line + 1) * CELL_HEIGHT, start * CELL_WIDTH : stop * CELL_WIDTH].copy()


def shown(prompt: str, completion: str, **kwargs: Any) -> Frame:
    episode = Episode.of(prompt, completion, ByteTokenizer())
    frame = draw_episode(
        episode, kwargs.pop("limit", 9), kwargs.pop("reward", 0.0), 0.0, kwargs.pop("mask", None)
    )
    assert frame.shape == (LINES * CELL_HEIGHT, COLUMNS * CELL_WIDTH, 3) == (320, 640, 3)
    assert frame.dtype == np.uint8
    return frame


def ink(frame: Frame) -> int:
    """How many pixels are dark."""
    return int((frame.sum(axis=-1) < 300).sum())


@given(st.text(max_size=30), st.text(max_size=30))
@settings(max_examples=30, deadline=None)
def test_any_text_gives_a_picture_of_the_same_size(prompt: str, completion: str) -> None:
    shown(prompt, completion)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_in_its_field(text: str) -> None:
    frame, plain = shown(text, text, limit=99_999), shown("a", "a", limit=99_999)
    outside = [*range(6), *range(12, 16)]
    for line in outside[5:6]:  # the heading between the two fields, but for the count of tokens
        assert np.array_equal(cells(frame, line, 0, 30), cells(plain, line, 0, 30))
    for column in (0, 1, COLUMNS - 2, COLUMNS - 1):  # the margins
        assert ink(cells(frame, 2, column, column + 1)) == ink(cells(frame, 7, column, column + 1)) == 0


def test_the_prompt_the_text_and_the_newest_token_are_drawn_where_they_belong() -> None:
    frame = shown("ab", "cab")
    a = cells(frame, 1, 2, 3)
    assert ink(a) > 10
    assert np.array_equal(cells(frame, 6, 3, 4), a)  # the same letter on the same paper
    assert ink(cells(frame, 1, 4, 60)) == 0


def test_the_newest_token_is_marked() -> None:
    env = TextEnv(["ab"], WordTokenizer("abc", separator=""), count_b, 5, render_mode="rgb_array")
    env.reset(seed=0)
    before: Frame = env.render()
    env.step(np.int64(1))
    env.step(np.int64(2))
    frame: Frame = env.render()
    b, c = cells(frame, 6, 2, 3), cells(frame, 6, 3, 4)
    assert not np.array_equal(b[0, 0], c[0, 0])  # another paper
    assert np.array_equal(cells(frame, 12, 8, 9)[0, 0], c[0, 0])
    assert ink(cells(before, 12, 8, 30)) == 0


def test_rewards_are_of_the_newest_token_and_of_the_episode() -> None:
    env = TextVectorEnv(task="reverse", num_envs=1, autoreset_mode="Disabled", render_mode="rgb_array")
    _, info = env.reset(seed=0)
    wanted = ["abc".index(c) for c in reversed(info["prompt"][0])]
    frames: list[Frame] = []
    for token in wanted[:2]:
        *_, rewards, _, _, _ = env.step([token])
        assert rewards[0] > 0
        frames.append((env.render() or ())[0])
    reward, total = [cells(f, 12, 41, 47) for f in frames], [cells(f, 13, 41, 47) for f in frames]
    assert np.array_equal(reward[0], reward[1])
    assert np.array_equal(reward[0], total[0])
    assert not np.array_equal(total[0], total[1])
    env.reset()
    fresh: Frame = (env.render() or ())[0]
    assert np.array_equal(cells(fresh, 12, 41, 47), cells(fresh, 13, 41, 47))
    assert not np.array_equal(cells(fresh, 13, 41, 47), total[0])


def test_the_mask_is_a_strip_of_as_many_parts_as_there_are_tokens() -> None:
    env = TextEnv(
        **SMALL, mask=AllowedTokens(ids=[0]), render_mode="rgb_array"
    )  # a and EOS of a, b, EOS, pad
    env.reset(seed=0)
    strip = env.render()[15 * CELL_HEIGHT + CELL_HEIGHT // 2, CELL_WIDTH:-CELL_WIDTH].astype(int)
    quarter = len(strip) // 4
    middles = [strip[i * quarter + quarter // 2] for i in range(4)]
    assert [bool(green > red) for red, green, _ in middles] == [True, False, True, False]


def test_a_mask_of_more_tokens_than_pixels_is_averaged() -> None:
    allowed = np.zeros(50_000, dtype=np.bool_)
    allowed[:25_000] = True
    strip = shown("a", "b", mask=allowed)[15 * CELL_HEIGHT + CELL_HEIGHT // 2, CELL_WIDTH:-CELL_WIDTH].astype(
        int
    )
    green = strip[:, 1] > strip[:, 0]
    assert green[: len(green) // 2 - 1].all()
    assert not green[len(green) // 2 + 1 :].any()


def test_long_texts_lose_their_beginning() -> None:
    ends = shown("p", "x" * 5_000 + "end")
    again = shown("p", "x" * 5_003 + "end")
    assert np.array_equal(cells(ends, 11, 2, 62), cells(again, 11, 2, 62))
    assert not np.array_equal(cells(ends, 6, 2, 3), cells(ends, 6, 3, 4))  # the sign that more stood before


def test_texts_of_too_many_lines_lose_the_first() -> None:
    """The field of the text has six lines; the sign that more stood before takes a letter's place."""
    whole, cut = shown("p", "ab\n" * 5 + "c"), shown("p", "ab\n" * 6 + "c")
    assert np.array_equal(cells(whole, 6, 2, 4), cells(whole, 7, 2, 4))
    assert not np.array_equal(cells(cut, 6, 2, 3), cells(cut, 7, 2, 3))
    assert np.array_equal(cells(cut, 6, 3, 4), cells(cut, 7, 3, 4))


def test_modes_that_there_are_not() -> None:
    with pytest.raises(ConfigError, match=r"one text as it grows.*vector.HumanRendering"):
        gym.make_vec("text_gym/Copy-v0", num_envs=2, render_mode="human")
    with pytest.raises(ConfigError, match="choose None, 'ansi', 'rgb_array'"):
        TextVectorEnv(**SMALL, render_mode="ascii")


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_many_environments_render_a_picture_a_row(mode: str) -> None:
    envs = gym.make_vec("text_gym/Copy-v0", num_envs=2, render_mode="rgb_array", autoreset_mode=mode)
    envs.reset(seed=0)
    envs.step([1, 2])
    frames = envs.render()
    assert isinstance(frames, tuple)
    assert [f.shape for f in frames] == [(320, 640, 3)] * 2  # type: ignore[union-attr]
    first, second = (np.asarray(f) for f in frames)
    assert not np.array_equal(first, second)
