"""Checks that explain: what was found, what is right, and, where it is a known mistake, which.

A check is given the right answer and, by the name of the mistake, answers that one gets by making it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float64]


def close(
    found: Any,
    right: Any,
    what: str,
    *,
    mistakes: Mapping[str, Any] | None = None,
    hint: str = "",
    rtol: float = 1e-7,
    atol: float = 1e-9,
) -> None:
    """Check numbers against the right ones.

    Args:
        found: A number, a list of numbers, an array or a tensor.
        right: Likewise, of the shape that is asked for.
        what: What was computed, for the message, e.g. `"your loss"`.
        mistakes: What one did -> the numbers that one gets by doing so.
        hint: What to think of if it is no mistake that is known here.
        rtol: How far it may be off, relative to the right number.
        atol: How far it may be off at least.

    Raises:
        AssertionError: It is of another shape, not finite, or wrong.
    """
    __tracebackhide__ = True
    right_array, found_array = _numbers(right, "the right answer"), _numbers(found, what)
    after = f"; {hint}" if hint else ""
    if found_array.shape != right_array.shape:
        raise AssertionError(
            f"{what} has shape {_shape(found_array)}; it must have shape {_shape(right_array)}{after}"
        )
    if np.allclose(found_array, right_array, rtol=rtol, atol=atol):
        return
    for mistake, wrong in (mistakes or {}).items():
        wrong_array = _numbers(wrong, mistake)
        same = wrong_array.shape == found_array.shape
        if same and np.allclose(found_array, wrong_array, rtol=rtol, atol=atol, equal_nan=True):
            raise AssertionError(f"{what}: {mistake} ({_difference(found_array, right_array)})")
    raise AssertionError(f"{what}: {_difference(found_array, right_array)}{after}")


def true(condition: bool, message: str) -> None:
    """Check what no number says.

    Raises:
        AssertionError: The condition does not hold; the message says what to think of.
    """
    __tracebackhide__ = True
    if not condition:
        raise AssertionError(message)


def gradient(value: Any, inputs: Tensor, what: str) -> Tensor:
    """Differentiate a number that was computed from a tensor.

    Args:
        value: What a function returned; it must be a tensor of one number.
        inputs: A tensor that requires gradients.
        what: What was computed, for the message.

    Returns:
        The gradient, of the inputs' shape.

    Raises:
        AssertionError: There is no gradient.
    """
    __tracebackhide__ = True
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise AssertionError(
            f"{what} is {_kind(value)}; it must be a tensor of one number, to be differentiated"
        )
    if not value.requires_grad:
        raise AssertionError(
            f"{what} has no gradient: on the way from the inputs it went through .item(), .detach(), "
            "torch.no_grad() or NumPy, which cut the graph"
        )
    (found,) = torch.autograd.grad(value.sum(), inputs, allow_unused=True)
    if found is None:
        raise AssertionError(f"{what} does not depend on what it must be differentiated by")
    return found


def _numbers(value: Any, what: str) -> Array:
    __tracebackhide__ = True
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    try:
        if value is None or isinstance(value, (str, bytes)):
            raise TypeError
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{what} is {_kind(value)}; it must be numbers") from error


def _kind(value: Any) -> str:
    if value is None:
        return "None: is there a return in your function?"
    if isinstance(value, (Tensor, np.ndarray)):
        return f"an array of shape {tuple(value.shape)}"
    return f"of type {type(value).__name__}"


def _shape(array: Array) -> str:
    return f"{array.shape}" if array.shape else "() (one number)"


def _difference(found: Array, right: Array) -> str:
    """Say what was found and what is right where they differ most."""
    if not np.isfinite(found).all() and np.isfinite(right).all():
        if found.ndim == 0:
            return f"it is {found:g}, which is not finite; right is {right:.6g}"
        at = np.unravel_index(int(np.argmax(~np.isfinite(found))), found.shape)
        place = "[" + ", ".join(str(int(i)) for i in at) + "]"
        return f"at {place} it is {found[at]:g}, which is not finite; right is {right[at]:.6g}"
    if found.ndim == 0:
        return f"it is {found:.6g}; right is {right:.6g}"
    with np.errstate(invalid="ignore"):
        apart = np.nan_to_num(np.abs(found - right), nan=np.inf)
    at = np.unravel_index(int(np.argmax(apart)), found.shape)
    place = "[" + ", ".join(str(int(i)) for i in at) + "]"
    return f"at {place} it is {found[at]:.6g}; right is {right[at]:.6g}"
