"""Hurts runs of several processes at random moments: all must stop, soon and by name, and go on afterwards.

    python -m tests.ranks --count 100 --seed 0 --json benchmarks/results/ranks.json

A rank is killed (-9), gets NaN weights, a reward that raises or hangs, SIGTERM, or (rank 0) a full disk, as
two or three processes train by PPO or GRPO. Each trial asks: have all processes ended within 30 seconds? Did
each name the cause if it could? Is there a checkpoint, and does the run, resumed, end with the weights of one
that nobody hurt, bit by bit? Two trials run side by side.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .hurt import KINDS
from .start import finish, fork

LIMIT, SOON = 10, 30  # seconds that a rank waits for another, and in which all have to be gone after a fault
NAMES = {
    "kill": "is gone",
    "nan": "NonFiniteError",
    "raise": "RewardError",
    "sigterm": "SystemExit: 143",
    "hang": "did not answer|hangs and is ended",
    "disk": "File too large",
}
HURT = "tests.ranks.hurt"
WEIGHTS = Path("policy") / "model.safetensors"


def trial(seed: int, number: int, clean: dict[tuple[int, int], str]) -> dict[str, Any]:
    """Hurt one run, resume it, and say what was wrong, if anything."""
    rng = random.Random(f"{seed} {number}")
    kind, ranks = rng.choice(KINDS[:-1]), rng.choice((2, 3))
    rank, moment = 0 if kind == "disk" else rng.randrange(ranks), rng.randrange(1, 9)
    found: dict[str, Any] = {"kind": kind, "ranks": ranks, "rank": rank, "moment": moment, "wrong": []}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        arguments = [str(folder), kind, str(rank), str(moment)]
        ended = finish(fork(ranks, HURT, arguments, TEXT_GYM_WORLD_LIMIT=str(LIMIT)), 240)
        said = [text for _, text in ended]
        at = [float(time_) for text in said for time_ in re.findall(r"^@ ([\d.]+)", text, re.MULTILINE)]
        found["seconds"] = round(time.time() - min(at), 1) if at else None
        if any(status is None for status, _ in ended):
            found["wrong"].append("a process had to be killed")
        if not at or found["seconds"] > SOON:
            found["wrong"].append("not all were gone in time")
        named = [
            bool(re.search(NAMES[kind], text)) for r, text in enumerate(said) if (kind, r) != ("kill", rank)
        ]
        if not all(named):
            found["wrong"] += ["a process did not name the cause", *said]
        again = finish(fork(ranks, HURT, [str(folder), "none", "0", str(moment), "--resume"]), 240)
        if any(status for status, _ in again):
            found["wrong"] += ["it could not be resumed", *(text[-1000:] for _, text in again)]
        elif digest(folder) != clean[ranks, moment % 2]:
            found["wrong"].append("the resumed run ended elsewhere")
    return found


def digest(folder: Path) -> str:
    """A hash of a run's final weights."""
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


def unhurt(ranks: int, moment: int) -> str:
    """The weights that a run ends with if nobody hurts it."""
    with tempfile.TemporaryDirectory() as place:
        ended = finish(fork(ranks, HURT, [f"{place}/run", "none", "0", str(moment)]), 240)
        if any(status for status, _ in ended):
            raise SystemExit("\n".join(text for _, text in ended))
        return digest(Path(place) / "run")


def main() -> int:
    """Run the trials and print what was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.ranks", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    began = time.time()
    clean = {(ranks, odd): unhurt(ranks, 8 + odd) for ranks in (2, 3) for odd in (0, 1)}
    found = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for row in pool.map(lambda i: trial(options.seed, i, clean), range(options.count)):
            found.append(row)
            if row["wrong"]:
                print(row, flush=True)
            if options.json:
                rows = {"seed": options.seed, "minutes": round((time.time() - began) / 60, 1)}
                options.json.write_text(json.dumps({**rows, "trials": found}, indent=1) + "\n")
    counts = Counter(row["kind"] for row in found)
    wrong = sum(bool(row["wrong"]) for row in found)
    slowest = max(row["seconds"] or 0 for row in found)
    print(f"{len(found)} faults {dict(counts)}: {wrong} wrong; all gone after {slowest} s at most")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
