"""What a matrix shows while it runs, and the table at its end. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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

from ..display import harmless

Show = Callable[[Any, str], None]


@contextmanager
def show_progress(console: Console, total: int, done_before: int) -> Iterator[Show]:
    """A bar over the jobs of a round, a line for each that is done; lines alone where there is no terminal.

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


def show_rows(rows: Sequence[dict[str, Any]], folder: Path, console: Console) -> None:
    """Print mean gold and proxy of each design, optimiser and coefficient over the seeds."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["design"], row["optimiser"], row["kl_coefficient"]), []).append(
            row
        )
    several = len({row["task"] for row in rows}) > 1
    title = "Held-out prompts, means over seeds; the proxy's gain in standard deviations, KL in nats"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)  # it fits into 80 columns
    for heading in (*(["task"] if several else []), "design", "optimiser"):
        table.add_column(heading, no_wrap=True, overflow="fold")  # names are to be read whole
    for heading in ("β", "before", "gold", "proxy", "KL", "words", "seeds"):
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
            _mean(gains, 1),
            bound + _mean([row["kl_nats"] for row in own], 1),
            _mean([row["length"] for row in own], 0),
            str(len(own)),
        )
    console.print(table)
    console.print(Text(f"report: {harmless(str(folder))}/report.html"))


def _gain(row: dict[str, Any]) -> float | None:
    """What the proxy gained, in standard deviations at the start."""
    if row["proxy"] is None or not row["proxy_std_start"]:
        return None
    return float((row["proxy"] - row["proxy_start"]) / row["proxy_std_start"])


def _mean(values: Sequence[float | None], digits: int) -> str:
    known = [v for v in values if v is not None]
    return f"{sum(known) / len(known):.{digits}f}" if known else ""
