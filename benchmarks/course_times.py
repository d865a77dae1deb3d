"""Measure what each lab costs: its public tests and its pictures, solved, in a student's folder.

python benchmarks/course_times.py --out benchmarks/results/course_times.json [--labs LAB …]

Each runs in a process of its own, one after another, on at most two threads. Wall-clock time counts only on a
machine that does nothing else; the load is written beside it, and processor time tells of a busy one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from machine import save

from course.labs import every_lab
from course.make import make_student, solution

THREADS = 2


def measure(command: Sequence[str], folder: Path) -> dict[str, float]:
    """Run a command in a folder; return its seconds on the clock and of processor time.

    Raises:
        SystemExit: It failed; what it printed last is shown.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        list(command), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    seconds, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} in {folder.name}:\n{(done.stdout + done.stderr)[-3000:]}")
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(seconds, 1), "processor_seconds": round(spent, 1)}


def measure_labs(folder: Path, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Measure the labs in a folder that is made for it.

    Args:
        folder: Where; it must not be there yet.
        names: Of labs; all if empty.
    """
    make_student(folder)
    rows = []
    for lab in every_lab():
        if names and lab.name not in names:
            continue
        (folder / lab.name / "lab.py").write_text(solution(lab.read("lab.py")), encoding="utf-8")
        load = os.getloadavg()[0]
        tests = measure([sys.executable, "-m", "pytest", "-q", lab.name], folder)
        pictures = measure([sys.executable, "pictures.py"], folder / lab.name)
        rows.append({"lab": lab.name, "tests": tests, "pictures": pictures, "load": round(load, 1)})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--labs", nargs="+", default=[], metavar="LAB", help="names of labs; all if left out")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="text-gym-times-") as folder:
        rows = measure_labs(Path(folder) / "labs", options.labs)
    save(options.out, rows)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
