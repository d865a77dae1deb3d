"""Print the notes of a release, after checking that everything says the same version.

python ci/notes.py v0.2.0 [--move YYYY-MM-DD] [--unpublished]

The tag, pyproject.toml, CITATION.cff and a dated heading of CHANGELOG.md agree, nothing is left under
Unreleased, and OWNER, which stands for the publisher's name in addresses, has been replaced. `--move` first
puts what is under Unreleased under the version and the date; `--unpublished` lets OWNER stay, for a tag of a
repository that nobody has published yet. `git tag -a v0.2.0 --cleanup=verbatim -F FILE` takes the notes as
they are: without --cleanup git drops headings as comments.
"""

from __future__ import annotations

import argparse
import re
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WITH_OWNER = ("pyproject.toml", "CITATION.cff", "README.md")  # the files that name the repository


def faults(root: Path, version: str, *, published: bool = True) -> list[str]:
    """Return what stands in the way of a release, in words; OWNER does only if it is published."""
    found = []
    for file, pattern in (("pyproject.toml", r'^version = "(.*)"$'), ("CITATION.cff", r"^version: (.*)$")):
        said = re.search(pattern, (root / file).read_text(encoding="utf-8"), re.MULTILINE)
        if said is None or said[1] != version:
            found.append(f"{file} says version {said[1] if said else 'nothing'}, not {version}")
    for file in WITH_OWNER:
        if published and "OWNER" in (root / file).read_text(encoding="utf-8"):
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


def move(root: Path, version: str, day: date) -> None:
    """Put what is under Unreleased in CHANGELOG.md under a version and a day.

    Raises:
        SystemExit: There is nothing under Unreleased, or the version is there already.
    """
    if notes(root, version):
        raise SystemExit(f"CHANGELOG.md has {version} already")
    if not notes(root, "Unreleased"):
        raise SystemExit("CHANGELOG.md has nothing under Unreleased")
    file = root / "CHANGELOG.md"
    text = file.read_text(encoding="utf-8")
    headings = f"## [Unreleased]\n\n## [{version}] - {day.isoformat()}\n"
    file.write_text(text.replace("## [Unreleased]\n", headings, 1), encoding="utf-8", newline="\n")


def main() -> int:
    """Move if asked to, check, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tag", help="vX.Y.Z")
    parser.add_argument("--move", type=date.fromisoformat, metavar="YYYY-MM-DD")
    parser.add_argument("--unpublished", action="store_true", help="OWNER may stay in addresses")
    options = parser.parse_args()
    version = options.tag.removeprefix("v")
    if options.move is not None:
        move(ROOT, version, options.move)
    found = faults(ROOT, version, published=not options.unpublished)
    if found:
        print("\n".join(found), file=sys.stderr)
        return 1
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    print(notes(ROOT, version))
    return 0


if __name__ == "__main__":
    sys.exit(main())
