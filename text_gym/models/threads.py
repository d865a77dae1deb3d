"""Decides how many CPU threads pay off for a model.

PyTorch takes as many as the machine has cores. Small models lose by that: their operators are over before
many threads have woken up, and where a container allows fewer cores than the machine has, threads wait for
each other. Nothing here raises a number of threads that somebody chose.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import nn

SMALL_WEIGHTS = 30_000_000  # a model with at most this many parameters is small
SMALL_THREADS = 4  # for 64 episodes of a small model: 16 rows a thread; measured with up to two cores
CHOICES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # environment variables with which a user chooses
_QUOTAS = Path("/sys/fs/cgroup")


@cache
def cores() -> int:
    """Return the number of CPU cores this process may use, within its container's limit."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(usable, _quota(_QUOTAS) or usable))


def _quota(folder: Path) -> int | None:
    """Return the cores a control group allows, rounded up; None if it sets no limit."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = (
                (folder / "cpu" / f"cpu.cfs_{what}_us").read_text(encoding="ascii")
                for what in ("quota", "period")
            )
        return -(-int(quota) // int(period)) if int(quota) > 0 else None
    except (OSError, ValueError):  # no such files, or the word "max"
        return None


def worthwhile_threads(models: Iterable[nn.Module]) -> int:
    """Return the number of threads up to which the largest of some models gets faster on this CPU."""
    largest = max((sum(p.numel() for p in model.parameters()) for model in models), default=0)
    return cores() if largest > SMALL_WEIGHTS else min(cores(), SMALL_THREADS)


@contextmanager
def limited_threads(*models: nn.Module) -> Iterator[None]:
    """Within the block, PyTorch uses no more CPU threads than pay off for the largest of some models."""
    before = torch.get_num_threads()
    now = min(before, worthwhile_threads(models))
    if now < before:
        torch.set_num_threads(now)
    try:
        yield
    finally:
        if now < before:
            torch.set_num_threads(before)


def threads_are_chosen() -> bool:
    """Return True if the environment says how many threads to use."""
    return any(name in os.environ for name in CHOICES)
