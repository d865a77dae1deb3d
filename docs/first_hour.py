"""Replay docs/first-hour.md, or another page, in an empty folder; hold what its commands print against it.

python docs/first_hour.py --folder DIR [--python PYTHON] [--page PAGE]

The page is the script. A block with `title="FILE"` becomes that file. A line with `$ ` in a `console` block
is run, and the lines below it must appear in what it prints, in that order. Numbers differ from machine to
machine and are not compared; `…` stands for anything. The rater's console is answered by `mark`, the taste
that the page describes. In commands, `$REPOSITORY` is this checkout.
"""

from __future__ import annotations

import argparse
import codecs
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parent / "first-hour.md"
BLOCK = re.compile(r"^```(?P<kind>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$", re.M | re.S)
NUMBER = re.compile(r"[+−-]?\d[\d,]*(?:\.\d+)?")
ASKED = re.compile(r"^\w+ +1 +2 +3 +4 +5 +> $", re.MULTILINE)


@dataclass(frozen=True)
class Step:
    """A file to write, or a command to run with the lines that it should print."""

    kind: str  # "file" or "command"
    what: str
    text: str

    def missing(self, printed: str) -> str | None:
        """Return the first line of the page that the command did not print, in the page's order, or None."""
        found = iter([_plain(line) for line in printed.splitlines()])
        for line in self.text.splitlines():
            # Behind two spaces stands a text of a policy, which rounding makes another one elsewhere.
            said = line.partition(":")[0] if line.startswith("  ") else line
            parts = [_plain(part) for part in said.split("…") if part.strip()]
            if parts and not any(all(part in other for part in parts) for other in found):
                return line
        return None


def steps(page: str) -> Iterator[Step]:
    r"""Yield what a page says to do, from top to bottom.

    >>> [s.what for s in steps('```python title="a.py"\nx = 1\n```\n```console\n$ ls\na.py\n```\n')]
    ['a.py', 'ls']
    """
    for block in BLOCK.finditer(page):
        if block["title"]:
            yield Step("file", block["title"], block["text"])
        elif block["kind"] == "console":
            for part in re.split(r"^\$ ", block["text"], flags=re.MULTILINE)[1:]:
                command, _, printed = part.partition("\n")
                yield Step("command", command, printed)


def mark(text: str) -> int:
    """Return the mark, 1 to 5, of a person who likes short texts.

    >>> mark("one two three"), mark("word " * 40)
    (5, 1)
    """
    return sum(len(text.split()) < words for words in (24, 27, 30, 33)) + 1


def run(command: str, environment: dict[str, str]) -> tuple[str, int]:
    """Run a command in the shell, answer what it asks, and return what it printed and its exit status."""
    process = subprocess.Popen(
        command,
        shell=True,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    printed = ""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a piece may end within a character
    while read := os.read(process.stdout.fileno(), 65536):
        piece = decoder.decode(read)
        print(piece, end="", flush=True)
        printed += piece
        question = printed[printed.rfind("─ question") :]
        if ASKED.search(question.rpartition("\n")[2]):
            lines = re.findall(r"^│ (.*?) *│$", question.partition("─ text ")[2], re.MULTILINE)
            process.stdin.write(f"{mark(' '.join(lines))}\n".encode())
            process.stdin.flush()
    return printed, process.wait()


def _plain(line: str) -> str:
    return " ".join(NUMBER.sub("#", line).split())


def main() -> int:
    """Run the steps; return 1 at the first that fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="where to work; made, and must be empty")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="of the environment to use")
    parser.add_argument("--page", type=Path, default=PAGE, help="to replay")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if any(options.folder.iterdir()):
        parser.error(f"{options.folder} is not empty")
    scripts = options.python.absolute().parent
    path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": "100", "REPOSITORY": str(PAGE.parents[1].resolve())}
    page, name = options.page.read_text(encoding="utf-8"), options.page.name
    os.chdir(options.folder)
    start = time.monotonic()
    for step in steps(page):
        if step.kind == "file":
            Path(step.what).write_text(step.text, encoding="utf-8")
            continue
        print(f"\n[{time.monotonic() - start:.0f} s] $ {step.what}", flush=True)
        printed, status = run(step.what, environment)
        missing = step.missing(printed)
        if status or missing is not None:
            print(f"\n{name}: `{step.what}` ended with {status}; not printed: {missing!r}")
            return 1
    spent = os.times()
    print(
        f"\n{name} holds; {time.monotonic() - start:.0f} s, "
        f"{spent.children_user + spent.children_system:.0f} s of processor time"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
