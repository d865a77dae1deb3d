"""Grade a class: every submission's labs by the hidden tests, in the sandbox, into one CSV.

python -m course.grade submissions/* --out grades

A submission is a student's folder with LAB/lab.py in it. The tests of each run under pytest in a process of
their own; what was handed in runs in another one, in the sandbox, and answers with numbers only, so that it
has no say in its grade and nothing to do with anybody else's. `--out` gets grades.csv and, for every student,
the JUnit file of pytest and the feedback.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from course.labs import COURSE, every_lab
from course.remote import Plugin
from course.submissions import as_cell, take
from text_gym.utils.display import harmless
from text_gym.utils.limits import SandboxLimits, installed_software, missing_limits

SPARE_SECONDS = 300.0  # that the tests' own work may take, beside the submission's
_LONGEST_REASON = 300  # characters of a reason in the table


@dataclass(frozen=True)
class Grade:
    """The grade of a lab.

    Args:
        student: Name of the submission's folder.
        lab: Name of the lab's folder.
        points: Hidden tests that pass.
        out_of: Hidden tests that there are.
        seconds: That they took.
        messages: Name of each test that fails -> what it says.
    """

    student: str
    lab: str
    points: int
    out_of: int
    seconds: float
    messages: dict[str, str]

    @property
    def reason(self) -> str:
        """The first thing to say about what is missing."""
        first = next(iter(self.messages.values()), "")
        return harmless(first.split("\n")[0], limit=_LONGEST_REASON)


@dataclass(frozen=True)
class GradeSettings:
    """The settings of grading.

    Args:
        labs: Names of the labs' folders.
        course: Folder of the course.
        seed: Of the numbers that the tests draw.
        seconds: Of one call of a submission's function.
        budget: Of all calls for one lab.
    """

    labs: tuple[str, ...]
    course: Path = COURSE
    seed: int = 2026
    seconds: float = 60.0
    budget: float = 180.0


def grade(submission: Path, out: Path, settings: GradeSettings) -> list[Grade]:
    """Grade a submission; write its JUnit file and its feedback.

    Args:
        submission: A student's folder.
        out: Where the files go.
        settings: Of grading.
    """
    student = submission.resolve().name
    file = out / f"{_file_name(student)}.xml"
    command = [
        sys.executable,
        "-m",
        "course.grade",
        "--one",
        str(submission.resolve()),
        "--out",
        str(file.resolve()),
    ]
    command += [
        "--course",
        str(settings.course.resolve()),
        "--seed",
        str(settings.seed),
        "--labs",
        *settings.labs,
    ]
    command += ["--seconds", str(settings.seconds), "--budget", str(settings.budget)]
    most = len(settings.labs) * settings.budget + SPARE_SECONDS
    file.unlink(missing_ok=True)
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    why = "the tests did not finish"
    try:
        subprocess.run(
            command,
            cwd=COURSE.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=most,
            check=False,
        )
    except subprocess.TimeoutExpired:
        why = f"the tests took longer than {most:g} s and were ended"
    found = read_junit(file) if file.is_file() else {}
    grades = [_of_lab(student, lab, found.get(lab, {}), why) for lab in settings.labs]
    file.with_suffix(".md").write_text(feedback(student, grades), encoding="utf-8")
    return grades


def read_junit(file: Path) -> dict[str, dict[str, tuple[float, str | None]]]:
    """Read pytest's JUnit file: lab -> test -> seconds, and the message if it fails (None: it passes)."""
    found: dict[str, dict[str, tuple[float, str | None]]] = {}
    for case in ET.parse(file).iter("testcase"):
        lab = next((part for part in case.get("classname", "").split(".") if part.startswith("lab")), "")
        fault = next((part for part in case if part.tag in ("failure", "error")), None)
        message = None if fault is None else _message(fault)
        found.setdefault(lab, {})[case.get("name", "")] = (float(case.get("time", 0)), message)
    return found


def _message(fault: ET.Element) -> str:
    said = (fault.get("message") or fault.text or "no message").strip()
    return said.removeprefix("AssertionError: ").removeprefix("Failed: ")


def _of_lab(student: str, lab: str, found: dict[str, tuple[float, str | None]], why: str) -> Grade:
    messages = {name: message for name, (_, message) in found.items() if message is not None}
    if not found:
        messages = {"": why}
    return Grade(
        student,
        lab,
        len(found) - len(messages) if found else 0,
        len(found),
        sum(s for s, _ in found.values()),
        messages,
    )


def feedback(student: str, grades: Iterable[Grade]) -> str:
    """Write what a student is told, in Markdown: for every lab the tests that fail, and why."""
    lines = [f"# {harmless(student, limit=100)}", ""]
    for g in grades:
        lines += [f"## {g.lab}: {g.points} of {g.out_of}", ""]
        for name, message in g.messages.items():
            said = harmless(message.split("\n")[0], limit=1000)
            lines.append(
                f"- {name.removeprefix('test_').replace('_', ' ') or 'all'}: `{said.replace('`', chr(39))}`"
            )
        lines += [""] if g.messages else ["All of the hidden tests pass.", ""]
    return "\n".join(lines)


def write_table(grades: Iterable[Grade], file: Path) -> None:
    """Write grades as CSV. A cell that a spreadsheet would take for a formula gets an apostrophe."""
    with open(file, "w", newline="", encoding="utf-8") as out:
        rows = csv.writer(out)
        rows.writerow(["student", "lab", "points", "out_of", "seconds", "reason"])
        for g in grades:
            student = harmless(g.student, limit=100)
            rows.writerow(
                [as_cell(student), g.lab, g.points, g.out_of, f"{g.seconds:.1f}", as_cell(g.reason)]
            )


def _file_name(student: str) -> str:
    plain = re.sub(r"[^\w.-]", "_", student)[:60]
    if plain == student and not plain.startswith("."):
        return plain
    return f"{plain.lstrip('.')}-{hashlib.sha256(student.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def run_tests(submission: Path, out: Path, settings: GradeSettings) -> int:
    """Run the hidden tests of one submission under pytest, in this process; the exit status of pytest."""
    with tempfile.TemporaryDirectory(prefix="text-gym-grade-") as folder:
        plugin = Plugin(
            lambda lab: take(submission, lab, Path(folder)), seconds=settings.seconds, budget=settings.budget
        )
        tests = [str(settings.course / lab / "test_hidden.py") for lab in settings.labs]
        options = [
            "-q",
            f"--rootdir={settings.course}",
            f"-c{settings.course / 'pytest.ini'}",
            "-o",
            "pythonpath=",
        ]
        return pytest.main(
            [*options, f"--junitxml={out}", f"--seed={settings.seed}", *tests], plugins=[plugin]
        )


def refuse_what_is_unsafe(course: Path) -> str:
    """Say why submissions cannot be run safely here; empty if they can."""
    missing = missing_limits(SandboxLimits())
    if missing:
        return "this machine cannot limit " + "; ".join(f"{name} ({why})" for name, why in missing.items())
    for place in installed_software():
        if course.resolve().is_relative_to(Path(place).resolve()):
            return f"submissions can read {place}, and the hidden tests are in it; move the course elsewhere"
    return ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Grade the submissions that are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("submissions", nargs="*", type=Path, metavar="DIR", help="students' folders")
    parser.add_argument("--out", type=Path, default=Path("grades"), help="folder of the results")
    parser.add_argument("--labs", nargs="+", metavar="LAB", help="names of labs; all if left out")
    parser.add_argument("--course", type=Path, default=COURSE, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=2026, help="of the numbers that the tests draw")
    parser.add_argument("--seconds", type=float, default=60.0, help="that one call may take")
    parser.add_argument(
        "--budget", type=float, default=180.0, help="seconds that all calls for a lab may take"
    )
    parser.add_argument("--trusted", action="store_true", help="grade even where the sandbox is not whole")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    known = [lab.name for lab in every_lab(options.course)]
    labs = tuple(options.labs or known)
    if unknown := set(labs) - set(known):
        parser.error(f"there is no lab {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    settings = GradeSettings(labs, options.course.resolve(), options.seed, options.seconds, options.budget)
    if options.one is not None:
        raise SystemExit(int(run_tests(options.one, options.out, settings)))
    if (why := refuse_what_is_unsafe(options.course)) and not options.trusted:
        raise SystemExit(f"not graded: {why}. Use --trusted for people whom you trust with your account.")
    options.out.mkdir(parents=True, exist_ok=True)
    folders = [folder for folder in options.submissions if folder.is_dir()]
    if not folders:
        parser.error("none of the submissions is a folder")
    if len({folder.resolve().name for folder in folders}) < len(folders):
        parser.error("two submissions have the same name; a student's name is that of the folder")
    grades = []
    for submission in folders:
        for g in grade(submission, options.out, settings):
            print(f"{harmless(g.student, limit=40)} {g.lab}: {g.points} of {g.out_of} {g.reason}")
            grades.append(g)
    write_table(grades, options.out / "grades.csv")
    print(f"wrote {options.out / 'grades.csv'}")


if __name__ == "__main__":
    main()
