"""Infos of a vector environment: written many rows at a time, read back one row at a time.

The form is Gymnasium's: an array for every key and, under `_key`, a mask of the rows that have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from text_gym.episode import IntArray

Info = dict[str, Any]


def put(infos: Info, num_envs: int, rows: IntArray, columns: Mapping[str, Any]) -> Info:
    """Write columns into the infos, in place.

    What `VectorEnv._add_info` does row by row, with the same result.

    Args:
        infos: The infos so far.
        num_envs: `B`.
        rows: `(n,)` int64, rows written.
        columns: For each key `n` values: a numeric array, an object array or list, or a mapping of such.
    """
    for key, values in columns.items():
        mask = f"_{key}"
        if mask not in infos:
            if not isinstance(values, Mapping):
                numeric = isinstance(values, np.ndarray) and values.dtype != object
                infos[key] = (
                    np.zeros((num_envs, *values.shape[1:]), values.dtype)
                    if numeric
                    else np.empty(num_envs, object)
                )
            infos[mask] = np.zeros(num_envs, dtype=np.bool_)
        if isinstance(values, Mapping):
            infos[key] = put(infos.get(key, {}), num_envs, rows, values)
        else:
            infos[key][rows] = values
        infos[mask][rows] = True
    return infos


def infos_of_row(infos: Mapping[str, Any], row: int) -> Info:
    """The infos of one row, numbers as Python's own, without the masks."""
    single: Info = {}
    for key, values in infos.items():
        mask = infos.get(f"_{key}")
        if mask is None or not mask[row]:
            continue
        value = infos_of_row(values, row) if isinstance(values, Mapping) else values[row]
        single[key] = value.item() if isinstance(value, np.generic) else value
    return single
