"""Hold the numbers in the instructor's texts against the computations behind them.

python -m course.instructor.check             all of them; a minute or so
python -m course.instructor.check lab4 exam   those of some labs, or of the exam

A number that a comment like `<!-- lab4.low -->` follows is computed by `answers.py`, or by `exam.py` if the
comment begins with `exam.`; it has to agree to the last digit that is written.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from course.instructor.answers import ANSWERS
from course.instructor.exam import EXAM
from course.labs import COURSE

_MARKED = re.compile(r"([-−]?\d[\d,]*(?:\.\d+)?)\s?(%?)<!-- ([\w.]+) -->")
_COMMENT = re.compile(r"<!-- ([\w.]+) -->")


@dataclass(frozen=True)
class Mark:
    """A number in a text, and the name of the computation that it has to agree with.

    Args:
        key: The computation, such as `lab4.low` or `exam.q6.gradient`.
        written: The number as it stands there.
        percent: The number is in per cent.
        file: Where it stands.
    """

    key: str
    written: str
    percent: bool
    file: Path

    def agrees(self, value: float) -> bool:
        """Compare to the last digit that is written."""
        plain = self.written.replace("−", "-").replace(",", "")
        decimals = len(plain.partition(".")[2])
        return abs(float(plain) - value * (100 if self.percent else 1)) <= 0.5000001 * 10.0**-decimals


def marks_in(file: Path) -> list[Mark]:
    """Find the numbers of a text that have a computation.

    Raises:
        ValueError: A comment names a computation and no number stands before it.
    """
    text = file.read_text(encoding="utf-8")
    found = [Mark(m[3], m[1], bool(m[2]), file) for m in _MARKED.finditer(text)]
    lonely = [key for key in _COMMENT.findall(text) if key not in {mark.key for mark in found}]
    if lonely:
        raise ValueError(f"{file.name}: no number stands before {', '.join(lonely)}")
    return found


def texts(course: Path = COURSE) -> list[Path]:
    """List the texts that have such numbers."""
    return sorted([*course.glob("lab[0-9]*/ANSWERS.md"), *course.glob("instructor/*.md")])


def compute(groups: Iterable[str] | None = None) -> dict[str, float]:
    """Compute the numbers: name -> value.

    Args:
        groups: Names in `ANSWERS`, or `exam`; everything if None.
    """
    wanted = set(groups) if groups is not None else {*ANSWERS, "exam"}
    found = {f"{lab}.{k}": v for lab, f in ANSWERS.items() if lab in wanted for k, v in f().items()}
    if "exam" in wanted:
        found |= {f"exam.{q}.{k}": v for q, f in EXAM.items() for k, v in f().items()}
    return found


def faults(marks: Sequence[Mark], computed: dict[str, float], groups: Iterable[str]) -> list[str]:
    """Say what does not agree: numbers that differ, or that nobody computes, or that nobody quotes."""
    chosen = [mark for mark in marks if mark.key.split(".")[0] in set(groups)]
    found = []
    for mark in chosen:
        if mark.key not in computed:
            found.append(f"{mark.file.name}: nothing computes {mark.key}")
        elif not mark.agrees(computed[mark.key]):
            value = computed[mark.key] * (100 if mark.percent else 1)
            found.append(f"{mark.file.name}: {mark.key} is {value:.6g}, and {mark.written} is written")
    quoted = {mark.key for mark in chosen}
    return found + [f"{key} is computed and stands nowhere" for key in computed if key not in quoted]


def main(arguments: Sequence[str] | None = None) -> None:
    """Check the groups that are named, or all."""
    known = [*ANSWERS, "exam"]
    groups = list(sys.argv[1:] if arguments is None else arguments) or known
    if unknown := set(groups) - set(known):
        raise SystemExit(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    marks = [mark for file in texts() for mark in marks_in(file)]
    computed = compute(groups)
    for mark in marks:
        if mark.key in computed:
            print(
                f"{mark.key}: written {mark.written}{' %' * mark.percent}, computed {computed[mark.key]:.6g}"
            )
    if wrong := faults(marks, computed, groups):
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
