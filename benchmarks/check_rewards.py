"""Recompute from `results.csv` alone what `summary.json` says of gold at the end, and say whether they agree.

    python benchmarks/check_rewards.py benchmarks/results/rewards

It imports nothing of text_gym: means, worst runs, failures and intervals are worked out here once more, the
interquartile mean by sorting, Student's interval with SciPy's t test over the means of seeds, the bootstrap
by going through every resample of the seeds. Exit status 1 if a number differs. What rests on curves or
texts (points within a budget, falls from the best point, fits, symptoms) cannot be checked so.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

TOLERANCE = 1e-9
MOST_SEEDS = 5  # up to here the bootstrap takes every resample once
Runs = list[dict[str, Any]]


def read(folder: Path) -> Runs:
    with (folder / "results.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def number(text: str | None) -> float:
    return float(text) if text else math.nan


def trimmed(values: Sequence[float]) -> float:
    """Interquartile mean: a quarter of the values, rounded down, is left out at each end."""
    ordered = sorted(values)
    cut = len(ordered) // 4
    return math.fsum(ordered[cut : len(ordered) - cut]) / (len(ordered) - 2 * cut)


def every_resample(seeds: Mapping[str, list[float]]) -> tuple[float, float]:
    """The 2.5 % and 97.5 % points of the trimmed mean over all ways to draw as many seeds."""
    drawn = sorted(
        trimmed([v for seed in choice for v in seeds[seed]])
        for choice in itertools.product(seeds, repeat=len(seeds))
    )
    low, high = (drawn[math.ceil(q * len(drawn) - 1e-9) - 1] for q in (0.025, 0.975))
    return low, high


def of_runs(runs: Runs) -> dict[str, Any]:
    """All about gold at the end of the runs of a design at one coefficient, by one or several optimisers."""
    golds = [number(r["gold"]) for r in runs]
    seeds: dict[str, list[float]] = defaultdict(list)
    strata: dict[str, set[str]] = defaultdict(set)
    for r in runs:
        seeds[r["seed"]].append(number(r["gold"]))
        strata[r["optimiser"]].add(r["seed"])
    found: dict[str, Any] = {
        "value": trimmed(golds),
        "n": len(golds),
        "worst": min(golds),
        "below_start": sum(g < number(r["gold_start"]) for g, r in zip(golds, runs, strict=True)),
        "seeds": len(seeds),
        "mean": math.fsum(
            math.fsum(number(r["gold"]) for r in runs if r["optimiser"] == o) / len(own) / len(strata)
            for o, own in strata.items()
        ),
    }
    if all(own == set(seeds) for own in strata.values()) and len(seeds) > 1:  # else there is more to it
        means = np.array([math.fsum(v) / len(v) for v in seeds.values()])
        if np.ptp(means) > 1e-12:
            low, high = stats.ttest_1samp(means, 0.0).confidence_interval(0.95)
            found["student"] = [float(low), float(high)]
        if len(seeds) <= MOST_SEEDS:
            found["ci95"] = list(every_resample(seeds))
    return found


def pairs(rows: Runs, summary: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], Runs]]:
    """Name, what the summary says, and the rows, of every setting and of every design and coefficient."""

    def beta(row: Mapping[str, str]) -> float | None:
        return number(row["kl_coefficient"]) if row["kl_coefficient"] else None

    for s in summary["settings"]:
        key = (s["task"], s["design"], s["optimiser"], s["kl_coefficient"])
        own = [r for r in rows if (r["task"], r["design"], r["optimiser"], beta(r)) == key]
        yield " · ".join(map(str, key)), s["measures"]["gold"], own
    for d in summary["designs"]:
        for end in d["ends"]:
            trained = [r for r in rows if (r["task"], r["design"]) == (d["task"], d["name"])]
            own = [r for r in trained if beta(r) == end["kl_coefficient"]]
            yield f"{d['task']} · {d['name']} · β {end['kl_coefficient']:g}", end["gold"], own


def differences(rows: Runs, summary: Mapping[str, Any]) -> tuple[int, list[str]]:
    """How many numbers were compared, and those that differ."""
    compared, found = 0, []
    if summary["cells"] != len(rows):
        found.append(f"{summary['cells']} cells in the summary, {len(rows)} rows")
    for name, said, own in pairs(rows, summary):
        if not own:
            found.append(f"{name}: no such rows")
            continue
        for key, value in of_runs(own).items():
            expected = np.atleast_1d(np.array(value, dtype=np.float64))
            given = np.atleast_1d(np.array(said.get(key, math.nan), dtype=np.float64))
            compared += len(expected)
            if given.shape != expected.shape or not np.allclose(given, expected, rtol=0, atol=TOLERANCE):
                found.append(f"{name}: {key} is {said.get(key)}, recomputed {value}")
    return compared, found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Recompute summary.json's gold from results.csv alone.")
    parser.add_argument("folder", type=Path, help="Folder of a benchmark of rewards.")
    folder = parser.parse_args(argv).folder
    rows = read(folder)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    compared, found = differences(rows, summary)
    for line in found:
        print(ascii(line)[1:-1])  # names are of users
    verdict = f"{len(found)} differ" if found else "all agree"
    print(f"{compared} numbers of {len(rows)} rows recomputed: {verdict}")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
