"""Submissions: folders of students, from which single files are taken, with care, and nothing else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from course.imports import import_of_answers

LARGEST = 1 << 20  # bytes of a file


def take(submission: Path, lab: str, into: Path, name: str = "lab.py") -> tuple[Path | None, str]:
    """Copy a Python file that was handed in for a lab into a folder of the grader's.

    Args:
        submission: A student's folder; it has a folder for each lab.
        lab: Name of the lab's folder.
        into: Where the copy goes.
        name: Of the file.

    Returns:
        The copy and nothing, or None and why there is none: it is missing, too large, a link (which could
        lead to somebody else's file), no file, or it imports the answers.
    """
    file = submission / lab / name
    if not os.path.lexists(file.parent):
        return None, f"not handed in: there is no {lab}/{name}"
    if file.parent.is_symlink():
        return None, f"{lab} is a link, and links are not followed"
    try:
        # O_NONBLOCK: opening a pipe would wait for its writer.
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        with open(os.open(file, flags), "rb") as source:
            if not stat.S_ISREG(os.fstat(source.fileno()).st_mode):
                return None, f"{lab}/{name} is no file"
            text = source.read(LARGEST + 1)
    except FileNotFoundError:
        return None, f"not handed in: there is no {lab}/{name}"
    except OSError as error:
        reason = "it is a link, and links are not followed" if file.is_symlink() else error.strerror
        return None, f"{lab}/{name} cannot be read: {reason}"
    if len(text) > LARGEST:
        return None, f"{lab}/{name} has more than {LARGEST:,} bytes"
    if why := import_of_answers(text, name):
        return None, why
    copy = into / lab / name
    copy.parent.mkdir(parents=True)
    copy.write_bytes(text)
    return copy, ""


def as_cell(text: str) -> str:
    """Put an apostrophe before a cell of a table that a spreadsheet would take for a formula.

    >>> as_cell("=cmd()"), as_cell("ada")
    ("'=cmd()", 'ada')
    """
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
