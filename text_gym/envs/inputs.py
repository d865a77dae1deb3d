"""Checks what callers pass to `step` and `reset` before anything changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from text_gym.episode import BoolArray, IntArray
from text_gym.errors import ConfigError, TokenError, UnknownNameError

RESET_OPTIONS = ("reset_mask", "episode_index")


def token_array(actions: Any, shape: tuple[int, ...]) -> npt.NDArray[np.integer[Any]]:
    """Convert actions to an integer array of this shape.

    Raises:
        TokenError: They are something else: floats, bools, another shape.
    """
    try:
        array = np.asarray(actions)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TokenError(
            f"actions are not an array of token ids ({error}); from a GPU, call .cpu()"
        ) from error
    # NumPy would convert bools in a list to integers.
    bools = isinstance(actions, (list, tuple)) and any(isinstance(a, (bool, np.bool_)) for a in actions)
    if array.dtype.kind not in "iu" or array.shape != shape or bools:
        kind = "bool" if bools else array.dtype
        raise TokenError(
            f"actions have dtype {kind} and shape {array.shape}; expected integer token ids of shape {shape}"
        )
    return array


def valid_tokens(actions: npt.ArrayLike, num_rows: int, vocab_size: int, ignored: IntArray) -> IntArray:
    """Convert actions to token ids in `[0, V)`, `(B,)` int64; ignored rows may hold anything.

    Raises:
        TokenError: Another id, or no array of integers `(B,)`.
    """
    given = token_array(actions, (num_rows,))
    tokens = given.astype(np.int64, copy=False)
    if tokens.view(np.uint64).max() >= vocab_size:  # negative ids are huge as unsigned ones
        wrong = (tokens < 0) | (tokens >= vocab_size)
        wrong[ignored] = False
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise TokenError(f"token id {given[row]} in row {row} is outside [0, {vocab_size})")
    return tokens


def check_allowed(tokens: IntArray, masks: BoolArray, ignored: IntArray) -> None:
    """Refuse tokens `(B,)` that the masks `(B, V)` forbid, but for the ignored rows, with a `TokenError`."""
    rows = np.setdiff1d(np.arange(len(tokens)), ignored)
    allowed = masks[rows, tokens[rows]]
    if not allowed.all():
        row = int(rows[np.flatnonzero(~allowed)[0]])
        raise TokenError(
            f"token id {tokens[row]} in row {row} is masked; choose one of action_masks(), or make the "
            "environment with on_masked='allow'"
        )


def rows_to_reset(options: Mapping[str, Any], num_rows: int) -> IntArray:
    """Return the rows that `options["reset_mask"]` selects, `(n,)` int64, or all rows.

    Raises:
        UnknownNameError: There is another option beside.
        ConfigError: The mask has another form, or selects none.
    """
    for name in options:
        if name not in RESET_OPTIONS:
            raise UnknownNameError("reset option", name, RESET_OPTIONS)
    if "reset_mask" not in options:
        return np.arange(num_rows)
    mask = _row_mask("options['reset_mask']", options["reset_mask"], num_rows)
    if not mask.any():
        raise ConfigError("options['reset_mask'] selects no row; leave the call out instead")
    return np.flatnonzero(mask)


def idle_rows(active: Any, num_rows: int) -> IntArray:
    """Return the rows `(n,)` int64 that `active` `(B,)` leaves out.

    Raises:
        ConfigError: It has another form.
    """
    return np.flatnonzero(~_row_mask("active", active, num_rows))


def _row_mask(name: str, mask: Any, num_rows: int) -> BoolArray:
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (num_rows,):
        raise ConfigError(
            f"{name} must be a bool array of shape ({num_rows},), got "
            f"{getattr(mask, 'dtype', type(mask).__name__)} {getattr(mask, 'shape', '')}"
        )
    return mask


def episodes_asked_for(options: Mapping[str, Any], num_rows: int) -> IntArray | None:
    """Return the episode numbers in `options["episode_index"]`, `(B,)` int64, or None.

    Raises:
        ConfigError: They have another form.
    """
    if "episode_index" not in options:
        return None
    index = np.asarray(options["episode_index"])
    shaped = index.dtype.kind in "iu" and index.shape in ((), (num_rows,))
    if not shaped or index.min() < 0 or index.max() >= 2**63 - 1:
        raise ConfigError(
            f"options['episode_index'] must be a whole number of at least 0 in 63 bits, or {num_rows} of "
            f"them, got {options['episode_index']!r}"
        )
    return np.broadcast_to(index.astype(np.int64), (num_rows,))
