"""What a grader and a submission say to each other, as JSON: numbers, texts, lists, mappings, arrays.

Whatever comes in is the other side's choice: `decode` makes plain data of it, or raises `ValueError`. It
never runs anything. PyTorch and NumPy are loaded when there is an array, not before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_DTYPES = ("float64", "float32", "int64", "bool")
_MOST_DEEP = 20
_LARGEST_INTEGER = 1 << 63


def encode(value: Any) -> Any:
    """Turn a value into JSON data.

    Raises:
        TypeError: It holds something of another type.

    >>> encode((1, None))
    {'tuple': [1, None]}
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, tuple):
        return {"tuple": [encode(item) for item in value]}
    if isinstance(value, list):
        return {"list": [encode(item) for item in value]}
    if isinstance(value, Mapping):
        return {"map": [[encode(key), encode(item)] for key, item in value.items()]}
    kind = type(value).__module__.split(".")[0]
    if kind == "torch" and hasattr(value, "detach"):
        plain = value.detach().cpu()
        return {"tensor": _flat(plain.numpy()), "grad": bool(value.requires_grad)}
    if kind == "numpy" and hasattr(value, "dtype"):
        return {"array": _flat(value)}
    raise TypeError(f"a {type(value).__name__} is neither a number, a text, a list nor an array")


def decode(data: Any, depth: int = 0) -> Any:
    """Turn JSON data into the value that it stands for.

    Tensors come back without gradients; which of them had one is in `data` for `wants_gradient`.

    Raises:
        ValueError: It is not of the form that `encode` gives.

    >>> decode(encode({"a": (1.5, [2])}))
    {'a': (1.5, [2])}
    """
    if depth > _MOST_DEEP:
        raise ValueError("lists within lists, too deep")
    if data is None or isinstance(data, (bool, float, str)):
        return data
    if isinstance(data, int):
        if abs(data) >= _LARGEST_INTEGER:
            raise ValueError("an integer of more than 64 bits")
        return data
    if isinstance(data, dict):
        for kind, inside in data.items():
            if kind in ("tuple", "list") and isinstance(inside, list):
                items = [decode(item, depth + 1) for item in inside]
                return tuple(items) if kind == "tuple" else items
            if kind == "map" and isinstance(inside, list):
                return dict(_pair(item, depth) for item in inside)
            if kind in ("tensor", "array"):
                return _array(inside, tensor=kind == "tensor")
    raise ValueError("data of another form")


def wants_gradient(data: Any) -> bool:
    """Return whether encoded data is a tensor that a gradient can be asked of."""
    return isinstance(data, dict) and "tensor" in data and data.get("grad") is True


def _flat(array: Any) -> dict[str, Any]:
    import numpy as np

    dtype = str(array.dtype)
    if dtype not in _DTYPES:
        if not np.issubdtype(array.dtype, np.number):
            raise TypeError(f"an array of {dtype} is no array of numbers")
        dtype = "int64" if np.issubdtype(array.dtype, np.integer) else "float64"
    return {"dtype": dtype, "shape": list(array.shape), "numbers": array.astype(dtype).ravel().tolist()}


def _array(data: Any, *, tensor: bool) -> Any:
    import numpy as np

    if not isinstance(data, dict) or set(data) != {"dtype", "shape", "numbers"}:
        raise ValueError("an array of another form")
    dtype, shape, numbers = data["dtype"], data["shape"], data["numbers"]
    if dtype not in _DTYPES or not isinstance(shape, list) or not isinstance(numbers, list) or len(shape) > 8:
        raise ValueError("an array of another form")
    if not all(type(n) is int and n >= 0 for n in shape) or math.prod(shape) != len(numbers):
        raise ValueError("an array whose shape is not that of its numbers")
    if not all(type(n) in (int, float, bool) for n in numbers):
        raise ValueError("an array of something else than numbers")
    try:
        array = np.array(numbers, dtype=dtype).reshape(shape)
    except OverflowError as error:
        raise ValueError("a number that is too large") from error
    if not tensor:
        return array
    import torch

    return torch.from_numpy(array)


def _pair(item: Any, depth: int) -> tuple[Any, Any]:
    if not isinstance(item, list) or len(item) != 2:
        raise ValueError("a mapping of another form")
    key = decode(item[0], depth + 1)
    try:
        hash(key)
    except TypeError as error:
        raise ValueError("a mapping by something else than numbers and texts") from error
    if not isinstance(key, (str, int, float, tuple)):
        raise ValueError("a mapping by something else than numbers and texts")
    return key, decode(item[1], depth + 1)
