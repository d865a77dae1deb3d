"""Which findings hold on two benchmarks, of different tasks say, and which on one of them alone?

It reads what both have already found and computes nothing anew: that two benchmarks agree is no test of
its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from text_gym.errors import DataError

from .verdicts import UNKNOWN

Agreement = Literal["on both", "opposite", "on A only", "on B only", "cannot be told"]
_POOLED = ("over_optimisation", "prevention")  # findings whose question lists designs
AGREEMENTS: tuple[Agreement, ...] = ("on both", "opposite", "on A only", "on B only", "cannot be told")


@dataclass(frozen=True)
class SharedFinding:
    """A question that both benchmarks asked.

    Args:
        name: Of the finding, e.g. `"over_optimisation"`.
        design: The design it is about; empty where it compares several.
        question: As A asked it.
        a: What A says.
        b: What B says.
        effect_a: The first number of A's answer; NaN if it has none.
        effect_b: Of B's.
        agreement: `"on both"`: both tell, and the same; `"opposite"`: both tell, and not the same; `"on A
            only"`, `"on B only"`: the other cannot tell; `"cannot be told"`: neither can.
        same_sign: Whether both effects point the same way, whatever intervals say.
    """

    name: str
    design: str
    question: str
    a: str
    b: str
    effect_a: float
    effect_b: float
    agreement: Agreement
    same_sign: bool

    def summary(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return asdict(self)


def across(a: str | Path, b: str | Path) -> list[SharedFinding]:
    """Pair the findings of two benchmarks of rewards, in A's order.

    Args:
        a: Folder of a benchmark, or its `summary.json`.
        b: Another one.

    Raises:
        DataError: One is no summary of a benchmark of rewards, or they have no question in common.
    """
    first, second = _findings(a), _findings(b)
    shared = [_shared(f, other) for f in first if (other := _counterpart(f, first, second)) is not None]
    if not shared:
        raise DataError(f"{a} and {b} have no question in common: nothing to set side by side")
    return shared


def _findings(path: str | Path) -> list[Mapping[str, Any]]:
    file = Path(path) / "summary.json" if Path(path).is_dir() else Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        found = content["findings"]
        usable = content["what"] == "rewards" and all(
            isinstance(f[k], str) for f in found for k in ("name", "design", "question", "verdict", "answer")
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is no summary of a benchmark ({error}); pass the folder of one") from error
    if not usable:
        raise DataError(f"{file} has no findings on rewards; pass the folder of `text-gym bench rewards`")
    return list(found)


def _counterpart(
    finding: Mapping[str, Any], own: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """Find the other benchmark's finding of the same question; None if there is none, or no single one.

    Questions on several designs together name those that were run; asked once in each, they are the same.
    """
    key = (finding["name"], finding["design"])
    alike = [f for f in others if (f["name"], f["design"]) == key]
    for f in alike:
        if f["question"] == finding["question"]:
            return f
    if finding["name"] not in _POOLED:
        return None
    asked = sum((f["name"], f["design"]) == key for f in own)
    return alike[0] if len(alike) == asked == 1 else None


def _shared(a: Mapping[str, Any], b: Mapping[str, Any]) -> SharedFinding:
    effects = (_effect(a), _effect(b))
    known = (a["verdict"] != UNKNOWN, b["verdict"] != UNKNOWN)
    # One verdict can stand for several things that go wrong, or for nothing going wrong: the alarm tells.
    same = (a["verdict"], bool(a.get("alarm"))) == (b["verdict"], bool(b.get("alarm")))
    agreement: Agreement = "cannot be told"
    if all(known):
        agreement = "on both" if same else "opposite"
    elif any(known):
        agreement = "on A only" if known[0] else "on B only"
    return SharedFinding(
        a["name"],
        a["design"],
        a["question"],
        a["answer"],
        b["answer"],
        *effects,
        agreement,
        effects[0] * effects[1] > 0,
    )


def _effect(finding: Mapping[str, Any]) -> float:
    numbers = finding.get("numbers") or [{}]
    value = numbers[0].get("value")
    return float(value) if isinstance(value, (int, float)) else math.nan
