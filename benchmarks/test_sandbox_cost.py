"""The cost of the sandbox for 64 texts: `pytest benchmarks/test_sandbox_cost.py -n 0 --benchmark-enable`.

    OMP_NUM_THREADS=1 python benchmarks/test_sandbox_cost.py

prints a table instead: the same function called directly and in its sandbox, in turns, after the start.
Wall-clock time of two processes: on a machine whose cores are taken it measures the others' work; see the
load it prints.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from text_gym import Episode, load_task
from text_gym.reward_models import load_reward
from text_gym.utils.sandbox import Sandbox

TURNS = 300
FILE = """
def words(completion):
    return float(len(completion.split()))

def plain(texts):
    return [words(text) for text in texts]
"""
TEXT = "A sturdy lamp of brushed steel that stands well on any desk, and lasts."


def contestants(folder: Path) -> dict[str, dict[str, Callable[[], object]]]:
    """Calls by what is scored, direct and sandboxed."""
    file = folder / "mine.py"
    file.write_text(FILE)
    task = load_task("products")
    episodes = [Episode.of(task.prompts[i % len(task.prompts)], TEXT, task.tokenizer) for i in range(64)]
    sources = {
        name: load_reward(f"{file}:words", sandbox=name == "sandboxed") for name in ("direct", "sandboxed")
    }
    texts, sandbox = [TEXT] * 64, Sandbox(f"{file}:plain")
    return {
        "a reward source, 64 episodes": {n: lambda s=s: s(episodes) for n, s in sources.items()},  # type: ignore[misc]
        "a function, 64 texts": {
            "direct": lambda: [float(len(text.split())) for text in texts],
            "sandboxed": lambda: sandbox(texts),
        },
    }


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Callable[[], object]]]:
    return contestants(tmp_path_factory.mktemp("cost"))


@pytest.mark.parametrize("way", ["direct", "sandboxed"])
@pytest.mark.parametrize("what", ["a reward source, 64 episodes", "a function, 64 texts"])
def test_cost(benchmark, calls: dict[str, dict[str, Callable[[], object]]], what: str, way: str) -> None:  # type: ignore[no-untyped-def]
    calls[what][way]()
    benchmark(calls[what][way])


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        for what, ways in contestants(Path(folder)).items():
            times: dict[str, list[float]] = {way: [] for way in ways}
            for turn in range(TURNS + 20):
                for way, call in ways.items():
                    start = time.perf_counter()
                    call()
                    if turn >= 20:
                        times[way].append(1e3 * (time.perf_counter() - start))
            row = ", ".join(f"{w} {statistics.median(t):.3f} (least {min(t):.3f})" for w, t in times.items())
            load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
            print(f"{what}: {row} ms, medians of {TURNS}; {load}")


if __name__ == "__main__":
    main()
