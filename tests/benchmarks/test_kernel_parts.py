from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from text_gym.models.cpu import kernels

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import kernel_parts


@pytest.mark.parametrize("part", kernel_parts.PARTS)
def test_each_part_can_be_left_out(part: str) -> None:
    """A part that has moved would be measured as worth nothing."""
    targets = [(module, name) for module, name, _ in kernel_parts.PARTS[part]]
    before = [getattr(module, name) for module, name in targets]
    with kernel_parts.left_out(part):
        assert all(getattr(*target) is not was for target, was in zip(targets, before, strict=True))
        if part == "without any":
            assert kernels.kernels_for(torch.zeros(1)) is None
    assert [getattr(module, name) for module, name in targets] == before
