"""Make the folders that a course is taught from.

python -m course.make --student DIR      what students get: handouts, stubs, public tests, scripts of pictures
python -m course.make --instructor DIR   all of it: solutions, hidden tests, mutants, the grader
python -m course.make --notebooks DIR    notebooks of the pictures, beside solved labs (needs jupytext)
python -m course.make --slides DIR       slides of the labs, HTML and PDF (needs pandoc; for PDF Chromium)
"""

from __future__ import annotations

import argparse
import re
import shutil
import tempfile
from pathlib import Path

from course.instructor import slides
from course.labs import COURSE, MORE, SHARED, every_lab

BEGIN, END = "# BEGIN SOLUTION", "# END SOLUTION"
_FUNCTION = re.compile(r"^def (\w+)", re.MULTILINE)
_IMPORT_OF_LAB = re.compile(r"\bcourse\.lab\w+\.lab\b")
_PAGE = re.compile(r"\[([^]]+)\]\(\.\./\.\./docs/[^)]+\)")
_IMPORT = re.compile(r"\bcourse\.(?=checks|figures|imports|worlds)")


def stub(source: str) -> str:
    r"""Take the solutions out of a lab's source: what is left raises until it is written.

    Raises:
        ValueError: A marker has no partner, or a solution stands in no function.

    >>> print(stub("def one():\n    # BEGIN SOLUTION\n    return 1\n    # END SOLUTION\n"), end="")
    def one():
        raise NotImplementedError("one is not written yet")  # your solution goes here
    """
    lines: list[str] = []
    inside, function = False, ""
    for number, line in enumerate(source.splitlines(), 1):
        if found := _FUNCTION.match(line):
            function = found[1]
        marker = line.strip()
        if marker in (BEGIN, END):
            if inside == (marker == BEGIN):
                raise ValueError(f"line {number}: {marker} has no partner")
            inside = not inside
            if inside:
                if not function or not line.startswith(" "):
                    raise ValueError(f"line {number}: a solution stands in a function")
                indent = line[: line.index("#")]
                message = f'raise NotImplementedError("{function} is not written yet")'
                lines.append(f"{indent}{message}  # your solution goes here")
        elif not inside:
            lines.append(line)
    if inside:
        raise ValueError(f"the last {BEGIN} has no partner")
    return "\n".join(lines) + "\n"


def solution(source: str) -> str:
    """Take the markers out of a lab's source."""
    return "".join(line for line in source.splitlines(keepends=True) if line.strip() not in (BEGIN, END))


def flat(source: str) -> str:
    r"""Let a script import its neighbours as it finds them in a student's folder.

    >>> flat("from course.lab2_x.lab import f\nfrom course.checks import close")
    'from lab import f\nfrom checks import close'
    """
    return _IMPORT.sub("", _IMPORT_OF_LAB.sub("lab", source))


def handout(text: str) -> str:
    """Name the pages of the documentation, which a student's folder does not have, without links to them.

    >>> handout("The page [KL](../../docs/concepts/kl.md) of text-gym's documentation.")
    "The page *KL* of text-gym's documentation."
    """
    return _PAGE.sub(r"*\1*", text)


def pictures(source: str) -> str:
    """Let a script of pictures run in its lab's folder, with what is shared in the folder above."""
    above = 'import sys\n\nsys.path.insert(0, "..")  # where figures.py and worlds.py are\n'
    return flat(source).replace("# %%\n", f"# %%\n{above}", 1)


def make_student(out: Path, course: Path = COURSE) -> None:
    """Write what students get; it needs the installed package and nothing else of the repository."""
    _new_folder(out)
    shutil.copyfile(course / "student.md", out / "README.md")
    for name in SHARED:
        (out / name).write_text(flat((course / name).read_text(encoding="utf-8")), encoding="utf-8")
    for lab in every_lab(course):
        (out / lab.name).mkdir()
        for name in lab.for_students:
            text = lab.read(name)
            if name == "lab.py":
                text = stub(text)
            elif name == "pictures.py":
                text = pictures(text)
            elif name == "README.md":
                text = handout(text)
            elif name.endswith(".py"):
                text = flat(text)
            (out / lab.name / name).write_text(text, encoding="utf-8")


def make_instructor(out: Path, course: Path = COURSE) -> None:
    """Write all of the course; `python -m course.grade` runs in the folder."""
    _new_folder(out)
    ignored = shutil.ignore_patterns("__pycache__", ".*", "figures")
    shutil.copytree(course, out / "course", ignore=ignored)


def make_notebooks(out: Path, course: Path = COURSE) -> None:
    """Write every lab's script of pictures as a notebook, beside the lab with its solutions."""
    try:
        import jupytext  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ModuleNotFoundError as error:
        raise SystemExit("notebooks are made by jupytext: pip install jupytext") from error
    _new_folder(out)
    for name in ("figures.py", "worlds.py"):
        shutil.copyfile(course / name, out / name)
    for lab in every_lab(course):
        (out / lab.name).mkdir()
        (out / lab.name / "lab.py").write_text(flat(solution(lab.read("lab.py"))), encoding="utf-8")
        for name in lab.for_students:
            if name in MORE:
                shutil.copyfile(lab.folder / name, out / lab.name / name)
        notebook = jupytext.reads(pictures(lab.read("pictures.py")), fmt="py:percent")
        for number, cell in enumerate(notebook.cells):
            cell["id"] = f"cell-{number}"  # equal scripts give equal notebooks
        jupytext.write(notebook, out / lab.name / "pictures.ipynb")


def make_slides(out: Path, course: Path = COURSE) -> None:
    """Write every lab's slides, `labN.html` and with a Chromium `labN.pdf`, and the figures that are in them.

    The figures are drawn by the labs' own scripts of pictures, from the solutions, which takes some minutes.
    """
    pandoc, browser = slides.find_pandoc(), slides.find_browser()
    _new_folder(out)
    (out / "figures").mkdir()
    with tempfile.TemporaryDirectory(prefix="text-gym-slides-") as name:
        solved = Path(name) / "labs"
        make_student(solved, course)
        for lab in every_lab(course):
            folder, short = solved / lab.name, lab.name.partition("_")[0]
            (folder / "lab.py").write_text(flat(solution(lab.read("lab.py"))), encoding="utf-8")
            slides.draw(folder)
            page = (out / f"{short}.html").resolve()
            slides.write_deck(pandoc, slides.DECKS / f"{short}.md", folder, page)
            for figure in sorted((folder / "figures").iterdir()):
                shutil.copyfile(figure, out / "figures" / f"{short}_{figure.name}")
            if browser is not None:
                slides.print_page(browser, page, page.with_suffix(".pdf"))
            print(f"made the slides of {lab.name}")
    if browser is None:
        print(f"no PDF: none of {', '.join(slides.BROWSERS)} is on the path; any browser can print the pages")


def _new_folder(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        raise SystemExit(f"{out} is not empty; name a new folder")
    out.mkdir(parents=True, exist_ok=True)


def main(arguments: list[str] | None = None) -> None:
    """Make the folders that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = {
        "student": make_student,
        "instructor": make_instructor,
        "notebooks": make_notebooks,
        "slides": make_slides,
    }
    for kind in kinds:
        parser.add_argument(f"--{kind}", type=Path, metavar="DIR")
    options = vars(parser.parse_args(arguments))
    if not any(options.values()):
        parser.error("say what to make, each in a new folder: " + ", ".join(f"--{kind}" for kind in kinds))
    for kind, make in kinds.items():
        if options[kind] is not None:
            make(options[kind])
            print(f"made {options[kind]}")


if __name__ == "__main__":
    main()
