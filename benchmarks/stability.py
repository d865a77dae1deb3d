"""How stable learning is: many seeds, several worlds, our defaults beside alternatives and peers'.

    python benchmarks/stability.py run --out runs/stability --worlds gold ngrams --seeds 100:120 --jobs 2 \
        --candidates ppo "ppo critic=shared target_kl=none" grpo rloo sb3.ppo
    python benchmarks/stability.py reachable --out runs/stability --world gold --seeds 100 101
    python benchmarks/stability.py report --out runs/stability --figure docs/stability.png

A run is one JSON file and is not repeated, so that the command can be interrupted, and goes on when it is
given again. Seconds are wall time and mean nothing on a busy machine.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tyro
from stability_candidates import parse_candidate
from stability_reachable import measure_reachable
from stability_report import fill_docs, reachable_rows, results, rows_of, tables, write_figure
from stability_runs import Job, begin, told
from stability_runs import run as run_job
from stability_worlds import Setting, World, prepare, start_of

from text_gym.errors import ConfigError, TextGymError
from text_gym.rlhf.config import Bias

Result = TypeVar("Result")


@dataclass(frozen=True)
class Run:
    """Learn: every candidate in every world with every seed; what is there is not repeated.

    Args:
        out: Folder for the runs, and for what they begin with.
        worlds: gold (products, beta 0.03), gold0 (beta 0), ngrams and transformer (a reward learnt from
            simulated raters, beta 0.02), slots (needs --data), rlhf (the whole cycle).
        candidates: Each an algorithm and changes of its settings, such as "ppo critic=shared"; sb3.ppo and
            trl.ppo are peers, with their own defaults. In rlhf the settings are those of `text-gym rlhf`.
        seeds: Numbers, and ranges FIRST:END without END.
        iterations: Of each run; 100, in a round of rlhf 40, if left out.
        episodes: Per iteration.
        judge: Held-out prompts to judge on; all if left out.
        labels: Ratings that a learned reward learns from, or that are given in a round of rlhf.
        rounds: Of rlhf.
        bias: The raters' vice in rlhf.
        data: File of meaning representations, for the world slots.
        prompt: Its column of meaning representations.
        reference: Its column of texts.
        keep_policy: Keep the policy of each run.
        trl112: Interpreter with TRL 1.12, for trl.ppo.
        jobs: Processes, of one thread each.
    """

    out: Path
    worlds: tuple[World, ...] = ("gold",)
    candidates: tuple[str, ...] = ("ppo", "grpo", "rloo")
    seeds: tuple[str, ...] = ("0:5",)
    iterations: int | None = None
    episodes: int = 64
    judge: int | None = None
    labels: int = 200
    rounds: int = 3
    bias: Bias = "none"
    data: str | None = None
    prompt: str = "mr"
    reference: str = "ref"
    keep_policy: bool = False
    trl112: str | None = None
    jobs: int = 1

    def setting(self) -> Setting:
        """What all runs have in common."""
        names = Setting.__dataclass_fields__
        return Setting(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class Reachable:
    """Measure how much of the returns' variance a critic can explain: at the start, and after a run.

    Args:
        out: Folder of the runs.
        world: One of those of `run`, without rlhf.
        candidate: Whose policy is looked at, beside the one that it starts from.
        seeds: Of the runs; where a run kept no policy it is made now.
        texts: To learn values from; as many others to judge them on.
        iterations: As in `run`, like what follows.
        episodes: Per iteration.
        judge: Held-out prompts to judge on; all if left out.
        labels: Ratings that a learned reward learns from.
        data: File of meaning representations, for the world slots.
        prompt: Its column of meaning representations.
        reference: Its column of texts.
        trl112: Interpreter with TRL 1.12, for trl.ppo.
        jobs: Processes that make runs, of one thread each.
    """

    out: Path
    world: World = "gold"
    candidate: str = "ppo"
    seeds: tuple[str, ...] = ("0",)
    texts: int = 1024
    iterations: int | None = None
    episodes: int = 64
    judge: int | None = None
    labels: int = 200
    data: str | None = None
    prompt: str = "mr"
    reference: str = "ref"
    trl112: str | None = None
    jobs: int = 1


@dataclass(frozen=True)
class Report:
    """Print tables of a folder's runs.

    Args:
        out: Folder of the runs.
        json: File for the results.
        figure: Picture with a dot for every run.
        docs: Page whose table is filled in.
    """

    out: Path
    json: Path | None = None
    figure: Path | None = None
    docs: Path | None = None


def parse_seeds(words: Sequence[str]) -> list[int]:
    """Numbers, and ranges without their ends.

    Raises:
        ConfigError: A word is neither, or there are no seeds.

    >>> parse_seeds(["3", "100:103"])
    [3, 100, 101, 102]
    """
    seeds: list[int] = []
    for word in words:
        first, colon, end = word.partition(":")
        try:
            seeds += range(int(first), int(end)) if colon else [int(first)]
        except ValueError:
            raise ConfigError(f"seeds: {word!r} is neither a number nor a range such as 100:120") from None
    if not seeds:
        raise ConfigError(f"seeds: there are none in {' '.join(words) or 'nothing'!r}")
    return list(dict.fromkeys(seeds))


def run(options: Run) -> int:
    """Do what is left to do; returns the number of runs that failed."""
    setting = options.setting()
    # Seed by seed: what is there after an interruption compares everything.
    jobs = [
        Job(world, candidate, seed, setting)
        for seed in parse_seeds(options.seeds)
        for world in options.worlds
        for candidate in (parse_candidate(text, world) for text in options.candidates)
    ]
    return do([job for job in jobs if not job.done()], options.jobs, len(jobs))


def do(jobs: Sequence[Job], processes: int, total: int) -> int:
    """Prepare worlds, then run; prints a line a run and returns how many failed."""
    needed = {(job.world, start_of(job.world, job.seed)): job for job in jobs}
    for job, done in in_processes(_prepare, list(needed.values()), processes):
        if isinstance(done, BaseException):
            raise done
        print(f"{job.where}: ready to start from {start_of(job.world, job.seed)}", flush=True)
    failures = 0
    finished = total - len(jobs)
    for job, row in in_processes(run_job, jobs, processes):
        finished += 1
        failures += isinstance(row, BaseException)
        line = f"FAILED: {type(row).__name__}: {row}" if isinstance(row, BaseException) else told(row)
        print(f"{finished}/{total} {job.name}: {line}", flush=True)
    return failures


def _prepare(job: Job) -> None:
    prepare(job.world, job.seed, job.setting)


def in_processes(
    work: Callable[[Job], Result], jobs: Sequence[Job], processes: int
) -> Iterator[tuple[Job, Result | BaseException]]:
    """Each job with its result, or with the error that ended it and must not cost the others."""
    if processes == 1 or len(jobs) < 2:
        for job in jobs:
            try:
                result: Result | BaseException = work(job)
            except Exception as error:
                result = error
            yield job, result
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(processes, len(jobs)), context, initializer=begin)
    try:
        waiting = {pool.submit(work, job): job for job in jobs}
        for future in as_completed(waiting):
            failure = future.exception()
            yield waiting[future], future.result() if failure is None else failure
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def reachable(options: Reachable) -> int:
    """Make the runs that are missing, then measure; returns the number of failures."""
    names = ("out", "iterations", "episodes", "judge", "labels", "data", "prompt", "reference", "trl112")
    setting = Setting(**{name: getattr(options, name) for name in names}, keep_policy=True)
    candidate = parse_candidate(options.candidate, options.world)
    jobs = [Job(options.world, candidate, seed, setting) for seed in parse_seeds(options.seeds)]
    failures = do([job for job in jobs if not job.done()], options.jobs, len(jobs))
    for job in jobs if not failures else []:
        found = measure_reachable(job, options.texts)
        for policy in ("start", "after"):
            row = found[policy]
            print(
                f"{job.name}, {policy}: best reachable {row['best']:.3f} (ridge {row['ridge']:.3f}, "
                f"network {row['network']:.3f})",
                flush=True,
            )
    return failures


def report(options: Report) -> int:
    """Print the tables, and write whatever is asked for."""
    rows = rows_of(options.out)
    text = tables(rows, options.out)
    print(text)
    if options.json is not None:
        results(options.json, rows, options.out)
    if options.figure is not None:
        write_figure(options.figure, rows, reachable_rows(options.out))
    if options.docs is not None:
        fill_docs(options.docs, text)
    return 0


def main(options: Run | Reachable | Report) -> int:
    """Do one of the three."""
    begin()
    commands: dict[type[Any], Callable[[Any], int]] = {Run: run, Reachable: reachable, Report: report}
    try:
        return commands[type(options)](options)
    except TextGymError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    raise SystemExit(main(tyro.cli(Run | Reachable | Report, prog="stability.py")))
