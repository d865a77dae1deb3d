from __future__ import annotations

import math

import numpy as np
import pytest

from text_gym.errors import ConfigError, DataError
from text_gym.reward_models.learned.scales import Scales

RAW = np.array([[1.0, 10.0], [3.0, 10.5], [5.0, 14.0]])


def test_rewards_by_hand() -> None:
    found = Scales((2.0, 1.0), (1.0, -10.0), (1.0, 3.0)).rewards(RAW, ("a", "b"))
    assert found.terms["a"].tolist() == [3.0, 7.0, 11.0]
    assert found.terms["b"].tolist() == [0.0, 0.5, 4.0]
    assert found.values.tolist() == [3 / 4, 8.5 / 4, 23 / 4]
    assert Scales.plain(1).rewards(RAW[:, :1], ("a",)).terms == {}


def test_standardised() -> None:
    values = Scales.plain(2).standardised(RAW, ("a", "b")).values(RAW)
    assert values.mean(axis=0) == pytest.approx([0, 0])
    assert values.std(axis=0) == pytest.approx([1, 1])


def test_it_comes_back_from_plain_data() -> None:
    scales = Scales((2.0, 1.0), (1.0, -10.0), (1.0, 3.0))
    assert Scales.from_dict(scales.to_dict()) == scales
    for broken in ({}, {"factor": "x", "offset": [1], "weight": [1]}):
        with pytest.raises(DataError, match="scales"):
            Scales.from_dict(broken)


@pytest.mark.parametrize(
    "numbers",
    [
        ((), (), ()),
        ((1.0,), (0.0, 0.0), (1.0,)),
        ((0.0,), (0.0,), (1.0,)),
        ((1.0,), (math.nan,), (1.0,)),
        ((1.0,), (0.0,), (-1.0,)),
        ((1.0,), (0.0,), (0.0,)),
    ],
)
def test_nonsense_is_refused(numbers: tuple[tuple[float, ...], ...]) -> None:
    with pytest.raises(ConfigError):
        Scales(*numbers)
