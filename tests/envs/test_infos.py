from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import VectorEnv
from hypothesis import given
from hypothesis import strategies as st

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
