"""Shows a matrix while it runs, and the table at its end; nothing is computed here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from text_gym.bench.analysis.outcomes import YOURS
from text_gym.bench.analysis.verdicts import chance_note
from text_gym.utils.display import harmless

Show = Callable[[Any, str], None]


@contextmanager
def show_progress(console: Console, total: int, done_before: int) -> Iterator[Show]:
    """Show a bar over a round's jobs and a line per finished one, or lines alone without a terminal.

    Args:
        console: Where.
        total: Jobs to be done.
        done_before: Jobs of the round that were done already.
    """
    if done_before:
        console.print(Text(f"{done_before} done before", style="dim"))
    count = 0

    def line(outcome: Any, headline: str) -> None:
        nonlocal count
        count += 1
        style = "red" if outcome.error else ""
        text = f"{count:>4}/{total}  {outcome.job.name}  {headline}  ({outcome.seconds:.0f} s)"
        console.print(Text(harmless(text), style=style))

    if not console.is_terminal:
        yield line
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("", total=total)

        def both(outcome: Any, headline: str) -> None:
            line(outcome, headline)
            progress.update(task, advance=1)

        yield both


def show_rows(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Print the result of each design, optimiser and coefficient over seeds, the user's designs first."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row.get("group") != YOURS):
        groups.setdefault((row["task"], row["design"], row["optimiser"], row["kl_coefficient"]), []).append(
            row
        )
    several = len({row["task"] for row in rows}) > 1
    title = (
        "Held-out prompts, means over seeds, gold of the worst run, and how many ended below their start "
        "(failed); the proxy's gain in standard deviations, KL in nats"
    )
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)  # it fits into 80 columns
    for heading in (*(["task"] if several else []), "design", "optimiser"):
        table.add_column(heading, no_wrap=True, overflow="fold")  # names are to be read whole
    for heading in ("β", "before", "gold", "worst", "failed", "proxy", "KL", "words"):
        table.add_column(heading, justify="right", no_wrap=True)
    for (task, design, optimiser, beta), own in groups.items():
        cells = [*([task] if several else []), Text(harmless(design)), optimiser]
        gains = [_gain(row) for row in own]
        bound = "≤ " if own[0]["kl_kind"] == "bound" else ""
        table.add_row(
            *cells,
            "" if beta is None else f"{beta:g}",
            _mean([row["gold_start"] for row in own], 3),
            _mean([row["gold"] for row in own], 3),
            _worst(own),
            f"{_failed(own)} of {len(own)}",
            _mean(gains, 1),
            bound + _mean([row["kl_nats"] for row in own], 1),
            _mean([row["length"] for row in own], 0),
        )
    console.print(table)


def show_findings(summary: Mapping[str, Any], folder: Path, console: Console) -> None:
    """Print what was found of each of the user's designs and algorithms; without any, the first findings."""
    yours = [d["name"] for d in summary["designs"] if d["yours"]]
    found = [f for f in summary["findings"] if f["design"] in yours or f.get("name") == "own_algorithm"]
    for i, f in enumerate(found or summary["findings"][:3]):
        style = "bold red" if f["alarm"] else "bold"
        console.print(Text.assemble(harmless(f["question"]) + " ", (harmless(f["answer"]), style)))
        if not found or i == 0 or f["design"] != found[i - 1]["design"]:
            console.print(Text("  " + harmless(f["statement"])))
    if note := chance_note(summary["multiplicity"]):
        console.print(Text(note, style="dim"))
    console.print(Text(f"report: {harmless(str(folder))}/report.html"))


def _gain(row: dict[str, Any]) -> float | None:
    """Return the proxy's gain in standard deviations at the start."""
    if row["proxy"] is None or not row["proxy_std_start"]:
        return None
    return float((row["proxy"] - row["proxy_start"]) / row["proxy_std_start"])


def _worst(rows: Sequence[dict[str, Any]]) -> str:
    known = [row["gold"] for row in rows if row["gold"] is not None]
    return f"{min(known):.3f}" if known else ""


def _failed(rows: Sequence[dict[str, Any]]) -> int:
    """Count the runs that ended with less gold than they began with."""
    return sum(r["gold"] < r["gold_start"] for r in rows if None not in (r["gold"], r["gold_start"]))


def _mean(values: Sequence[float | None], digits: int) -> str:
    known = [v for v in values if v is not None]
    return f"{sum(known) / len(known):.{digits}f}" if known else ""
