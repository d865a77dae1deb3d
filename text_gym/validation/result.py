"""The result of a validation: every check with what was measured, the grade, the exit status and the badge.

The JSON has the names of OpenEnv's RFC 008 report (schema 1); what it has no place for stands beside them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from markupsafe import Markup

from text_gym.pages.notebook import card, table
from text_gym.utils.display import harmless

from .checks import CHECKS, LEVELS

Status = Literal["pass", "fail", "skip", "error"]
BAD = ("fail", "error")
FIRST_EXIT = 10  # the exit status of level 0; that of level 3 is 13
_MARKS = {"pass": "✓", "fail": "✗", "skip": "–", "error": "!"}
_COLOURS = ("red", "orange", "yellow", "yellowgreen", "green", "brightgreen", "brightgreen")


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check.

    Args:
        check_id: Its stable id, a key of `CHECKS`.
        status: `skip` where it does not apply or what it builds on failed; `error` where it broke down, which
            counts as a failure.
        measured: Numbers by name.
        evidence: Sentences and texts that show it.
        duration_s: Seconds that it took.
    """

    check_id: str
    status: Status
    measured: Mapping[str, Any] = field(default_factory=dict)
    evidence: tuple[str, ...] = ()
    duration_s: float = 0.0

    @property
    def level(self) -> int:
        """Its level, 0 to 5."""
        return CHECKS[self.check_id].level

    @property
    def broken(self) -> bool:
        """True if it fails its level."""
        return self.status in BAD and CHECKS[self.check_id].severity == "fail"

    @property
    def remediation(self) -> str | None:
        """What to change, if it did not pass."""
        return CHECKS[self.check_id].remedy if self.status in BAD else None

    def line(self) -> str:
        """Return it as one line of text."""
        warn = self.status in BAD and not self.broken
        mark = "?" if warn else _MARKS[self.status]
        first = f"  {self.evidence[0]}" if self.evidence and self.status != "pass" else ""
        return f"{mark} L{self.level} {self.check_id}{first}"


@dataclass(frozen=True, repr=False)
class ValidationReport:
    """The result of `validate` for one task or reward.

    Args:
        target: What was validated.
        kind: `task` or `reward`.
        results: Every check, in the order of `CHECKS`.
        digest: Hash of what was validated: prompts, vocabulary and the reward's description.
        settings: What it was validated with.
    """

    target: str
    kind: str
    results: tuple[CheckResult, ...]
    digest: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def levels(self) -> dict[int, str]:
        """What became of each level that was run: `pass`, `warn`, `fail`, or `skip` if nothing applied."""
        found: dict[int, str] = {}
        for level in LEVELS:
            own = [r for r in self.results if r.level == level]
            if any(r.broken for r in own):
                found[level] = "fail"
            elif any(r.status in BAD for r in own):
                found[level] = "warn"
            elif own:
                found[level] = "pass" if any(r.status == "pass" for r in own) else "skip"
        return found

    @property
    def grade(self) -> int:
        """The highest level up to which nothing failed; −1 if level 0 did. Skipped levels do not count."""
        grade = -1
        for level, status in self.levels.items():
            if status == "fail":
                break
            grade = level if status != "skip" else grade
        return grade

    @property
    def verdict(self) -> Literal["pass", "warn", "fail"]:
        """`fail` if a level failed, `warn` if only warnings are left, else `pass`."""
        found = set(self.levels.values())
        return "fail" if "fail" in found else "warn" if "warn" in found else "pass"

    @property
    def exit_status(self) -> int:
        """0, or 10 more than the lowest level that failed."""
        return next((FIRST_EXIT + level for level, s in self.levels.items() if s == "fail"), 0)

    def result(self, check_id: str) -> CheckResult:
        """Return the result of a check by its id.

        Raises:
            KeyError: The check was not run.
        """
        return {r.check_id: r for r in self.results}[check_id]

    def headline(self) -> str:
        """The verdict in one sentence."""
        failed = [level for level, status in self.levels.items() if status == "fail"]
        if not failed:
            return f"Passes up to level {self.grade}" if self.grade >= 0 else "Nothing could be checked"
        names = ", ".join(f"L{level}" for level in failed)
        return f"Fails {names}"

    def __repr__(self) -> str:
        return f"ValidationReport({self.target}: {self.headline()})"

    def _repr_html_(self) -> str:
        facts = {f"level {level}: {LEVELS[level]}": status for level, status in self.levels.items()}
        rows = [[r.check_id, r.status, harmless("; ".join(r.evidence[:2]), limit=300)] for r in self.results]
        title = f"Validation of {self.target}: {self.headline()}"
        return card(title, facts, table(["check", "status", "evidence"], rows), Markup())

    def summary(self) -> dict[str, Any]:
        """Return plain data by the names of RFC 008's report; levels, grade and settings are ours."""
        results = [
            {
                "check_id": r.check_id,
                "status": r.status,
                "measured": {"level": r.level, "severity": CHECKS[r.check_id].severity, **r.measured},
                "evidence": [harmless(e, limit=600) for e in r.evidence],
                "remediation": r.remediation,
                "duration_s": round(r.duration_s, 3),
            }
            for r in self.results
        ]
        return {
            "report_schema_version": "1",
            "target": self.target,
            "kind": self.kind,
            "source_digest": self.digest,
            "signature": "text-gym",
            "manifest": None,
            "policy_version": "text-gym-1",
            "lane": "local",
            "levels_run": list(self.levels),
            "levels": {str(level): status for level, status in self.levels.items()},
            "grade": self.grade,
            "settings": dict(self.settings),
            "results": results,
            "verdict": self.verdict,
        }

    def badge(self) -> dict[str, Any]:
        """Return the badge as shields.io's endpoint reads it."""
        failed = self.exit_status
        message = f"L{self.grade}" if self.grade >= 0 else "fails"
        if failed and self.grade >= 0:
            message += f" (fails L{failed - FIRST_EXIT})"
        return {
            "schemaVersion": 1,
            "label": "text-gym validate",
            "message": message,
            "color": _COLOURS[self.grade + 1] if failed else "brightgreen",
        }


def report_from(data: Mapping[str, Any]) -> ValidationReport:
    """Rebuild a report from its `summary`.

    >>> report = ValidationReport("mine", "reward", (CheckResult("runtime.loads", "pass"),))
    >>> report_from(report.summary()).grade
    0
    """
    known = {f.name for f in dataclasses.fields(CheckResult)}
    results = []
    for row in data["results"]:
        own = {k: v for k, v in row.items() if k in known}
        measured = {k: v for k, v in own.pop("measured").items() if k not in ("level", "severity")}
        results.append(CheckResult(**{**own, "measured": measured, "evidence": tuple(own["evidence"])}))
    return ValidationReport(
        data["target"], data["kind"], tuple(results), data["source_digest"], data["settings"]
    )


def worst(reports: Sequence[ValidationReport]) -> int:
    """Return the exit status of several reports: that of the lowest level that failed in any."""
    return min((r.exit_status for r in reports if r.exit_status), default=0)
