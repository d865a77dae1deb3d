from __future__ import annotations

from collections.abc import Sequence
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import gymnasium as gym
import pytest

from tests.worlds import SMALL
from text_gym import (
    Episode,
    EpisodeOptions,
    MinLength,
    Reply,
    TextEnv,
    TextVectorEnv,
    VectorOptions,
    load_task,
)
from text_gym.envs.options import sort_options
from text_gym.errors import ConfigError


class Echo:
    """A respondent that has nothing to say."""

    def respond(self, episodes: Sequence[Episode], generators: Sequence[Any]) -> list[Reply]:
        return [Reply("") for _ in episodes]


def test_every_option_is_a_keyword_of_the_environments() -> None:
    mask = MinLength(1)
    talk: dict[str, Any] = {"respondent": Echo(), "turn_stop": "a", "max_turns": 2, "max_context": 30}
    talk |= {"on_bad_reply": "drop"}
    episodes = EpisodeOptions(
        stop="bb", limit="truncate", mask=mask, on_bad_reward="drop", shuffle=False, group_size=2,
        max_prompt_tokens=9, on_long_prompt="truncate", context=40, **talk,
    )  # fmt: skip
    many = VectorOptions(
        numbering="global",
        on_abstain="redraw",
        on_masked="allow",
        copy=False,
        info_texts=False,
        observation="ids",
        infos="constant",
    )
    for group in (episodes, many):  # none stands at its default here
        assert all(getattr(group, field.name) != field.default for field in fields(group))
    keywords = {f.name: getattr(group, f.name) for group in (episodes, many) for f in fields(group)}
    vector = TextVectorEnv(**SMALL, num_envs=2, **keywords)
    other = {k: v for k, v in keywords.items() if k not in talk} | {"stop": "ab", "context": 99}
    made: Any = gym.make_vec(
        "text_gym/Copy-v0", num_envs=2, **other
    )  # it pays tokens, and has no conversations
    single: Any = TextEnv(**SMALL, **keywords)
    assert (vector.batch.options, vector.options) == (episodes, many)
    assert (single.vector.batch.options, single.vector.options) == (episodes, many)
    silent: dict[str, Any] = {f.name: f.default for f in fields(EpisodeOptions) if f.name in talk}
    assert made.batch.options == replace(episodes, stop="ab", context=99, **silent)
    assert made.options == many


def test_options_stay_what_they_were_checked_to_be() -> None:
    with pytest.raises(FrozenInstanceError):
        EpisodeOptions().limit = "never"  # type: ignore[misc, assignment]
    with pytest.raises(FrozenInstanceError):
        VectorOptions().copy = False  # type: ignore[misc]


def test_one_stop_string_may_stand_alone() -> None:
    assert EpisodeOptions(stop="ab").stop_strings == ("ab",)
    assert EpisodeOptions(stop=["a", "b"]).stop_strings == ("a", "b")
    assert EpisodeOptions().stop_strings == ()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"stop": ""}, "empty stop"),
        ({"stop": ["x", ""]}, "empty stop"),
        ({"stop": 5}, "stop is 5; it must be a string or a sequence of strings"),
        ({"turn_stop": None}, "turn_stop is None; it must be a string"),
        ({"turn_stop": [13]}, "turn_stop is \\[13\\]; it must be a string"),
        ({"limit": "stop"}, "limit is 'stop'; choose 'end', 'truncate'"),
        ({"on_bad_reward": "hide"}, "on_bad_reward is 'hide'"),
        ({"on_long_prompt": "cut"}, "on_long_prompt is 'cut'"),
        ({"group_size": 0}, "group_size is 0"),
        ({"group_size": True}, "group_size is True"),
        ({"numbering": "mine"}, "numbering is 'mine'"),
        ({"on_abstain": "retry"}, "on_abstain is 'retry'; choose 'pay_zero', 'redraw'"),
        ({"on_masked": "ask"}, "on_masked is 'ask'"),
        ({"colour": "red"}, "unexpected keyword argument 'colour'"),
        ({"fixed_horizon": True}, "fixed_horizon is gone"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        sort_options(None, options)


def test_what_is_no_option_is_the_named_tasks() -> None:
    task, episodes, many = sort_options("copy", {"length": 2, "stop": "x", "copy": False})
    assert task is not None
    assert task.max_tokens == 3
    assert (episodes, many) == (EpisodeOptions(stop="x"), VectorOptions(copy=False))
    with pytest.raises(ConfigError, match=r"task 'copy'.*size"):
        sort_options("copy", {"size": 3})
    with pytest.raises(ConfigError, match="unexpected keyword argument 'length'"):
        sort_options(load_task("copy"), {"length": 2})


@pytest.mark.parametrize(
    ("old", "new"), [(True, 'leave it out.*limit="end"'), (False, 'write limit="truncate"')]
)
@pytest.mark.parametrize("make", [TextEnv, TextVectorEnv])
def test_the_old_argument_says_what_to_write_instead(make: Any, old: bool, new: str) -> None:
    for kwargs in ({"task": "copy"}, SMALL):
        with pytest.raises(ConfigError, match=new):
            make(**kwargs, limit_terminates=old)
