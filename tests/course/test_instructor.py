"""The instructor's side: its numbers are computed, its mutants exist, and students get none of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from course.instructor import check, slides
from course.instructor.answers import ANSWERS
from course.instructor.check import Mark, compute, faults, marks_in, texts
from course.labs import COURSE, Lab, every_lab
from course.make import main
from course.mutants import mutants_of

LABS = every_lab()
GUIDE = COURSE / "instructor"
DOCS = COURSE.parent / "docs"
SLOW = "lab3_swings"  # trains; the others list and search
QUESTION = re.compile(r"^### (\d+)\. (.+)$", re.MULTILINE)
NUMBERED = re.compile(r"^(\d+)\. ", re.MULTILINE)


def short(lab: Lab) -> str:
    return lab.name.partition("_")[0]


def read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "groups",
    [pytest.param([*(set(ANSWERS) - {SLOW}), "exam"]), pytest.param([SLOW], marks=pytest.mark.nightly)],
)
def test_the_written_numbers_are_those_that_are_computed(groups: list[str]) -> None:
    marks = [mark for file in texts() for mark in marks_in(file)]
    assert faults(marks, compute(groups), groups) == []


@pytest.mark.parametrize(
    ("written", "percent", "right", "wrong"),
    [
        ("0.15", False, 0.1549, 0.1551),
        ("−0.575", False, -0.57536, 0.57536),
        ("57.5", True, 0.57487, 0.57439),
        ("10,000", False, 10_000.4, 10_001.0),
        ("5", False, 5.0, 5.6),
    ],
)
def test_a_number_agrees_to_its_last_digit(written: str, percent: bool, right: float, wrong: float) -> None:
    mark = Mark("lab1.x", written, percent, Path("a.md"))
    assert mark.agrees(right)
    assert not mark.agrees(wrong)


def test_marks_are_read_and_lonely_ones_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    file.write_text("from 75.1 %<!-- lab4.low --> to −0.5<!-- lab1.x -->", encoding="utf-8")
    assert [(m.key, m.written, m.percent) for m in marks_in(file)] == [
        ("lab4.low", "75.1", True),
        ("lab1.x", "−0.5", False),
    ]
    file.write_text("nothing<!-- lab4.low -->", encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.md: no number stands before lab4\.low"):
        marks_in(file)


def test_what_does_not_agree_is_said(tmp_path: Path) -> None:
    marks = [Mark("lab1.a", "0.5", False, Path("x.md")), Mark("lab1.b", "1", False, Path("x.md"))]
    found = faults(marks, {"lab1.a": 0.7, "lab1.c": 2.0}, ["lab1"])
    assert found == [
        "x.md: lab1.a is 0.7, and 0.5 is written",
        "x.md: nothing computes lab1.b",
        "lab1.c is computed and stands nowhere",
    ]
    with pytest.raises(SystemExit, match="there is no lab99"):
        check.main(["lab99"])


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_every_lab_has_its_page_and_its_answers(lab: Lab) -> None:
    page = read(GUIDE / f"{short(lab)}.md")
    for part in (
        "| lecture",
        "| homework",
        "## What to say",
        "## Common mistakes",
        "## What the hidden tests add",
    ):
        assert part in page, part
    assert f"../{lab.name}/ANSWERS.md" in page
    rows = page.partition("## Common mistakes")[2].partition("\n## ")[0].strip().splitlines()[2:]
    named = [row.rstrip(" |").rpartition("|")[2].strip() for row in rows]
    mutants = {mutant.name for mutant in mutants_of(lab)}
    assert set(named) <= mutants, set(named) - mutants
    assert len(set(named)) == len(named) >= 10
    questions = lab.read("README.md").partition("## Questions")[2].partition("\n## ")[0]
    assert NUMBERED.findall(lab.read("ANSWERS.md")) == NUMBERED.findall(questions) != []


def test_the_exam_and_its_solutions_belong_together() -> None:
    exam, solutions = read(GUIDE / "exam.md"), read(GUIDE / "exam_solutions.md")
    questions = QUESTION.findall(exam)
    assert len(questions) >= 24
    asked = [(number, title.rpartition(" (")[0]) for number, title in questions]
    assert asked == QUESTION.findall(solutions) == [(str(i), name) for i, (_, name) in enumerate(asked, 1)]
    assert {title.rpartition(" (")[2][0] for _, title in questions} == set("DCRB")
    for number in range(1, 9):
        part = exam.partition(f"## Lab {number}: ")[2].partition("\n## ")[0]
        assert len(QUESTION.findall(part)) >= 3, number
    assert "<!--" not in exam, "a number of the solution stands on the sheet"
    computed = set(re.findall(r"exam\.q(\d+)\.", solutions))
    calculated = {number for number, title in questions if title.rpartition(" (")[2][0] == "C"}
    assert calculated <= computed


def test_a_students_folder_has_nothing_of_the_instructors(tmp_path: Path) -> None:
    main(["--student", str(tmp_path / "student")])
    files = [file for file in (tmp_path / "student").rglob("*") if file.is_file()]
    names = {part.lower() for file in files for part in file.relative_to(tmp_path).parts}
    assert not [n for n in names if re.search("answer|exam|instructor|hidden|mutant|solution|deck|slide", n)]
    guide = (tmp_path / "student" / "README.md").read_text(encoding="utf-8")
    assert (
        "pip install text-gym" not in guide
    )  # no package index has it: whoever took the name would be installed
    secrets = [read(GUIDE / "exam.md"), read(GUIDE / "exam_solutions.md")]
    secrets += [lab.read("ANSWERS.md") for lab in LABS] + [read(GUIDE / f"{short(lab)}.md") for lab in LABS]
    lines = {line for text in secrets for line in text.splitlines() if len(line) > 60}
    for file in files:
        assert not lines & set(file.read_text(encoding="utf-8").splitlines()), file


def test_the_instructors_folder_has_all_of_it_and_checks_itself(tmp_path: Path) -> None:
    main(["--instructor", str(tmp_path / "all")])
    made = tmp_path / "all" / "course"
    wanted = [*GUIDE.glob("*.*"), *(GUIDE / "decks").iterdir(), *(lab.folder / "ANSWERS.md" for lab in LABS)]
    for file in wanted:
        assert (made / file.relative_to(COURSE)).is_file(), file
    done = subprocess.run(
        [sys.executable, "-m", "course.instructor.check", "lab8"],
        cwd=tmp_path / "all",
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "lab8.accused: written 0.64" in done.stdout


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_a_deck_shows_figures_that_the_lab_draws(lab: Lab) -> None:
    deck = read(slides.DECKS / f"{short(lab)}.md")
    drawn = set(re.findall(r'\bshow\(.*"(\w+)"\)', lab.read("pictures.py")))
    assert slides.figures_of(deck) == drawn, "a deck shows every figure of its lab"
    assert 9 <= len(re.findall("^# ", deck, re.MULTILINE)) <= 13  # and the title


def test_without_pandoc_its_name_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setitem(sys.modules, "pypandoc", None)
    with pytest.raises(SystemExit, match="pip install pypandoc_binary"):
        main(["--slides", str(tmp_path / "slides")])
    assert not (tmp_path / "slides").exists()


def test_names_of_functions_get_their_space() -> None:
    log = '<mi mathvariant="normal">log</mi>'
    assert slides.spaced(f"{log}<mi>π</mi>") == f'{log}<mspace width="0.17em"></mspace><mi>π</mi>'
    bracket = f'{log}<mo>\u2061</mo></mrow><mo form="prefix">(</mo>'
    assert slides.spaced(bracket) == bracket


def test_concepts_link_to_labs_and_back() -> None:
    there: set[tuple[str, str]] = set()
    for page in sorted((DOCS / "concepts").glob("*.md")):
        if page.stem != "index":
            labs = re.findall(r"\(\.\./course/(lab\d)\.md\)", read(page))
            assert labs, f"{page.name} links to no lab"
            there |= {(page.stem, lab) for lab in labs}
    back = {
        (concept, short(lab))
        for lab in LABS
        for concept in re.findall(r"\(\.\./\.\./docs/concepts/([\w-]+)\.md\)", lab.read("README.md"))
    }
    assert {lab for _, lab in back} == {short(lab) for lab in LABS}
    assert there == back
