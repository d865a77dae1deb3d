"""Print the notes of a release, after checking that everything says the same version.

python ci/notes.py v0.2.0

The tag, pyproject.toml, CITATION.cff and a dated heading of CHANGELOG.md agree, nothing is left under
Unreleased, and OWNER, which stands for the publisher's name in addresses, has been replaced.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WITH_OWNER = ("pyproject.toml", "CITATION.cff", "README.md")  # the files that name the repository


def faults(root: Path, version: str) -> list[str]:
    """Return what stands in the way of a release, in words."""
    found = []
    for file, pattern in (("pyproject.toml", r'^version = "(.*)"$'), ("CITATION.cff", r"^version: (.*)$")):
        said = re.search(pattern, (root / file).read_text(encoding="utf-8"), re.MULTILINE)
        if said is None or said[1] != version:
            found.append(f"{file} says version {said[1] if said else 'nothing'}, not {version}")
    for file in WITH_OWNER:
        if "OWNER" in (root / file).read_text(encoding="utf-8"):
            found.append(f"{file} still has OWNER where the publisher's name belongs")
    if not notes(root, version):
        found.append(f"CHANGELOG.md has no heading `## [{version}] - YYYY-MM-DD` with notes under it")
    if notes(root, "Unreleased"):
        found.append(f"CHANGELOG.md has entries under Unreleased; move them under {version}")
    return found


def notes(root: Path, version: str) -> str:
    """Return what CHANGELOG.md has under a version's heading; empty if there is none."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    date = "" if version == "Unreleased" else r" - \d{4}-\d\d-\d\d"
    found = re.search(rf"^## \[{re.escape(version)}\]{date}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else ""


def main() -> int:
    """Check and print."""
    if len(sys.argv) != 2:
        print("usage: python ci/notes.py vX.Y.Z", file=sys.stderr)
        return 2
    version = sys.argv[1].removeprefix("v")
    found = faults(ROOT, version)
    print("\n".join(found), file=sys.stderr)
    if not found:
        print(notes(ROOT, version))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
