"""A lab of one function, for tests of the grader; it needs neither PyTorch nor NumPy."""

from __future__ import annotations


def double(x: float) -> float:
    """Double a number."""
    # BEGIN SOLUTION
    return 2 * x
    # END SOLUTION
