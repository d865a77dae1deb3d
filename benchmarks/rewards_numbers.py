"""Copy the numbers of `bench rewards --task e2e` and none of its texts, and check that no text came along.

    python benchmarks/rewards_numbers.py FOLDER OUT --data devset.csv

The data of E2E is its authors', and a policy fitted to it can write it down again word by word. So what is
published are settings, rows and the summary, whose findings quote a text each: the quotations are cut out.
The page with texts stays with who made it. Exit status 1, and nothing written, if six words in a row of the
data are left.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from tyro.conf import Positional

from text_gym.data import read_rows
from text_gym.utils.json_files import write_json

RUN = 6  # words in a row that are nobody's by chance
QUOTED = re.compile(r" A text(?: \([^“]*\))?: “.*”$|[;,]? e\.g\. “[^”]*”", re.DOTALL)


@dataclass(frozen=True)
class Options:
    """Copy numbers only.

    Args:
        folder: Of the benchmark.
        out: Folder to write.
        data: The file it read.
    """

    folder: Positional[Path]
    out: Positional[Path]
    data: str


def numbers(folder: Path) -> dict[str, Any]:
    """Return the contents of the files that hold numbers, by name, with quotations cut out."""
    names = ("config.json", "results.json", "summary.json")
    found: dict[str, Any] = {n: json.loads((folder / n).read_text(encoding="utf-8")) for n in names}
    for finding in found["summary.json"]["findings"]:
        finding["statement"] = QUOTED.sub("", finding["statement"])
    words = found["config.json"]["command"].split()
    found["config.json"]["command"] = " ".join(Path(word).name for word in words)  # no folders
    return found


def leaked(text: str, data: str) -> list[str]:
    """Return the runs of six words of the data that stand in a text."""
    held = set(_runs(text))
    return sorted({run for row in read_rows(data) for v in row.values() for run in _runs(str(v))} & held)


def _runs(text: str) -> Iterator[str]:
    words = re.findall(r"\w+", text.lower())
    return (" ".join(words[i : i + RUN]) for i in range(len(words) - RUN + 1))


def main(options: Options) -> int:
    """Copy, unless a text would come along."""
    found = numbers(options.folder)
    table = (options.folder / "results.csv").read_text(encoding="utf-8")
    left = leaked("\n".join([json.dumps(found, ensure_ascii=False), table]), options.data)
    if left:
        print(f"{len(left)} runs of {RUN} words of the data are left, nothing was written: {left[0]!r}")
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    for name, content in found.items():
        write_json(options.out / name, content)
    (options.out / "results.csv").write_text(table, encoding="utf-8")
    print(f"{options.out}: {len(found['results.json'])} rows, no six words in a row of {options.data}")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
