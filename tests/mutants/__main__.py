"""`python -m tests.mutants [NAME…]`: plant the bugs, run their tests, and tell which nobody noticed."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from . import all_mutants
from .gate import GREEN, STATUSES, TIMEOUT, Verdict, run_gate
from .mutant import Mutant
from .record import Record

ROOT = Path(__file__).parent.parent.parent


def chosen(mutants: list[Mutant], names: list[str], packages: list[str]) -> list[Mutant]:
    """Return the mutants of some names, or of all; those in some folders, one after another, or in all."""
    known = {m.name for m in mutants}
    if unknown := [n for n in names if n not in known]:
        raise SystemExit(f"there are no mutants {', '.join(unknown)}; --list names all")
    if names:
        mutants = [m for m in mutants if m.name in names]
    if packages:
        mutants = [m for p in packages for m in mutants if m.file.startswith(p)]
        mutants = list({m.name: m for m in mutants}.values())  # in the order of the folders
    if not mutants:
        raise SystemExit("no mutant stands there")
    return mutants


def show(verdict: Verdict) -> None:
    """Print a mutant's line of the table."""
    print(f"{verdict.status:10}  {verdict.seconds:5.1f} s  {verdict.name}  [{verdict.file}]", flush=True)
    print(f"{'':21}{verdict.reason}", flush=True)


def main() -> int:
    """Run the gate; the exit status is 0 if every mutant is caught, equivalent or skipped."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants to plant (default: all)")
    parser.add_argument("--package", action="append", default=[], help="only those whose file begins so")
    parser.add_argument("--jobs", type=int, default=2, help="copies that work side by side (default: 2)")
    parser.add_argument("--timeout", type=int, default=TIMEOUT, help=f"seconds for one test ({TIMEOUT})")
    parser.add_argument("--json", type=Path, help="write each verdict into this file")
    parser.add_argument(
        "--resume", action="store_true", help="plant only those that --json has no verdict of"
    )
    parser.add_argument("--list", action="store_true", help="print the mutants' names and files, plant none")
    args = parser.parse_args()
    mutants = chosen(all_mutants(), args.names, args.package)
    record = Record(args.json, ROOT, all_mutants()) if args.json is not None else None
    if args.resume:
        if record is None:
            parser.error("--resume needs --json, the file to go on with")
        mutants = record.left(mutants)
    if args.list:
        for m in mutants:
            print(f"{m.name}  [{m.file}]")
        return 0
    print(f"{len(mutants)} mutants", flush=True)
    begin = time.monotonic()

    def tell(verdict: Verdict) -> None:
        show(verdict)
        if record is not None:  # at once, since a run is long
            record.add(verdict)

    verdicts = run_gate(ROOT, mutants, jobs=args.jobs, timeout=args.timeout, tell=tell)
    seconds = time.monotonic() - begin
    count = Counter(v.status for v in verdicts)
    print(f"\n{len(verdicts)} planted in {seconds / 60:.1f} minutes:")
    print(", ".join(f"{count[s]} {s}" for s in STATUSES))
    for v in verdicts:
        if v.status != "caught":
            print(f"{v.status}: {v.name}: {v.reason}")
    return int(any(v.status not in GREEN for v in verdicts))


if __name__ == "__main__":
    sys.exit(main())
