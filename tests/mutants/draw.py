"""Draw lines of logic at random, where somebody with fresh eyes is to write a bug.

`python -m tests.mutants.draw 48` prints places in the order in which they were drawn. It writes no bug: a
person does.
"""

from __future__ import annotations

import argparse
import ast
import random
import re
import subprocess
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FOLDERS = ("text_gym", "agents", "reward_models")
COMMENT = re.compile(r"\s*(//|/\*|\*|#)")
SOMETHING_DONE = re.compile(r"[=<>?]|\breturn\b|\w\(")  # in C and JavaScript


def lines_of_python(source: str) -> list[int]:
    """Return the numbers of the lines where a statement in a function begins, from 1, without docstrings."""
    found = set()
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
                if isinstance(node, ast.stmt) and not text and not isinstance(node, ast.FunctionDef):
                    found.add(node.lineno)
    return sorted(found)


def lines_of_others(source: str) -> list[int]:
    """Return the numbers of the lines of C or JavaScript that do something, from 1."""
    lines = enumerate(source.splitlines(), 1)
    return [i for i, line in lines if not COMMENT.match(line) and SOMETHING_DONE.search(line)]


def places(root: Path) -> list[tuple[str, int]]:
    """Return the file and number of each line of logic of the package."""
    found = []
    listed = subprocess.check_output(["git", "ls-files", *FOLDERS], cwd=root, text=True)
    for name in sorted(listed.split()):
        if name.endswith(".py"):
            numbers = lines_of_python((root / name).read_text(encoding="utf-8"))
        elif name.endswith((".c", ".h", ".js")):
            numbers = lines_of_others((root / name).read_text(encoding="utf-8"))
        else:
            continue
        found += [(name, number) for number in numbers]
    return found


def draw(found: list[tuple[str, int]], count: int, seed: int) -> list[tuple[str, int]]:
    """Draw `count` places without replacement, each line as likely as any other, at most two in a file."""
    random.Random(seed).shuffle(found)
    drawn: list[tuple[str, int]] = []
    per_file: Counter[str] = Counter()
    for name, number in found:
        if per_file[name] < 2 and len(drawn) < count:
            per_file[name] += 1
            drawn.append((name, number))
    return drawn


def main() -> None:
    """Print the places."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.draw", description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=20261129)
    parser.add_argument("--only", default="", help="a regular expression that a file's name has to match")
    args = parser.parse_args()
    found = [place for place in places(ROOT) if re.search(args.only, place[0])]
    for name, number in draw(found, args.count, args.seed):
        line = (ROOT / name).read_text(encoding="utf-8").splitlines()[number - 1]
        print(f"{name}:{number}: {line.strip()}")


if __name__ == "__main__":
    main()
