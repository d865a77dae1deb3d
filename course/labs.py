"""The labs, and the files of each.

A lab is a folder: `README.md` (handout), `lab.py` (solution, with markers), `test_lab.py` (public tests),
`test_hidden.py` (hidden tests), `mutants.py` (classic mistakes), `pictures.py` (a jupytext script).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

COURSE = Path(__file__).resolve().parent
FOR_STUDENTS = ("README.md", "lab.py", "test_lab.py", "pictures.py")
MORE = ("reward.py", "texts.jsonl", "classmates.jsonl")  # students get them, too, where a lab has them
SHARED = (
    "conftest.py",
    "checks.py",
    "figures.py",
    "imports.py",
    "worlds.py",
    "pytest.ini",
)  # beside the labs, in a student's folder


@dataclass(frozen=True)
class Lab:
    """A lab of the course.

    Args:
        folder: Where it is.
    """

    folder: Path

    @property
    def name(self) -> str:
        """The name of its folder, which is what students hand in."""
        return self.folder.name

    @property
    def for_students(self) -> tuple[str, ...]:
        """The names of the files that students get."""
        return (*FOR_STUDENTS, *(name for name in MORE if (self.folder / name).is_file()))

    def read(self, file: str) -> str:
        """Read one of its files."""
        return (self.folder / file).read_text(encoding="utf-8")


def every_lab(course: Path = COURSE) -> list[Lab]:
    """List the labs in a course's folder, in their order.

    >>> [lab.name for lab in every_lab()][:2]
    ['lab1_mdp', 'lab2_policy_gradient']
    """
    return [Lab(folder) for folder in sorted(course.glob("lab[0-9]*")) if (folder / "lab.py").is_file()]
