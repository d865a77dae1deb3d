"""Counts page faults, in a process of its own, which begins with the C library's own settings."""

from __future__ import annotations

import resource

import numpy as np


def faults() -> int:
    """Return how many pages are faulted in while 240 MiB are taken and given back in blocks of 4 MiB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        blocks = [np.ones(2**19) for _ in range(20)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
