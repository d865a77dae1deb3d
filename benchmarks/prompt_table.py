"""CPU seconds and memory that an environment of many prompts takes to make, each case in a fresh process.

    OMP_NUM_THREADS=1 python benchmarks/prompt_table.py [--prompts 1000000] [--json FILE]

The prompts have 30 characters or so, and one of them has 2,048 tokens. `memory` is what the process's peak
grew by beyond the prompts themselves, in MB; `table` is the sum of the table's arrays. Bounds for a million:
10 s and 1,000 MB; the seconds of BPE are those of `tokenizers` and have none. The cases: strings in a list;
the same with a trained BPE; rows of a JSONL file, read with `prompts_from` (its own columns); a
`datasets.Dataset` on the disk, if that package is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from text_gym.data import iter_rows, prompts_from
from text_gym.envs.vector import TextVectorEnv
from text_gym.tokenizer import ByteTokenizer, PretrainedTokenizer, Tokenizer

CASES = ("bytes", "BPE", "jsonl", "dataset")
LONGEST = 2048
SECONDS, MEGABYTES = 10.0, 1000.0


def texts(count: int) -> Iterator[str]:
    """Prompts of about 30 characters, the middle one of them of `LONGEST` bytes."""
    for i in range(count):
        yield "x" * LONGEST if i == count // 2 else f"Describe product {i:07d} now:"


def peak() -> float:
    """The most memory that this process has held, in MB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10) * 1.048576


def measure(case: str, count: int, folder: Path) -> dict[str, Any]:
    """Make an environment of one kind of prompts, begin an episode in 64 rows, and say what it took."""
    tokenizer: Tokenizer = ByteTokenizer()
    if case == "BPE":
        tokenizer = PretrainedTokenizer.train(list(texts(2000)), 512)
    given: Any = None
    if case == "dataset":
        import datasets

        given = datasets.Dataset.from_json(str(folder / "prompts.jsonl"), cache_dir=str(folder))
    elif case != "jsonl":
        given = list(texts(count))
    before, begun = peak(), time.process_time()
    if case == "jsonl":
        given = prompts_from(iter_rows(folder / "prompts.jsonl"))
    read, seconds_read = peak(), time.process_time() - begun
    env = TextVectorEnv(given, tokenizer, len, 8, num_envs=64, max_prompt_tokens=None)
    env.reset(seed=0)
    seconds = time.process_time() - begun - seconds_read
    table = [a for a in vars(env.batch.table).values() if isinstance(a, np.ndarray) and a.base is None]
    return {
        "case": case,
        "prompts": count,
        "seconds_reading": seconds_read,
        "memory_reading": read - before,
        "seconds": seconds,
        "memory": peak() - read,
        "table": sum(a.nbytes for a in table) / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--prompts", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case is not None:
        print(json.dumps(measure(given.case, given.prompts, given.folder)))
        return
    rows, missed, cases = (
        [],
        list[str](),
        [c for c in CASES if c != "dataset" or importlib.util.find_spec("datasets")],
    )
    print(f"{'':10}{'reading':>20}{'environment':>24}{'table':>10}")
    with tempfile.TemporaryDirectory() as folder:
        with (Path(folder) / "prompts.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(
                f"{json.dumps({'prompt': text, 'answer': 'a'})}\n" for text in texts(given.prompts)
            )
        for case in cases:
            words = [__file__, "--case", case, "--folder", folder, "--prompts", str(given.prompts)]
            said = subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True).stdout
            rows.append(row := json.loads(said.splitlines()[-1]))
            fits = row["memory"] <= MEGABYTES and (case == "BPE" or row["seconds"] <= SECONDS)
            missed += [] if fits else [case]
            print(
                f"{case:10}{row['seconds_reading']:8.1f} s{row['memory_reading']:7.0f} MB"
                f"{row['seconds']:12.1f} s{row['memory']:7.0f} MB{row['table']:7.0f} MB"
                f"{'' if fits else '  TOO MUCH'}",
                flush=True,
            )
    if given.json is not None:
        from machine import save  # it loads PyTorch

        save(given.json, rows)
    raise SystemExit(bool(missed))


if __name__ == "__main__":
    main()
