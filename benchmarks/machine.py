"""What figures were measured on; it stands beside the rows in every file of `results/`."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import bootstrap

from text_gym.utils.json_files import write_json

Row = dict[str, Any]


def machine() -> Row:
    """Processor, cores, threads, versions and date."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def save(file: str | Path, rows: list[Row], **more: Any) -> None:
    """Write rows with the machine, and whatever else is worth keeping."""
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"machine": machine(), **more, "rows": rows})


def interval_of_median(ratios: list[float]) -> list[float]:
    """Compute the bootstrap's 95 % interval of the median of a few ratios."""
    if len(set(ratios)) < 2:
        return [ratios[0], ratios[0]]
    how: dict[str, Any] = {"method": "percentile", "rng": np.random.default_rng(0)}
    found = bootstrap((ratios,), np.median, **how).confidence_interval
    return [float(found.low), float(found.high)]
