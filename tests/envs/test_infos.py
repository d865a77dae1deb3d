from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import VectorEnv
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.worlds import SMALL, WORLDS, Abstains, random_actions
from text_gym import MinLength, TextEnv, TextVectorEnv
from text_gym.envs.infos import infos_of_row, put

VALUES = {
    "count": st.integers(-9, 9),
    "score": st.floats(-1, 1),
    "flag": st.booleans(),
    "text": st.text(max_size=3),
    "terms": st.fixed_dictionaries({"a": st.floats(0, 1), "b": st.floats(0, 1)}),
}
KINDS = {"count": np.int64, "score": np.float64, "flag": np.bool_}


def columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    def column(key: str, values: list[Any]) -> Any:
        if isinstance(values[0], dict):
            return {k: np.array([v[k] for v in values]) for k in values[0]}
        return np.array(values, dtype=KINDS[key]) if key in KINDS else values

    return {key: column(key, [row[key] for row in rows]) for key in rows[0]}


@given(st.data(), st.integers(1, 5))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_infos_are_those_of_gymnasium_row_by_row_and_come_back(data: st.DataObject, num_envs: int) -> None:
    reference: VectorEnv[Any, Any, Any] = VectorEnv()
    reference.num_envs = num_envs
    theirs: dict[str, Any] = {}
    ours: dict[str, Any] = {}
    for _ in range(2):  # a second time, over the first
        rows = data.draw(st.lists(st.integers(0, num_envs - 1), min_size=1, unique=True))
        keys = data.draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, unique=True))
        values = [{key: data.draw(VALUES[key]) for key in keys} for _ in rows]
        for row, info in zip(rows, values, strict=True):
            theirs = reference._add_info(theirs, info, row)
        assert put(ours, num_envs, np.array(rows), columns(values)) is ours
        assert data_equivalence(ours, theirs, exact=True)
        for row, info in zip(rows, values, strict=True):
            assert {k: v for k, v in infos_of_row(ours, row).items() if k in info} == info
            assert all(type(infos_of_row(ours, row)[k]) is type(v) for k, v in info.items())


def test_a_row_without_infos_has_none() -> None:
    infos = put({}, 2, np.array([1]), {"text": ["a\0"], "terms": {"x": np.array([1.0])}})
    assert infos_of_row(infos, 0) == {}
    assert infos_of_row(infos, 1) == {"text": "a\0", "terms": {"x": 1.0}}


def shape_of(value: Any) -> Any:
    """The structure of infos: keys, types, and dtypes and shapes of arrays."""
    if isinstance(value, dict):
        return {key: shape_of(v) for key, v in value.items()}
    return (value.dtype, value.shape) if isinstance(value, np.ndarray) else type(value)


CONSTANT: dict[str, dict[str, Any]] = {
    **{name: {**world, "infos": "constant"} for name, world in WORLDS.items() if "v0" not in name},
    "masked": {**SMALL, "infos": "constant", "mask": MinLength(1), "on_masked": "allow"},
}


@pytest.mark.parametrize("world", CONSTANT)
def test_constant_infos_have_one_structure_at_reset_and_step(world: str) -> None:
    env = TextEnv(**CONSTANT[world])
    _, info = env.reset(seed=0)
    expected = shape_of(info)
    assert set(expected) >= {"episode_index", "reward_abstained", "prompt_tokens_dropped"}
    draw = random_actions(env.vector, 0)
    for _ in range(60):
        *_, terminated, truncated, info = env.step(draw()[0])
        assert shape_of(info) == expected
        if terminated or truncated:
            _, info = env.reset()
            assert shape_of(info) == expected


@pytest.mark.parametrize("mode", ["NextStep", "Disabled"])
def test_constant_infos_of_many_rows_are_there_in_every_row(mode: str) -> None:
    env = TextVectorEnv(**CONSTANT["masked"], num_envs=3, autoreset_mode=mode)
    _, info = env.reset(seed=0)
    expected = shape_of(info)
    draw = random_actions(env, 0)
    for _ in range(30):
        *_, terminated, truncated, info = env.step(draw())
        assert shape_of(info) == expected
        assert all(info[key].all() for key in info if key.startswith("_"))
        if mode == "Disabled" and (terminated | truncated).any():
            env.reset(options={"reset_mask": terminated | truncated})


def test_constant_infos_say_what_the_changing_ones_say_and_are_neutral_elsewhere() -> None:
    world = {**SMALL, "reward": Abstains()}
    changing, constant = TextEnv(**world), TextEnv(**world, infos="constant")
    neutral = {"completion": "", "reward_abstained": False, "prompt_tokens_dropped": 0}
    draw = random_actions(changing.vector, 0)
    expected = changing.reset(seed=3)[1]
    assert constant.reset(seed=3)[1] == {**neutral, **expected}
    episode = expected
    for _ in range(60):
        action = draw()[0]
        *_, terminated, truncated, said = changing.step(action)
        assert constant.step(action)[-1] == {**neutral, **episode, **said}
        if terminated or truncated:
            episode = changing.reset()[1]
            constant.reset()


def test_infos_of_numbers_are_the_constant_ones_without_texts() -> None:
    world = {**SMALL, "reward": Abstains()}
    constant, numbers = TextEnv(**world, infos="constant"), TextEnv(**world, infos="numbers")
    draw = random_actions(constant.vector, 0)
    pairs = [(constant.reset(seed=3)[1], numbers.reset(seed=3)[1])]
    for _ in range(60):
        action = draw()[0]
        *_, terminated, truncated, said = constant.step(action)
        pairs.append((said, numbers.step(action)[-1]))
        if terminated or truncated:
            pairs.append((constant.reset()[1], numbers.reset()[1]))
    assert sum(said["reward_abstained"] for said, _ in pairs) > 0
    for said, told in pairs:
        assert told == {key: value for key, value in said.items() if not isinstance(value, str)}
        assert said.keys() - told.keys() == {"prompt", "completion"}


def test_no_infos_are_none() -> None:
    env = TextEnv(**SMALL, infos="none", mask=MinLength(1))
    assert env.reset(seed=0)[1] == {}
    assert env.step(np.int64(0))[-1] == {}
    assert env.step(np.int64(2))[-1] == {}
    assert env.action_masks().all()
