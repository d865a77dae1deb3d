"""Runs the matrix so that it can be stopped at any time, in any way, and resumed.

Three rounds: texts of the starting policy, designs (trained and judged unoptimised), cells. What is in the
folder already is not done again; what fails is named and does not stop the rest.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from text_gym.agents.algorithms.by_name import load_algorithm
from text_gym.agents.own_algorithms import installed, short_name
from text_gym.bench.analysis.summary import summarise
from text_gym.bench.gold.start_policy import POLICY, start_policy
from text_gym.bench.report.report import write_report
from text_gym.data import anchored
from text_gym.errors import ConfigError, TextGymError
from text_gym.runs.conditions import reward_conditions, task_conditions
from text_gym.runs.folder import default_folder
from text_gym.utils.display import harmless
from text_gym.utils.stopping import stop_signals
from text_gym.utils.terminal import SafeConsole

from .budgets import AGENT_TASKS, budgeted, plan_agents, plan_rewards
from .cells import Cell
from .console import show_findings, show_progress, show_rows
from .designs import Design, DesignJob, choose_designs
from .engines import Engine, LocalEngine, RayEngine, one_thread
from .folder import BenchFolder, check_is_benchmark
from .recipes import Learned, content_of
from .settings import (
    BEST_OF_N,
    OPTIMISERS,
    Budget,
    EngineName,
    OwnAlgorithm,
    Settings,
    digest_of_files,
)
from .start import SamplingJob, check_measurable


class BenchError(TextGymError, RuntimeError):
    """Some cells of a matrix failed; the others have results."""


def bench_rewards(
    out: str | Path | None = None,
    *,
    task: str = "products",
    data: str | Path | None = None,
    policy: str | None = None,
    budget: Budget = "small",
    only: Sequence[str] | None = None,
    designs: Sequence[str | Design] = (),
    optimisers: Sequence[str] | None = None,
    kl_coefficients: Sequence[float] | None = None,
    seeds: Sequence[int] | None = None,
    iterations: int | None = None,
    engine: EngineName = "local",
    workers: int | None = None,
    console: Console | None = None,
    command: str | None = None,
    accept_changes: bool = False,
    keep_rollouts: int = 0,
) -> list[dict[str, Any]]:
    """Optimise reward designs and measure what becomes of gold.

    The same call goes on where it was stopped, however that came, with the same results; a call with further
    designs, optimisers, coefficients or seeds extends the folder.

    Args:
        out: Folder; `runs/bench-rewards-<task>` and the time if None.
        task: Name of a task with a policy; or `e2e`, which reads `data` and starts from a policy fitted to
            it, made in `out` before anything else.
        data: File of the E2E challenge, with the columns `mr` and `ref`.
        policy: Folder of another policy to start from.
        budget: `small` or `full`.
        only: Names of the suite (`DESIGNS`); all of the budget if None, and none if only own ones are wanted:
            [].
        designs: Own designs: `Design`s, or what `load_design` takes.
        optimisers: In place of the budget's: `best_of_n`, `ppo`, `grpo`, `rloo`, `reinforce`, `dpo` (online),
            `distillation` (of best-of-n).
        kl_coefficients: β in place of the budget's, in standard deviations of the reward per nat.
        seeds: In place of the budget's.
        iterations: Batches to learn from.
        engine: `local` processes or a `ray` cluster.
        workers: Processes; as many as cores if None, and this process if 0.
        console: Where to show progress.
        command: What was typed, for the report.
        accept_changes: Extend a folder although the versions of PyTorch, `transformers` or text-gym differ.
        keep_rollouts: Iterations of each new run whose episodes are kept token by token, on a page to which
            the report leads.

    Returns:
        The rows of `results.json`.

    Raises:
        UnknownNameError: A design, optimiser or task that does not exist.
        ConfigError: The folder holds a benchmark with other settings, or is in use; or the task is a
            conversation, has no policy to start from, or its tokens cannot write every text.
        ChangedRunError: It was started with other versions; they are named.
    """
    settings = Settings(what="rewards", task=task, policy=policy, data=None if data is None else str(data))
    if iterations is not None:
        settings = replace(settings, iterations=iterations)
    found = choose_designs(budgeted(budget, task) if only is None else only, designs, task)
    out = Path(out) if out else default_folder(task, "bench-rewards")
    if settings.data is not None and policy is None:
        settings = replace(settings, made=_made_policy(settings, out, console or SafeConsole()))
    check_measurable(settings)
    cells = plan_rewards(
        settings,
        budget,
        found,
        optimisers=optimisers,
        kl_coefficients=kl_coefficients,
        seeds=seeds,
    )
    cells = [replace(cell, keep_rollouts=keep_rollouts) for cell in cells]
    return run_matrix(cells, out, budget, engine, workers, console, command, accept_changes)


def bench_agents(
    out: str | Path | None = None,
    *,
    tasks: Sequence[str] | None = None,
    budget: Budget = "small",
    algorithms: Sequence[str] = (),
    optimisers: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    iterations: int | None = None,
    engine: EngineName = "local",
    workers: int | None = None,
    console: Console | None = None,
    command: str | None = None,
    accept_changes: bool = False,
    keep_rollouts: int = 0,
) -> list[dict[str, Any]]:
    """Compare algorithms: each learns the same tasks from the same weights with as many episodes.

    Your own are held against each of the others at equal numbers of tokens: as many as the run that played
    the fewest on that task.

    Args:
        out: Folder; one of the time if None.
        tasks: Names in `AGENT_TASKS`, or others; all of the former if None.
        budget: Three seeds (small) or five (full).
        algorithms: Your own, as `load_algorithm` takes them: `file.py:Class`, `module:Class` or the name of
            an entry point; `NAME=` before it names it. They learn with their settings as they come, but for
            the number of iterations, the KL coefficient and the seed.
        optimisers: Names in `OPTIMISERS`; `AGENTS` if None.
        seeds: In place of the budget's.
        iterations: For all tasks.
        engine: As for `bench_rewards`, like all that follows.
        workers: Processes.
        console: Where to show progress.
        command: What was typed, for the report.
        accept_changes: Extend a folder although the versions of PyTorch, `transformers` or text-gym differ.
        keep_rollouts: Iterations of each new run whose episodes are kept token by token, on a page to which
            the report leads.

    Returns:
        The rows of `results.json`.

    Raises:
        UnknownNameError: A task or optimiser that does not exist.
        ConfigError: The folder holds a benchmark with other settings, or is in use.
        ChangedRunError: It was started with other versions; they are named.
    """
    cells = plan_agents(
        list(tasks or AGENT_TASKS),
        budget,
        algorithms=load_own_algorithms(algorithms),
        optimisers=optimisers,
        seeds=seeds,
        iterations=iterations,
    )
    cells = [replace(cell, keep_rollouts=keep_rollouts) for cell in cells]
    return run_matrix(cells, out, budget, engine, workers, console, command, accept_changes)


def run_matrix(
    cells: Sequence[Cell],
    out: str | Path | None,
    budget: str,
    engine: EngineName,
    workers: int | None,
    console: Console | None,
    command: str | None,
    accept_changes: bool = False,
) -> list[dict[str, Any]]:
    """Run the missing cells, write results and report, and return the rows.

    Raises:
        BenchError: Cells failed; all others are done.
    """
    if not cells:
        raise ConfigError("no cells: there is no design (or no seed, or no optimiser) to run")
    console = console or SafeConsole()
    settings = cells[0].settings
    path = Path(out) if out else default_folder(settings.task, f"bench-{settings.what}")
    config = _config(cells, budget, command)
    with stop_signals(), BenchFolder(path, config, accept_changes=accept_changes) as folder:
        for change in folder.changes:
            console.print(Text(change, style="yellow"))
        failed = _run_rounds(cells, folder, make_engine(engine, workers), console)
        folder.describe(
            {c.design.name: c.design_job.read(path)["tree"] for c in cells if c.design_job.done(path)}
        )
        rows = folder.write_results()
        show_rows(rows, console)
        if rows:
            write_report(path)
            show_findings(summarise(path), path, console)
        if failed:
            names = "; ".join(failed[:5]) + (f"; and {len(failed) - 5} more" if len(failed) > 5 else "")
            raise BenchError(
                f"{len(failed)} of {len(cells)} cells have no result: {names}. The others are done; see "
                f"{path}/log.txt, and give the same command again to try these again"
            )
    return rows


def _made_policy(settings: Settings, out: Path, console: Console) -> str:
    """Return the starting policy of a task on the user's data, in the benchmark's folder; make it if need be.

    Raises:
        ConfigError: The folder holds something else, or the task is none that reads data.
    """
    check_is_benchmark(out)
    task = settings.load_task()
    if not (out / POLICY).is_dir():
        texts = sum(len(p.columns["references"]) for p in task.prompts)
        told = (
            f"making the policy that all start from: a small model, fitted to {texts:,} texts; some minutes …"
        )
        console.print(Text(told))
    with one_thread():
        return str(start_policy(task, out))


def load_own_algorithms(specs: Sequence[str]) -> dict[str, OwnAlgorithm]:
    """The user's algorithms by the names they have as optimisers; each is loaded once, to see that it is one.

    Raises:
        ConfigError: Two have one name, or one has that of an optimiser of ours, or is no algorithm.
        UnknownNameError: There is no such algorithm.
    """
    found: dict[str, OwnAlgorithm] = {}
    for given in specs:
        name, equals, spec = given.partition("=")
        spec = spec if equals else given
        load_algorithm(spec)
        offered = installed().get(spec)
        place = str(anchored(spec if offered is None else offered.value, True))
        name = name if equals else short_name(spec)
        if name in found or name in OPTIMISERS or name == BEST_OF_N:
            raise ConfigError(f"two algorithms are called {name!r}; rename yours: --algorithm NAME={spec}")
        found[name] = OwnAlgorithm(place, content_of(place))
    return found


def make_engine(name: str, workers: int | None) -> Engine:
    """Make an engine by name.

    Raises:
        ConfigError: There is no such engine, Ray is missing, or a number of workers makes no sense.
    """
    if name == "ray":
        return RayEngine(workers)
    if name != "local":
        raise ConfigError(f"engine is {name!r}; choose local or ray")
    return LocalEngine((os.cpu_count() or 1) if workers is None else workers)


def _run_rounds(cells: Sequence[Cell], folder: BenchFolder, engine: Engine, console: Console) -> list[str]:
    """Run the three rounds; return the cells without a result, with the reason."""
    reasons: dict[str, str] = {}
    try:
        for jobs in _rounds(cells):
            ready = [j for j in jobs if not j.done(folder.path)]
            lost = [j for j in ready if any(not (folder.path / need).exists() for need in j.needs)]
            for job in lost:
                reasons[job.key] = "what it needs failed"
            ready = [j for j in ready if j not in lost]
            if not ready:
                continue
            with show_progress(console, len(ready), len(jobs) - len(ready) - len(lost)) as show:
                for outcome in engine.run(ready, folder.path):
                    _note(outcome, folder, reasons)
                    show(outcome, _headline(outcome, folder.path))
    except KeyboardInterrupt:
        console.print(Text(f"stopped; the same command with --out {harmless(str(folder.path))} goes on"))
        raise
    finally:
        engine.close()
    return [f"{c.name} ({_reason(c, reasons)})" for c in cells if not c.done(folder.path)]


def _rounds(cells: Sequence[Cell]) -> list[list[Any]]:
    """Group the jobs by round, each once, the longest first where that is known."""
    design_jobs = {c.design_job.key: c.design_job for c in cells}
    sampling_jobs = {
        j.key: j for d in design_jobs.values() for use in d.uses for j in [SamplingJob(d.settings, use)]
    }
    for c in cells:
        if c.optimiser == BEST_OF_N:
            job = SamplingJob(c.settings, "candidates", c.seed)
            sampling_jobs[job.key] = job
    learned = sorted(design_jobs.values(), key=lambda d: -_effort(d))
    # Short cells last, to fill the gaps that long ones leave at the end.
    return [list(sampling_jobs.values()), learned, sorted(cells, key=lambda c: c.optimiser == BEST_OF_N)]


def _effort(design_job: DesignJob) -> int:
    make = design_job.design.make
    if not isinstance(make, Learned):
        return 0
    return make.opinions * make.members * (40 if make.model == "transformer" else 1)


def _note(outcome: Any, folder: BenchFolder, reasons: dict[str, str]) -> None:
    job = outcome.job
    if outcome.error:
        reasons[job.key] = outcome.error
        folder.log(f"{job.name}: {outcome.error}\n{outcome.trace}")
    else:
        folder.note({"job": job.key, "name": job.name, "seconds": round(outcome.seconds, 2)})


def _headline(outcome: Any, folder: Path) -> str:
    """Summarise a finished cell in a few words."""
    if outcome.error or not isinstance(outcome.job, Cell):
        return str(outcome.error)
    row = outcome.job.read(folder)["row"]
    shown = [f"{name} {row[name]:.2f}" for name in ("gold", "proxy") if row[name] is not None]
    return "  ".join([*shown, f"KL {row['kl_nats']:.1f} nats" if row["kl_nats"] is not None else ""])


def _reason(cell: Cell, reasons: dict[str, str]) -> str:
    return str(reasons.get(cell.design_job.key) or reasons.get(cell.key) or "not run")


def _config(cells: Sequence[Cell], budget: str, command: str | None) -> dict[str, Any]:
    """Return the content of `config.json`."""
    first = cells[0].settings
    shared = {c.settings.task: c.settings for c in cells}
    fixed = {
        task: {k: v for k, v in s.to_dict().items() if k not in ("override", "what", "algorithms")}
        for task, s in shared.items()
    }
    designs = {c.design.name: c.design for c in cells}
    optimisers = list(dict.fromkeys(c.optimiser for c in cells))
    return {
        "what": first.what,
        "task": first.task if len(shared) == 1 else ", ".join(shared),
        "tasks": list(shared),
        "budget": budget,
        "designs": [
            {"name": d.name, "group": d.group, "description": d.description, "tree": None}
            | {"traits": d.traits, "fingerprint": d.fingerprint}
            for d in designs.values()
        ],
        "optimisers": optimisers,
        "kl_coefficients": sorted({c.kl_coefficient for c in cells if c.kl_coefficient is not None}),
        "seeds": sorted({c.seed for c in cells}),
        "settings": fixed,
        "optimiser_settings": {o: first.optimiser(o) for o in optimisers},
        "contents": {task: _contents(s) for task, s in shared.items()},
        "algorithms": {name: asdict(own) for name, own in first.algorithms.items()},
        "command": command or f"text_gym.bench.bench_{first.what}(…)  # {Path(sys.argv[0]).name or 'python'}",
    }


def _contents(settings: Settings) -> dict[str, str]:
    """Hash the files and data behind a task's settings, so that rows of other ones are not added to them."""
    task = settings.load_task()
    place = settings.policy or task.policy
    policy = {} if place is None else {"starting policy": digest_of_files(Path(place))}
    return {**task_conditions(task), **reward_conditions("gold reward", task.reward), **policy}
