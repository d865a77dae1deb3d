"""Shows a training run: a progress bar or plain lines, notes, and the table before → after.

Nothing is computed here, and nothing that a model wrote reaches the terminal unescaped.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

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

from text_gym.utils.display import harmless

from .folder import Sample, named
from .judgement import rows_of


def show_results(
    console: Console,
    summary: Mapping[str, Any],
    samples: Sequence[Sample],
    folder: Path,
    seconds: float,
) -> None:
    """Print the table before → after, a few texts, and how long all of it took, in wall seconds."""
    before, after = summary["before"], summary["after"]
    table = Table(
        title="Held-out prompts, sampled at temperature 1 (mean, 95 % interval)", title_justify="left"
    )
    for heading in ("", "before", "after"):
        table.add_column(heading, justify="left" if not heading else "right")
    at_start = rows_of(before)
    for name, value in rows_of(after).items():
        table.add_row(Text(harmless(name)), _interval(at_start.get(name)), _interval(value))
    for name, label in (
        ("kl_nats", "KL, nats per episode"),
        ("perplexity", "perplexity, under the reference"),
        ("length_tokens", "length, tokens"),
        ("terminated", "ended by EOS"),
    ):
        if not math.isnan(after[name]):
            table.add_row(label, f"{before[name]:.2f}", f"{after[name]:.2f}")
    if "perfect" in after and "greedy" in before:
        low, high = before["greedy"]["perfect"]["mean"], after["greedy"]["perfect"]["mean"]
        table.add_row("perfect, greedy", f"{low:.3f}", f"{high:.3f}")
    console.print(table)
    for prompt, text_before, scores_before, text_after, scores_after in samples:
        console.print(Text("\n" + harmless(prompt.strip(), newlines=True), style="dim"))
        console.print(Text(f"  before{harmless(named(scores_before))}: {harmless(text_before)}"))
        console.print(Text(f"  after {harmless(named(scores_after))}: {harmless(text_after)}"))
    line = (
        f"{summary['tokens']:,} tokens; {seconds:.0f} s in all, {summary['seconds']:.0f} s of them training"
    )
    console.print(Text(f"\n{line}; results in {folder}"))


def _interval(measure: Mapping[str, Any] | None) -> Text:
    if measure is None:
        return Text()
    low, high = measure["ci95"]
    return Text(f"{measure['mean']:.3f} [{low:.3f}, {high:.3f}]")


class TrainingDisplay(Protocol):
    """Takes the metrics of every iteration, and what is waited for before and after them."""

    def __call__(self, metrics: Mapping[str, float]) -> None:
        """Show one iteration."""

    def stage(self, waiting_for: str) -> None:
        """Show what the run does while no iteration is being played."""


class _Lines:
    """A display of plain lines, one for every tenth of the iterations or, if `every`, for each."""

    def __init__(self, console: Console, total: int, every: bool) -> None:
        self.console, self.total, self.every = console, total, every

    def __call__(self, metrics: Mapping[str, float]) -> None:
        done = int(metrics["iteration"])
        if self.every or done % max(1, self.total // 10) == 0 or done == self.total:
            self.console.print(_status(metrics), highlight=False)

    def stage(self, waiting_for: str) -> None:
        self.console.print(Text(f"{waiting_for} …"))


class _Bar:
    """A display of one bar, which runs to and fro while no iteration is being played."""

    def __init__(self, bar: Progress, total: int) -> None:
        self.bar, self.total = bar, total
        self.task = bar.add_task("starting", total=None, status="")

    def __call__(self, metrics: Mapping[str, float]) -> None:
        status, done = _status(metrics, brief=True), metrics["iteration"]
        self.bar.update(self.task, description="training", total=self.total, completed=done, status=status)

    def stage(self, waiting_for: str) -> None:
        self.bar.reset(self.task, description=waiting_for, total=None, status="")


@contextmanager
def progress(console: Console, total: int, bar: bool = True) -> Iterator[TrainingDisplay]:
    """Show a bar with reward, KL, speed and time left, or plain lines where there is no terminal."""
    if not (bar and console.is_terminal):
        yield _Lines(console, total, every=not bar)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as shown:
        yield _Bar(shown, total)


def _status(metrics: Mapping[str, float], brief: bool = False) -> str:
    known = not math.isnan(metrics.get("kl", math.nan))
    kl = f"KL {round(metrics['kl'], 2) + 0.0:.2f} nats  " if known else ""  # + 0.0: no -0.00
    reward = metrics.get("reward", 0.0)
    shown = f"{reward:.3f}" if abs(reward) < 1e6 else f"{reward:.3e}"
    learnt = f"reward {shown}  {kl}" if "reward" in metrics else ""
    if "margin" in metrics:  # of preference pairs
        learnt = f"loss {metrics['loss']:.3f} nats/pair  accuracy {metrics['accuracy']:.2f}  "
    status = f"{learnt}{metrics['tokens_per_second']:,.0f} tokens/s"
    return status if brief else f"iteration {int(metrics['iteration'])}  {status}"


class Notes(logging.Handler):
    """A context manager that shows what is logged under `text_gym` and passes it to `write`.

    Args:
        console: Where to show it.
        write: Takes one message.
    """

    def __init__(self, console: Console, write: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self.console, self.write = console, write
        self._logger = logging.getLogger("text_gym")

    def __enter__(self) -> Notes:
        self._level = self._logger.level
        self._logger.setLevel(logging.INFO)
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._level)

    def emit(self, record: logging.LogRecord) -> None:
        """Show and write one message."""
        message = harmless(record.getMessage())
        style = "yellow" if record.levelno >= logging.WARNING else "dim"
        self.console.print(Text(message, style=style))
        self.write(message)
