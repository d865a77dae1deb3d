"""Whether two versions of the code compute the same bits: digests of what short runs leave.

    python benchmarks/same_bits.py run --out before.json        # on one commit
    python benchmarks/same_bits.py run --out after.json         # on another
    python benchmarks/same_bits.py compare before.json after.json

Every run is a command line on one thread with a fixed seed; nothing of the package is imported here. A
digest covers each weight of a saved model and each number of a summary that does not depend on the clock.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

_SMALL = ["--episodes", "16", "--seed", "7"]
RUNS: dict[str, list[str]] = {
    **{
        name: ["train", "--algorithm", name, "--iterations", "3", *_SMALL]
        for name in ("ppo", "grpo", "rloo", "reinforce", "best_of_n")
    },
    "ppo, shared critic": ["train", "--iterations", "3", "--critic", "shared", *_SMALL],
    "ppo, separate critic": ["train", "--iterations", "3", "--critic", "separate", *_SMALL],
    "ppo, truncate": ["train", "--iterations", "3", "--limit", "truncate", *_SMALL],
    "ppo, conversation": ["train", "--task", "guess", "--policy", "new", "--iterations", "3", *_SMALL],
    "grpo, conversation with a tool": [
        *("train", "--task", "calculator", "--policy", "new", "--algorithm", "grpo"),
        *("--iterations", "2", *_SMALL),
    ],
    "sb3.ppo": ["train", "--algorithm", "sb3.ppo", "--iterations", "2", "--seed", "7"],
    "sft": [
        *("sft", "--data", "texts.jsonl", "--reference", "completion", "--epochs", "2", "--seed", "7"),
        *("--vocab-size", "300"),
    ],
    "reward train, n-grams": ["reward", "train", "--pairs", "pairs.jsonl", "--members", "2"],
    "reward train, transformer": ["reward", "train", "--pairs", "pairs.jsonl", "--kind", "transformer"],
    "rlhf": ["rlhf", "--rater", "simulated", "--rounds", "1", "--labels-per-round", "40", "--seed", "7"],
    "bench": [
        *("bench", "rewards", "--only", "gold", "pairs-128", "keywords", "--seeds", "0", "--iterations", "2"),
        *("--workers", "1"),
    ],
}
_CLOCK = (
    "seconds",
    "time",
    "date",
    "machine",
    "memory",
    "per_second",
    "path",
    "folder",
    "command",
    "out",
    "mib",
)


def main() -> int:
    """Run or compare, as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--out", type=Path, required=True)
    run.add_argument("--only", nargs="*", choices=RUNS)
    compare = commands.add_parser("compare")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    options = parser.parse_args()
    if options.command == "compare":
        return differences(*(json.loads(f.read_text()) for f in (options.before, options.after)))
    found = {}
    for name in options.only or RUNS:
        found[name] = digests(RUNS[name])
        print(f"{name}: {len(found[name])} digests", flush=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def digests(command: list[str]) -> dict[str, str]:
    """Digest of every model and summary that a command leaves, by its place."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        write_data(Path(folder))
        program = [str(Path(sys.executable).with_name("text-gym")), *command, "--out", str(out)]
        done = subprocess.run(program, env=env, capture_output=True, text=True, check=False, cwd=folder)
        if done.returncode:
            raise SystemExit(f"{' '.join(program)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        return dict(sorted(_digests(out)))


def write_data(folder: Path) -> None:
    """Texts and preference pairs that anybody would write: `texts.jsonl` and `pairs.jsonl`."""
    things, colours = ("mug", "lamp", "desk", "chair", "jacket", "bike"), ("red", "blue", "green", "white")
    with (folder / "texts.jsonl").open("w") as texts, (folder / "pairs.jsonl").open("w") as pairs:
        for i in range(96):
            thing, colour = things[i % 6], colours[i // 6 % 4]
            prompt, good = f"{colour} {thing} {i}", f"A {colour} {thing} for you, number {i}."
            texts.write(json.dumps({"prompt": prompt, "completion": good}) + "\n")
            pairs.write(
                json.dumps({"prompt": prompt, "chosen": good, "rejected": f"Buy {thing}!" * (i % 3 + 1)})
                + "\n"
            )


def _digests(out: Path) -> Iterator[tuple[str, str]]:
    for file in out.rglob("*"):
        place = file.relative_to(out).as_posix()
        if "checkpoints/" in place:
            continue
        if file.suffix == ".safetensors":
            for name, tensor in load_file(file).items():
                yield f"{place}: {name}", hashlib.sha256(tensor.tobytes()).hexdigest()[:16]
        elif file.name in ("summary.json", "results.json", "rounds.jsonl", "evaluation.json"):
            rows = (
                [json.loads(line) for line in file.read_text().splitlines()]
                if file.suffix == ".jsonl"
                else None
            )
            content = without_clock(rows if rows is not None else json.loads(file.read_text()))
            for name, value in _leaves(content):
                yield f"{place}: {name}", repr(value)


def without_clock(content: Any) -> Any:
    """Plain data without what a clock, a machine or a place decides."""
    if isinstance(content, dict):
        return {k: without_clock(v) for k, v in content.items() if not any(c in k for c in _CLOCK)}
    return [without_clock(v) for v in content] if isinstance(content, list) else content


def _leaves(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _leaves(value, f"{name}/{key}")
    elif isinstance(content, list):
        for i, value in enumerate(content):
            yield from _leaves(value, f"{name}/{i}")
    elif not isinstance(content, str):
        yield name, content


def differences(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> int:
    """Print what differs; 1 if anything does."""
    bad = 0
    for name in before:
        own, other = before[name], after.get(name, {})
        wrong = [place for place in own if place in other and own[place] != other[place]]
        gone = [place for place in own if place not in other]
        print(f"{name}: {len(own)} digests, {len(wrong)} differ, {len(gone)} are gone")
        for place in (wrong + gone)[:5]:
            print(f"    {place}: {own[place]} → {other.get(place)}")
        bad += len(wrong)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
