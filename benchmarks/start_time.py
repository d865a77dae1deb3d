"""How long a user waits: for `--help` of every command, for `import text_gym`, for the first line of `train`.

    python benchmarks/start_time.py [--repeats 5] [--json FILE]

Wall seconds of a fresh process each, the least of several, since what else the machine does only adds to it.
Bounds: 0.5 s for `text-gym --help`, 1 s for a command's, 0.7 s for the import, 2 s for the first line of
`train`. What is imported on the way: `python -X importtime -m text_gym train --help`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from text_gym.cli.main import COMMANDS

BOUNDS = {"text-gym --help": 0.5, "import text_gym": 0.7, "first line of text-gym train": 2.0}
OF_A_COMMAND = 1.0


def seconds_of(words: list[str], folder: str, *, first_line: bool = False) -> float:
    """Wall seconds until a process ends, or until it has said a line (then it is ended)."""
    begun = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder) as process:
        assert process.stdout is not None
        if first_line:
            process.stdout.readline()
            seconds = time.perf_counter() - begun
            process.kill()
            return seconds
        said, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{' '.join(words)} failed:\n{said.decode(errors='replace')}")
    return time.perf_counter() - begun


def command() -> list[str]:
    """The words that run text-gym with this interpreter: the console script, if it is installed beside it."""
    script = Path(sys.executable).with_name("text-gym.exe" if os.name == "nt" else "text-gym")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "text_gym"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    waits: dict[str, list[str]] = {"text-gym --help": [*command(), "--help"]}
    waits |= {f"text-gym {name} --help": [*command(), *name.split(), "--help"] for name in COMMANDS}
    waits["import text_gym"] = [sys.executable, "-c", "import text_gym"]
    waits["first line of text-gym train"] = [*command(), "train", "--out", "run"]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, words in waits.items():
            first = name.startswith("first line")
            least = min(seconds_of(words, folder, first_line=first) for _ in range(given.repeats))
            bound = BOUNDS.get(name, OF_A_COMMAND)
            rows.append({"wait": name, "seconds": round(least, 3), "bound": bound})
            print(
                f"{name:32}{least:6.2f} s  (at most {bound}){'' if least <= bound else '  TOO LONG'}",
                flush=True,
            )
    if given.json is not None:
        from machine import save  # it loads PyTorch

        save(given.json, rows)
    raise SystemExit(any(row["seconds"] > row["bound"] for row in rows))


if __name__ == "__main__":
    main()
