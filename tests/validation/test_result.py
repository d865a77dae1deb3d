"""The report: grade, exit status and badge follow from the checks, and its JSON comes back as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from text_gym.validation.page import write_validation
from text_gym.validation.result import CheckResult, Status, ValidationReport, report_from, worst

ONE_A_LEVEL = (
    "runtime.loads",
    "semantic.oracle_max",
    "statistical.adversarial_floor",
    "semantic.canary_floor",
    "statistical.training_signal",
    "statistical.gold_agreement",
)


def report(*statuses: Status, extra: tuple[CheckResult, ...] = ()) -> ValidationReport:
    results = [
        CheckResult(i, s, {"x": 0.5}, ("<b>said</b>",)) for i, s in zip(ONE_A_LEVEL, statuses, strict=False)
    ]
    return ValidationReport(
        "mine", "task", (*results, *extra), "0" * 64, {"task": "t", "prompts": 1, "seed": 0}
    )


@pytest.mark.parametrize(
    ("statuses", "grade", "verdict", "exit_status", "badge"),
    [
        (("pass",) * 6, 5, "pass", 0, "L5"),
        (("pass", "pass", "pass", "skip", "pass", "skip"), 4, "pass", 0, "L4"),
        (("pass", "pass", "fail", "pass"), 1, "fail", 12, "L1 (fails L2)"),
        (("error", "pass"), -1, "fail", 10, "fails"),
        (("pass", "fail", "fail"), 0, "fail", 11, "L0 (fails L1)"),
    ],
)
def test_the_grade_is_the_highest_level_below_the_first_failure(
    statuses: tuple[Status, ...], grade: int, verdict: str, exit_status: int, badge: str
) -> None:
    found = report(*statuses)
    assert (found.grade, found.verdict, found.exit_status) == (grade, verdict, exit_status)
    assert found.badge()["message"] == badge


def test_a_warning_fails_no_level() -> None:
    found = report("pass", extra=(CheckResult("statistical.prompt_relevance", "fail"),))
    assert (found.verdict, found.exit_status) == ("warn", 0)


def test_the_status_of_several_is_that_of_the_lowest_level() -> None:
    assert worst([report("pass", "pass", "fail"), report("pass", "fail"), report("pass")]) == 11
    assert worst([report("pass")]) == 0


def test_files_are_written_and_come_back(tmp_path: Path) -> None:
    found = report("pass", "fail")
    page = write_validation([found], tmp_path)
    written = json.loads((tmp_path / "validation.json").read_text())
    # Names of the results of OpenEnv's RFC 008, schema 1; no others are allowed there.
    names = {"check_id", "status", "measured", "evidence", "remediation", "duration_s"}
    assert all(set(row) == names for row in written["results"])
    again = report_from(written)
    assert [(r.check_id, r.status, dict(r.measured)) for r in again.results] == [
        (r.check_id, r.status, dict(r.measured)) for r in found.results
    ]
    assert json.loads((tmp_path / "badge.json").read_text())["schemaVersion"] == 1
    shown = page.read_text(encoding="utf-8")
    assert "&lt;b&gt;said" in shown
    assert "<b>said" not in shown
