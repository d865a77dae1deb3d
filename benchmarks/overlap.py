"""What `overlap_scoring` saves: rollouts scored by a judge that takes 200 ms a text, or 200 ms a batch.

    python benchmarks/overlap.py [--json FILE]

The judge sleeps, so its time needs no core; playing does, so the machine should be idle. Measured are the
wall times of playing alone, of scoring alone with as many chunks in flight, of one after the other, and of a
rollout with `overlap_scoring`. The last is to be at most 1.15 times the longer of the first two, where both
are long; it cannot be less than playing and one call of 200 ms, for the texts that end last. Two kinds of
texts: those of the products task, of which none is short, and those of a policy with random weights under
stop strings, whose lengths are geometric. Medians of turns; the kinds take turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from machine import Row, machine
from rich.console import Console
from rich.table import Table

from text_gym import ByteTokenizer, Episode, EpisodeBatch, EpisodeOptions, RewardSource, load_task
from text_gym.agents import Policy
from text_gym.agents.sampling.sampler import rollout
from text_gym.rewards.calls import Parallel
from text_gym.utils.json_files import write_json

SECONDS = 0.2
STOP = tuple(chr(c) for c in range(33, 39))  # 6 of 257 ids: texts of 43 bytes on average
LONGEST = 400


class SleepingJudge(RewardSource):
    """Pays a text's number of letters e, and sleeps before it says so: once a text, or once a batch."""

    name = "judge"

    def __init__(self, per_text: bool) -> None:
        self.per_text = per_text

    def score(self, episodes: Sequence[Episode]) -> list[float]:
        """Sleep, and count."""
        time.sleep(SECONDS * (len(episodes) if self.per_text else 1))
        return [float(e.completion.count("e")) for e in episodes]


@dataclass(frozen=True)
class Options:
    """Measure what overlap saves.

    Args:
        episodes: Episodes of a rollout.
        in_flight: Chunks scored at a time.
        turns: Times that each is measured.
        json: File for the rows.
    """

    episodes: int = 512
    in_flight: tuple[int, ...] = (2, 16, 64)
    turns: int = 3
    json: Path | None = None


def main() -> None:
    """Print a table, and write the rows."""
    options = tyro.cli(Options)
    torch.set_num_threads(1)
    rows: list[Row] = []
    table = Table(
        "texts", "judge", "in flight", "play", "score", "in turn", "overlapped", "of max", "of the least"
    )
    for kind, make in (("products", _products), ("geometric", _geometric)):
        for per_text in (False, True):
            for n in options.in_flight:
                row = _measure(kind, make, per_text, n, options)
                rows.append(row)
                numbers = (
                    row[k] for k in ("play", "score", "sequential", "overlapped", "of_max", "of_least")
                )
                judge = "200 ms a text" if per_text else "200 ms a batch"
                table.add_row(kind, judge, str(n), *(f"{x:.2f}" for x in numbers))
    Console().print(table)
    if options.json is not None:
        write_json(options.json, {**machine(), "episodes": options.episodes, "rows": rows})


def _measure(
    kind: str,
    make: Callable[[RewardSource, int], tuple[Policy, EpisodeBatch]],
    per_text: bool,
    in_flight: int,
    options: Options,
) -> Row:
    judge = SleepingJudge(per_text)
    policy, batch = make(judge, options.episodes)
    index = np.arange(options.episodes)
    source = Parallel(judge, in_flight, chunk=1) if per_text else judge
    found: dict[str, list[float]] = {"play": [], "score": [], "sequential": [], "overlapped": []}
    for turn in range(options.turns + 1):
        batch.reward = judge
        began = time.perf_counter()
        over = rollout(policy, batch, index, overlap_scoring=in_flight)
        overlapped = time.perf_counter() - began
        batch.reward = source
        began = time.perf_counter()
        whole = rollout(policy, batch, index)
        sequential = time.perf_counter() - began
        began = time.perf_counter()
        source(whole.episodes)
        score = time.perf_counter() - began
        assert torch.equal(over.rewards, whole.rewards)
        if turn:  # the first one warms up
            times = (sequential - score, score, sequential, overlapped)
            for name, seconds in zip(found, times, strict=True):
                found[name].append(seconds)
    medians = {name: statistics.median(times) for name, times in found.items()}
    ratio = medians["overlapped"] / max(medians["play"], medians["score"])
    judged = "text" if per_text else "batch"
    least = max(medians["play"] + SECONDS, medians["score"])
    ratios = {"of_max": ratio, "of_least": medians["overlapped"] / least}
    return {"texts": kind, "judge": judged, "in_flight": in_flight, **medians, **ratios}


def _products(judge: RewardSource, episodes: int) -> tuple[Policy, EpisodeBatch]:
    task = load_task("products")
    assert task.policy is not None
    policy = Policy.from_pretrained(task.policy, device="cpu")
    return policy, EpisodeBatch(task.prompts, task.tokenizer, judge, task.max_tokens, episodes)


def _geometric(judge: RewardSource, episodes: int) -> tuple[Policy, EpisodeBatch]:
    tokenizer = ByteTokenizer()
    policy = Policy.new(tokenizer, width=256, layers=4, context=LONGEST + 8, device="cpu")
    stopping = EpisodeOptions(stop=STOP)
    return policy, EpisodeBatch(["Say:"], tokenizer, judge, LONGEST, episodes, stopping)


if __name__ == "__main__":
    main()
