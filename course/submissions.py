"""Submissions: folders of students, from which one file a lab is taken, with care, and nothing else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

LARGEST = 1 << 20  # bytes of a lab.py


def take(submission: Path, lab: str, into: Path) -> tuple[Path | None, str]:
    """Copy the lab.py that was handed in for a lab into a folder of the grader's.

    Args:
        submission: A student's folder; it has a folder for each lab, or the lab.py of the only lab in it.
        lab: Name of the lab's folder.
        into: Where the copy goes.

    Returns:
        The copy and nothing, or None and why there is none: it is missing, too large, a link (which could
        lead to somebody else's file), or no file.
    """
    file = submission / lab / "lab.py"
    if not os.path.lexists(file.parent):
        return None, f"not handed in: there is no {lab}/lab.py"
    if file.parent.is_symlink():
        return None, f"{lab} is a link, and links are not followed"
    try:
        # O_NONBLOCK: opening a pipe would wait for its writer.
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        with open(os.open(file, flags), "rb") as source:
            if not stat.S_ISREG(os.fstat(source.fileno()).st_mode):
                return None, f"{lab}/lab.py is no file"
            text = source.read(LARGEST + 1)
    except FileNotFoundError:
        return None, f"not handed in: there is no {lab}/lab.py"
    except OSError as error:
        reason = "it is a link, and links are not followed" if file.is_symlink() else error.strerror
        return None, f"{lab}/lab.py cannot be read: {reason}"
    if len(text) > LARGEST:
        return None, f"{lab}/lab.py has more than {LARGEST:,} bytes"
    copy = into / lab / "lab.py"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(text)
    return copy, ""
