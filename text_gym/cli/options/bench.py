"""Options of the commands of `text-gym bench`, and how they are read from the command line."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from text_gym.bench.gold.e2e import GOLD_TASKS
from text_gym.bench.matrix.settings import BEST_OF_N, OPTIMISERS, Budget, EngineName
from text_gym.errors import ConfigError, DataError, UnknownNameError, did_you_mean

from .checks import at_least, check_data, check_file, check_out_folder, check_policy, check_task
from .parsing import parse


@dataclass(frozen=True)
class BenchRewardsOptions:
    """Which reward, optimised hard, really gives better text? Optimise designs, measure gold.

    The same command goes on where it was stopped, whenever that was, if --out is given; with further designs
    or seeds it extends what is there.

    Args:
        design: Rewards of your own, beside the suite's: a name, module:function, file.py:function, file.py
            with one function in it, or the folder of a reward model; NAME=... names it. Can be given
            repeatedly.
        only: Designs of the suite to run, none for your own alone; all of the budget's if left out.
        budget: small takes some minutes on two cores, full an hour.
        optimisers: In place of the budget's: best_of_n, ppo, grpo, rloo, reinforce, dpo (online DPO),
            distillation (of best-of-n).
        kl_coefficients: In place of the budget's, in standard deviations of the reward per nat.
        seeds: In place of the budget's.
        iterations: Batches that an optimiser learns from; 40 if left out.
        task: Task of single texts with a gold reward and a policy; or e2e, on your own copy of the E2E
            challenge's data (--data), whose policy is made first.
        data: File that task e2e reads: a row for each description, column mr (slot[value], slot[value]) and
            column ref (a text). Nothing else is read, and it is sent nowhere.
        policy: Folder of the policy to start from; the task's own if left out (--model is the same).
        out: Folder for results and report; runs/TASK-bench-rewards-TIME if left out.
        workers: Processes of one thread each; as many as there are cores if left out, none if 0.
        engine: Local processes, or a Ray cluster (that of RAY_ADDRESS, or one on this machine).
        accept_changes: Extend a folder although the versions of PyTorch, transformers or text-gym differ.
        keep_rollouts: Iterations of each run whose episodes are kept token by token, on a page to which the
            report leads; 0 keeps none.
        list: Show the designs of the suite and do nothing.
    """

    design: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    budget: Budget = "small"
    optimisers: tuple[str, ...] | None = None
    kl_coefficients: tuple[float, ...] | None = None
    seeds: tuple[int, ...] | None = None
    iterations: int | None = None
    task: str = "products"
    data: str | None = None
    policy: str | None = None
    out: str | None = None
    workers: int | None = None
    engine: EngineName = "local"
    accept_changes: bool = False
    keep_rollouts: int = 0
    list: bool = False


@dataclass(frozen=True)
class BenchAgentsOptions:
    """Compare algorithms on the same tasks, from the same weights, with as many episodes.

    Args:
        algorithm: Your own, beside the others: file.py:Class, module:Class, or the name that an installed
            package gives it; NAME=... names it. Can be given repeatedly. It is held against each other one at
            equal numbers of tokens.
        tasks: Names of tasks; products, sort and slots if left out.
        budget: Three seeds (small) or five (full).
        optimisers: ppo, grpo, rloo, reinforce, sb3.ppo; all if left out.
        seeds: In place of the budget's.
        iterations: Batches to learn from, for all tasks.
        out: Folder for results and report; runs/TASK-bench-agents-TIME if left out.
        workers: Processes of one thread each; as many as there are cores if left out, none if 0.
        engine: Local processes, or a Ray cluster (that of RAY_ADDRESS, or one on this machine).
        accept_changes: Extend a folder although the versions of PyTorch, transformers or text-gym differ.
        keep_rollouts: Iterations of each run whose episodes are kept token by token, on a page to which the
            report leads; 0 keeps none.
    """

    algorithm: tuple[str, ...] = ()
    tasks: tuple[str, ...] | None = None
    budget: Budget = "small"
    optimisers: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    iterations: int | None = None
    out: str | None = None
    workers: int | None = None
    engine: EngineName = "local"
    accept_changes: bool = False
    keep_rollouts: int = 0


def read_rewards(argv: list[str]) -> tuple[BenchRewardsOptions, str]:
    """Options of `text-gym bench rewards`, and what was typed, for the report."""
    (options,) = parse("bench rewards", gathered(argv, "--design"), BenchRewardsOptions)
    if options.task not in GOLD_TASKS:
        check_task(options.task)
    elif options.data is None and not options.list:
        raise ConfigError(
            f"--task {options.task} reads a file of yours: pass --data FILE, with columns mr and ref"
        )
    check_data(options.data)
    if options.data is not None and options.task not in GOLD_TASKS:
        raise ConfigError(f"--data is read by --task {' or '.join(GOLD_TASKS)} alone")
    check_policy(options.policy)
    for coefficient in options.kl_coefficients or ():
        if not 0 <= coefficient < math.inf:
            raise ConfigError(f"--kl-coefficients has {coefficient}; each must be a number of at least 0")
    _check(options, [BEST_OF_N, *OPTIMISERS])
    return options, _command("rewards", argv)


def read_agents(argv: list[str]) -> tuple[BenchAgentsOptions, str]:
    """Options of `text-gym bench agents`, and what was typed, for the report."""
    (options,) = parse("bench agents", gathered(argv, "--algorithm"), BenchAgentsOptions)
    for task in options.tasks or ():
        check_task(task)
    _check(options, [*OPTIMISERS])
    return options, _command("agents", argv)


def _check(options: BenchRewardsOptions | BenchAgentsOptions, optimisers: Sequence[str]) -> None:
    """Check what both commands have and what needs no PyTorch.

    Raises:
        TextGymError: Naming the option, or the nearest optimiser.
    """
    own = isinstance(options, BenchAgentsOptions) and options.algorithm  # whose names are found out later
    for name in () if own else options.optimisers or ():
        if name not in optimisers:
            raise UnknownNameError("optimiser", name, optimisers)
    at_least(1, iterations=options.iterations)
    at_least(0, workers=options.workers, keep_rollouts=options.keep_rollouts)
    check_out_folder(options.out)


def gathered(argv: Sequence[str], option: str) -> list[str]:
    """Gather all values of a repeated option after its first mention.

    >>> gathered(["--design", "a", "--seeds", "0", "--design=b", "c"], "--design")
    ['--design', 'a', 'b', 'c', '--seeds', '0']
    """
    values: list[str] = []
    rest: list[str] = []
    place, inside = None, False
    for word in argv:
        name, equals, value = word.partition("=")
        if name == option:
            place = len(rest) if place is None else place
            inside = True
            values += [value] if equals else []
        elif inside and not word.startswith("--"):
            values.append(word)
        else:
            inside = False
            rest.append(word)
    return rest if place is None else [*rest[:place], option, *values, *rest[place:]]


def _command(name: str, argv: Sequence[str]) -> str:
    return shlex.join(["text-gym", "bench", name, *argv])


@dataclass(frozen=True)
class CompareOptions:
    """Compare two benchmarks: does B differ from A?

    Args:
        a: Folder of a benchmark, its results.json or its results.csv.
        b: Another one.
        metric: Column to compare, e.g. gold, perfect, kl_nats, length.
        json: File to write the comparison to.
    """

    a: Positional[str]
    b: Positional[str]
    metric: str = "gold"
    json: str | None = None


def read_compare(argv: list[str]) -> tuple[CompareOptions]:
    """Options of `text-gym bench compare`."""
    (options,) = parse("bench compare", argv, CompareOptions)
    for place in (options.a, options.b):
        if not Path(place).exists():
            raise DataError(
                f"{place}: no such folder or file; pass a benchmark's folder, or its results.json"
                f"{did_you_mean(place)}"
            )
    check_file("json", options.json)
    return (options,)


@dataclass(frozen=True)
class FindingsOptions:
    """Set the findings of two benchmarks of rewards side by side, of two tasks say.

    Args:
        a: Folder of a benchmark, or its summary.json.
        b: Another one.
        json: File to write them to.
    """

    a: Positional[str]
    b: Positional[str]
    json: str | None = None


def read_findings(argv: list[str]) -> tuple[FindingsOptions]:
    """Options of `text-gym bench findings`."""
    (options,) = parse("bench findings", argv, FindingsOptions)
    for place in (options.a, options.b):
        if not Path(place).exists():
            raise DataError(
                f"{place}: no such folder or file; pass a benchmark's folder, or its summary.json"
                f"{did_you_mean(place)}"
            )
    check_file("json", options.json)
    return (options,)


@dataclass(frozen=True)
class SubmitOptions:
    """Make a submission to a leaderboard of one reward that a finished benchmark optimised.

    One folder holds all there is: rows and curves, the reward's files, hashes, seeds, versions, the command
    that does it again, and a report of `text-gym validate` (levels 0 to 2).

    Args:
        run: Folder of `text-gym bench rewards`.
        design: Name of the reward there.
        author: Whose it is.
        out: Folder to write.
        name: What the leaderboard calls it; the design's name if left out.
        note: A few sentences on it.
        reward: Where your reward is now, if not where the benchmark found it: file.py:function,
            module:function or a folder.
        skip_validation: Carry no report of `text-gym validate`.
    """

    run: Positional[str]
    design: str
    author: str
    out: str
    name: str | None = None
    note: str = ""
    reward: str | None = None
    skip_validation: bool = False


@dataclass(frozen=True)
class LeaderboardOptions:
    """Check submissions, rank them by gold after optimisation, and write a static site.

    The first submission that is whole says how the others must be measured: same task, gold, optimisers,
    budget, seeds and version of text-gym. The rejected are listed with the reason.

    Args:
        folders: Submissions of `text-gym bench submit`.
        out: Folder of the site.
    """

    folders: Positional[tuple[str, ...]]
    out: str = "leaderboard"


def read_submit(argv: list[str]) -> tuple[SubmitOptions]:
    """Options of `text-gym bench submit`."""
    (options,) = parse("bench submit", argv, SubmitOptions)
    if not Path(options.run).is_dir():
        near = did_you_mean(options.run)
        raise DataError(f"{options.run}: no such folder; pass that of `text-gym bench rewards`{near}")
    check_out_folder(options.out)
    return (options,)


def read_leaderboard_options(argv: list[str]) -> tuple[LeaderboardOptions]:
    """Options of `text-gym bench leaderboard`."""
    (options,) = parse("bench leaderboard", argv, LeaderboardOptions)
    if not options.folders:
        raise DataError("no submissions; pass the folders that `text-gym bench submit` made")
    check_out_folder(options.out)
    return (options,)
