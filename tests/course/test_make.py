"""The folders that are made: the student's works by itself and holds no solution."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from course import labs, make, wire
from course.labs import COURSE, FOR_STUDENTS, SHARED, every_lab
from course.make import main, solution, stub


def test_the_students_folder_works_by_itself_and_has_no_solution(tmp_path: Path) -> None:
    folder = tmp_path / "student"
    main(["--student", str(folder)])
    for lab in every_lab():
        given = {file.name for file in (folder / lab.name).iterdir()}
        assert given == set(lab.for_students) >= set(FOR_STUDENTS)
        assert "NotImplementedError" in (folder / lab.name / "lab.py").read_text(encoding="utf-8")
    assert {file.name for file in folder.iterdir() if file.is_file()} == {*SHARED, "README.md"}
    for file in folder.rglob("*.md"):
        assert "](../" not in file.read_text(encoding="utf-8"), file  # there is nothing above the folder
    for file in folder.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert "SOLUTION" not in text, file
        assert "course." not in text.replace("of the course.", ""), file
    # One lab solved, in a process that knows nothing of the repository but the installed package.
    solved = "lab4_reward_models"
    (folder / solved / "lab.py").write_text(
        solution((COURSE / solved / "lab.py").read_text(encoding="utf-8")), encoding="utf-8"
    )
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--junitxml=grade.xml", solved, "lab2_policy_gradient"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "11 passed" in done.stdout.splitlines()[-1], done.stdout
    assert "9 failed" in done.stdout.splitlines()[-1], done.stdout
    assert "NotImplementedError: leave_one_out is not written yet" in done.stdout
    assert (folder / "grade.xml").is_file()
    drawn = subprocess.run(
        [sys.executable, "pictures.py"],
        cwd=folder / solved,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert drawn.returncode == 0, drawn.stderr
    assert {file.name for file in (folder / solved / "figures").iterdir()} == {
        "accuracy.png",
        "reliability.png",
    }


def test_a_function_without_a_return_is_named_in_every_lab(tmp_path: Path) -> None:
    folder = tmp_path / "student"
    make.make_student(folder)
    for lab in every_lab():
        file = folder / lab.name / "lab.py"
        file.write_text(re.sub("raise NotImpl.*", "pass", file.read_text(encoding="utf-8")), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--tb=line"],
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    failures = re.findall(r"\.py:\d+: .*", done.stdout)
    assert len(failures) > 90, done.stdout
    assert all("is there a return in your function?" in failure for failure in failures), failures


def test_the_instructors_folder_has_everything(tmp_path: Path) -> None:
    main(["--instructor", str(tmp_path / "all")])
    for lab in every_lab():
        for name in (*FOR_STUDENTS, "test_hidden.py", "mutants.py"):
            assert (tmp_path / "all" / "course" / lab.name / name).is_file()


def test_a_folder_that_is_not_empty_stays(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(SystemExit, match="not empty"):
        main(["--student", str(tmp_path)])
    with pytest.raises(SystemExit):
        main([])


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("def f():\n    # BEGIN SOLUTION\n    return 1\n", "no partner"),
        ("def f():\n    # END SOLUTION\n", "no partner"),
        ("# BEGIN SOLUTION\nx = 1\n# END SOLUTION\n", "in a function"),
    ],
)
def test_markers_that_do_not_fit_are_refused(source: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        stub(source)


def test_doctests() -> None:
    for module in (labs, make, wire):
        assert doctest.testmod(module).failed == 0


def test_notebooks(tmp_path: Path) -> None:
    pytest.importorskip("jupytext")
    main(["--notebooks", str(tmp_path / "a")])
    main(["--notebooks", str(tmp_path / "b")])
    for lab in every_lab():
        first, second = (
            (tmp_path / n / lab.name / "pictures.ipynb").read_text(encoding="utf-8") for n in "ab"
        )
        assert first == second
        assert "from lab import" in first
