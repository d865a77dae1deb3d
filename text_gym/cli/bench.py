"""The commands of `text-gym bench`: their options and what they print, and nothing else."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from text_gym.bench.analysis.across import AGREEMENTS, across
from text_gym.bench.analysis.compare import Comparison, compare
from text_gym.bench.leaderboard.checking import read_submission
from text_gym.bench.leaderboard.ranking import judge_submissions, rank_submissions
from text_gym.bench.leaderboard.site import write_site
from text_gym.bench.leaderboard.submission import Entrant, write_submission
from text_gym.bench.matrix.designs import suite
from text_gym.bench.matrix.matrix import bench_agents, bench_rewards
from text_gym.cli.options.bench import (
    BenchAgentsOptions,
    BenchRewardsOptions,
    CompareOptions,
    FindingsOptions,
    LeaderboardOptions,
    SubmitOptions,
)
from text_gym.errors import DataError
from text_gym.utils.display import harmless
from text_gym.utils.interval import shown
from text_gym.utils.json_files import write_json
from text_gym.utils.terminal import SafeConsole


def run_rewards(options: BenchRewardsOptions, command: str) -> int:
    """Run `text-gym bench rewards`."""
    if options.list:
        show_designs(SafeConsole(), options.task)
        return 0
    settings = asdict(options)
    settings.pop("list")
    bench_rewards(settings.pop("out"), designs=settings.pop("design"), command=command, **settings)
    return 0


def run_agents(options: BenchAgentsOptions, command: str) -> int:
    """Run `text-gym bench agents`."""
    settings: dict[str, Any] = asdict(options)
    bench_agents(settings.pop("out"), algorithms=settings.pop("algorithm"), command=command, **settings)
    return 0


def show_designs(console: Console, task: str = "products") -> None:
    """Print a task's suite."""
    table = Table("design", "group", "what is optimised")
    for design in suite(task).values():
        table.add_row(design.name, design.group, Text(harmless(design.description)))
    console.print(table)


def run_compare(options: CompareOptions) -> int:
    """Run `text-gym bench compare`."""
    from rich.table import Table
    from rich.text import Text

    found = compare(options.a, options.b, options.metric)
    table = Table(title=f"B less A: {harmless(found.metric)}")
    for column in ("design", "A", "B", "B - A [bootstrap]", "[Student]", "P(B > A)", "verdict"):
        table.add_column(Text(column), overflow="fold")
    for row in (*found.designs, found.overall):
        if row is found.overall:
            table.add_section()
        student = shown(row.student, 3, True).partition(" ")[2]
        cells = [harmless(row.name), f"{row.a:.3f}", f"{row.b:.3f}", shown(row.difference, 3, True), student]
        table.add_row(*(Text(c) for c in (*cells, shown(row.improvement), row.verdict)))
    console = SafeConsole()
    console.print(table)
    console.print(_notes(found), highlight=False, markup=False)
    if options.json is not None:
        write_json(options.json, found.summary())
    return 0


def run_findings(options: FindingsOptions) -> int:
    """Run `text-gym bench findings`."""
    found = across(options.a, options.b)
    table = Table("question", "A", "B", "effect A", "effect B", "holds")
    for agreement in AGREEMENTS:
        for f in (f for f in found if f.agreement == agreement):
            effects = ("" if math.isnan(v) else f"{v:+.2f}" for v in (f.effect_a, f.effect_b))
            table.add_row(*(Text(harmless(c)) for c in (f.question, f.a, f.b, *effects, f.agreement)))
        table.add_section()
    console = SafeConsole()
    console.print(table)
    counts = {a: sum(f.agreement == a for f in found) for a in AGREEMENTS}
    told = ", ".join(f"{n} {a}" for a, n in counts.items() if n)
    console.print(f"{len(found)} questions: {told}.", highlight=False, markup=False)
    if options.json is not None:
        write_json(options.json, {"counts": counts, "findings": [f.summary() for f in found]})
    return 0


def run_submit(options: SubmitOptions) -> int:
    """Run `text-gym bench submit`: make a submission, and check it as the leaderboard will."""
    place = write_submission(
        options.run,
        options.design,
        Entrant(options.name or options.design, options.author, options.note),
        options.out,
        reward=options.reward or "",
        validate=not options.skip_validation,
    )
    submission = read_submission(place)
    console = SafeConsole()
    console.print(Text(harmless(f"{submission.summary['answer']} {submission.summary['statement']}")))
    console.print(
        Text(harmless(f"{place}: gold {shown(submission.gold, 3)}, manifest {submission.digest[:16]}"))
    )
    return 0


def run_leaderboard(options: LeaderboardOptions) -> int:
    """Run `text-gym bench leaderboard`: check, rank and write the site.

    Raises:
        DataError: No submission can take part.
    """
    accepted, rejected = judge_submissions(options.folders)
    console = SafeConsole()
    for refused in rejected:
        console.print(Text(harmless(f"rejected {refused.folder}: {refused.reason}"), style="yellow"))
    if not accepted:
        raise DataError(f"none of {len(rejected)} submissions can be ranked; see the reasons above")
    ranked = rank_submissions(accepted)
    table = Table("rank", "reward", "gold at the end", "tied with", "what happened")
    for entry in ranked:
        own = entry.submission
        cells = (str(entry.rank), own.name, shown(own.gold, 3), str(entry.tied), str(own.summary["answer"]))
        table.add_row(*(Text(harmless(cell)) for cell in cells))
    console.print(table)
    console.print(Text(harmless(str(write_site(ranked, rejected, options.out)))))
    return 0


def _notes(found: Comparison) -> str:
    parts = [
        f"Settings in common: {found.overall.settings}, "
        + ("paired by seed." if found.overall.paired else "not all of them paired by seed."),
        "A verdict needs both intervals to exclude zero.",
    ]
    if found.only_a or found.only_b:
        parts.append(
            f"Not compared: {found.only_a} rows of A and {found.only_b} of B, which the other lacks."
        )
    return " ".join(parts)
