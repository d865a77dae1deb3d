from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from text_gym.envs.inputs import check_allowed, episodes_asked_for, rows_to_reset, token_array, valid_tokens
from text_gym.errors import ConfigError, TokenError, UnknownNameError

NONE = np.zeros(0, dtype=np.int64)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int32", "uint64", "int64"])
def test_integers_of_every_kind_are_token_ids(kind: str) -> None:
    tokens = valid_tokens(np.array([0, 3], dtype=kind), 2, 4, NONE)
    assert tokens.tolist() == [0, 3]
    assert tokens.dtype == np.int64


@pytest.mark.parametrize(
    ("actions", "says"),
    [
        ([0.0, 1.0], "float64"),
        ([True, 1], "bool"),
        ([0], r"shape \(1,\)"),
        ([[0], [1, 2]], "not an array of token ids"),
        (None, "object"),
    ],
)
def test_what_is_no_array_of_token_ids(actions: Any, says: str) -> None:
    with pytest.raises(TokenError, match=says):
        token_array(actions, (2,))


def test_ids_outside_the_vocabulary_are_refused_but_in_rows_that_are_ignored() -> None:
    for wrong in (-1, 4, 2**63 - 1):
        with pytest.raises(TokenError, match=rf"token id {wrong} in row 1 is outside \[0, 4\)"):
            valid_tokens([0, wrong], 2, 4, NONE)
        assert valid_tokens([0, wrong], 2, 4, np.array([1]))[0] == 0


def test_forbidden_tokens_are_refused_but_in_rows_that_are_ignored() -> None:
    masks = np.array([[True, False], [False, True], [True, True]])
    check_allowed(np.array([0, 1, 1]), masks, NONE)
    check_allowed(np.array([1, 1, 99]), masks, np.array([0, 2]))
    with pytest.raises(TokenError, match="token id 0 in row 1 is masked"):
        check_allowed(np.array([9, 0, 1]), masks, np.array([0]))


def test_reset_options() -> None:
    assert rows_to_reset({}, 3).tolist() == [0, 1, 2]
    assert rows_to_reset({"reset_mask": np.array([True, False, True])}, 3).tolist() == [0, 2]
    assert episodes_asked_for({}, 2) is None
    for given, found in ((4, [4, 4]), ([1, 0], [1, 0]), (np.array([3, 5], dtype=np.uint8), [3, 5])):
        index = episodes_asked_for({"episode_index": given}, 2)
        assert index is not None
        assert index.tolist() == found
    with pytest.raises(UnknownNameError, match="reset option 'mask'"):
        rows_to_reset({"mask": 1}, 2)
    with pytest.raises(ConfigError, match="no row"):
        rows_to_reset({"reset_mask": np.zeros(2, dtype=np.bool_)}, 2)
    for wrong in ([1, 2, 3], -1, 2**63, [0, 2**64 - 1]):  # an unsigned array would wrap around
        with pytest.raises(ConfigError, match="2 of them"):
            episodes_asked_for({"episode_index": wrong}, 2)
