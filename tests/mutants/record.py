"""The file with what became of each mutant, which a run that was stopped goes on with.

A verdict holds as long as its mutant, the file with the bug and the files of its tests stay as they were;
what else these import is not looked at.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .gate import STATUSES, Verdict
from .mutant import Mutant


class Record:
    """Verdicts in a JSON file, a line each.

    Args:
        file: Is written after each verdict; need not exist.
        root: Of the repository.
        mutants: All that there are; the verdicts of others are dropped from the file.
    """

    def __init__(self, file: Path, root: Path, mutants: Iterable[Mutant]) -> None:
        self.file = file
        self.keys = {m.name: fingerprint(root, m) for m in mutants}  # now: a run plants in a copy of today
        rows: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        self.rows = {name: row for name, row in rows.items() if name in self.keys}

    def left(self, mutants: Sequence[Mutant]) -> list[Mutant]:
        """Return those without a verdict that counts: first the new, then the not green, then the changed."""

        def rank(mutant: Mutant) -> int:
            row = self.rows.get(mutant.name)
            if row is None:
                return 0
            if row["status"] not in ("caught", "equivalent"):
                return 1
            return 2 if row["key"] != self.keys[mutant.name] else 3

        return sorted((m for m in mutants if rank(m) < 3), key=rank)

    def add(self, verdict: Verdict) -> None:
        """Write a verdict into the file."""
        row = {
            "file": verdict.file,
            "status": verdict.status,
            "seconds": verdict.seconds,
            "date": datetime.date.today().isoformat(),
            "key": self.keys[verdict.name],
        }
        if verdict.status != "caught":
            row["reason"] = verdict.reason
        self.rows[verdict.name] = row
        lines = [
            f"{json.dumps(name)}: {json.dumps(row, ensure_ascii=False)}"
            for name, row in sorted(self.rows.items(), key=lambda item: (item[1]["file"], item[0]))
        ]
        beside = self.file.with_suffix(".tmp")
        beside.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        beside.replace(self.file)


def fingerprint(root: Path, mutant: Mutant) -> str:
    """Return a hash of a mutant, of the file that it changes and of the files of its tests."""
    digest = hashlib.sha256(repr(mutant).encode())
    for path in (root / mutant.file, *(root / test.partition("::")[0] for test in mutant.tests)):
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def count_by_part(rows: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Count what became of the mutants of each part of the repository.

    Returns:
        By part such as `text_gym/envs` or `agents`: how many were `planted` and came to each status, the
        `seconds` of them all, and the `date` of the oldest verdict.
    """
    parts: dict[str, list[Any]] = {}
    for row in rows.values():
        parts.setdefault(part_of(row["file"]), []).append(row)
    return {
        part: {
            "planted": len(inside),
            **{s: sum(row["status"] == s for row in inside) for s in STATUSES},
            "seconds": sum(row["seconds"] for row in inside),
            "date": min(row["date"] for row in inside),
        }
        for part, inside in sorted(parts.items())
    }


def part_of(file: str) -> str:
    """Return the part of the repository in which a file stands, such as `text_gym/envs` or `agents`."""
    folders = file.split("/")[:-1]
    return "/".join(folders[: 2 if file.startswith("text_gym/") else 1])
