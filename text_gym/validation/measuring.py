"""What the levels share: a finding, how it becomes a result, and a few statistics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from text_gym.episode import Episode, FloatArray
from text_gym.errors import TextGymError, excerpt

from .result import CheckResult


@dataclass(frozen=True)
class CheckFinding:
    """What a check found.

    Args:
        ok: The property holds; None if the check does not apply.
        evidence: Sentences that show it.
        measured: Numbers by name.
    """

    ok: bool | None
    evidence: tuple[str, ...] = ()
    measured: dict[str, Any] = field(default_factory=dict)


def skipped(reason: str) -> CheckFinding:
    """Return the finding of a check that does not apply."""
    return CheckFinding(None, (reason,))


Check = Callable[[], CheckFinding]


def run_check(check_id: str, check: Check) -> CheckResult:
    """Run a check; what it raises is a failure if it is an error of ours, else an error of the check."""
    started = time.perf_counter()
    try:
        found = check()
    except TextGymError as error:
        found = CheckFinding(False, (f"{type(error).__name__}: {error}",))
    except Exception as error:
        spent = time.perf_counter() - started
        return CheckResult(check_id, "error", {}, (f"{type(error).__name__}: {error}",), spent)
    status = "skip" if found.ok is None else "pass" if found.ok else "fail"
    spent = time.perf_counter() - started
    return CheckResult(check_id, status, found.measured, found.evidence, spent)  # type: ignore[arg-type]


def run_checks(checks: dict[str, Check]) -> Iterator[CheckResult]:
    """Run checks one after another."""
    for check_id, check in checks.items():
        yield run_check(check_id, check)


def mean(values: FloatArray) -> float:
    """Return the mean without NaN; NaN of nothing."""
    return float(np.nanmean(values)) if len(values) and not np.isnan(values).all() else float("nan")


def quoted(episode: Episode, reward: float) -> str:
    """Show a text, its prompt and its reward."""
    prompt, text = excerpt(episode.prompt.text.strip(), 60), excerpt(episode.completion, 100)
    return f"{prompt} → {text} earns {reward:.3g}"
