"""Hidden tests of the toy lab."""

from __future__ import annotations

import random
from typing import Any


def test_double(lab: Any, seed: int) -> None:
    x = random.Random(seed).random()
    found = lab.double(x)
    assert isinstance(found, float), f"double gave {found!r}"
    assert found == x + x, "that is not twice the number"


def test_double_of_zero(lab: Any, seed: int) -> None:
    assert lab.double(0.0) == 0.0, "twice nothing is nothing"
