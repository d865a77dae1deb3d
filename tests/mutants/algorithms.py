"""Bugs in agents/algorithms: advantages, KL, clipping, groups, pairs."""

from __future__ import annotations

from .mutant import Mutant

ADVANTAGES = "agents/algorithms/advantages.py"
ADVANTAGES_TESTS = "tests/agents/algorithms/test_advantages.py"

MUTANTS = [
    Mutant(
        "gae-bootstraps-past-the-end",
        ADVANTAGES,
        "next_value = torch.where(mask[:, t], values[:, t], 0.0)",
        "next_value = values[:, t]",
        (f"{ADVANTAGES_TESTS}::test_gae_by_hand",),
    ),
]
