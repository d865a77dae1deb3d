"""Shows learning as it happens: live curves in a notebook, a bar in a terminal, else a line now and then.

It is given metrics and computes none of them; an agent that is not asked for it shows nothing. IPython is
never imported first: where it is not loaded, nobody sits in a notebook.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from markupsafe import Markup
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from text_gym.pages.notebook import frame
from text_gym.plot.canvas import panels, to_svg
from text_gym.plot.lines import Line, curves
from text_gym.utils.terminal import SafeConsole

Show = Callable[[Mapping[str, float]], None]
# Metrics that are drawn and told, with their names, in the order in which they stand beside each other: of
# agents that play, by iterations, and of those that are given texts, by steps.
CURVES = {
    "iteration": {"reward": "reward", "kl": "KL, nats per episode", "length": "length, tokens"},
    "step": {"loss": "loss, nats", "accuracy": "accuracy"},
}
_POINTS = 400  # of a curve; more are thinned out
_SHARE = 10  # a drawing is made again after ten times as long as it took, and no sooner than a second


@contextmanager
def training_progress(on: bool, total: int, unit: str = "iteration") -> Iterator[Show]:
    """Show the metrics that the function is given, of `total` iterations or steps in all.

    Args:
        on: False shows nothing.
        total: The number of the last iteration or step.
        unit: The metric that counts, `"iteration"` or `"step"`.
    """
    console = SafeConsole()
    nothing = f"nothing left to do: {total:,} {unit}s were asked for in all"
    if not on:
        yield lambda metrics: None
    elif _in_notebook():
        live = _LiveCurves(total, unit)
        try:
            yield live
            live.status = live.status if live.x else nothing  # a cell that was run again
        finally:
            live.draw()
    elif console.is_terminal:
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[status]}"))
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
            task = bar.add_task(unit, total=total, status="")
            yield lambda m: bar.update(task, completed=m[unit], status=_status(m, unit))
            if not bar.tasks[task].completed:
                bar.update(task, completed=total, status=nothing)
    else:
        lines = _Lines(total, unit)
        yield lines
        if lines.last == -math.inf:
            print(nothing, flush=True)


class _Lines:
    """Prints a line for the first and the last iteration, and for every tenth of them in between."""

    def __init__(self, total: int, unit: str) -> None:
        self.total, self.unit, self.last = total, unit, -math.inf

    def __call__(self, metrics: Mapping[str, float]) -> None:
        done = int(metrics[self.unit])
        if done >= self.last + self.total / 10 or done == self.total:
            self.last = done
            print(f"{self.unit} {done:,} of {self.total:,}  {_status(metrics, self.unit)}", flush=True)


class _LiveCurves:
    """A display of a notebook's cell that is drawn again as metrics come in."""

    def __init__(self, total: int, unit: str) -> None:
        from IPython.display import display

        self.total, self.unit = total, unit
        self.x: list[float] = []
        self.history: dict[str, list[float]] = {}
        self.status = "starting …"
        self.next = 0.0  # when it may be drawn again
        self.handle: Any = display(self, display_id=True)

    def __call__(self, metrics: Mapping[str, float]) -> None:
        self.x.append(float(metrics[self.unit]))
        for name in CURVES[self.unit]:
            if name in metrics:
                gap = [math.nan] * (len(self.x) - 1 - len(self.history.setdefault(name, [])))
                self.history[name] += [*gap, float(metrics[name])]
        done = f"{self.unit} {int(metrics[self.unit]):,} of {self.total:,}"
        self.status = f"{done} · {_status(metrics, self.unit, ' · ')}"
        if time.perf_counter() >= self.next:
            self.draw()

    def draw(self) -> None:
        """Draw what is known so far in the place where the display stands."""
        began = time.perf_counter()
        self.handle.update(self)
        ended = time.perf_counter()
        self.next = ended + max(1.0, _SHARE * (ended - began))

    def __repr__(self) -> str:
        return self.status

    def _repr_html_(self) -> str:
        known = [name for name, values in self.history.items() if any(map(math.isfinite, values))]
        status = Markup('<div class="soft">{}</div>').format(self.status)
        if not known:
            return frame(status)
        figure, axes = panels(len(known), columns=3, size=(3.3, 2.3))
        every = -(-len(self.x) // _POINTS)
        for name, ax in zip(known, axes, strict=True):
            line = Line(self.x[::every], self.history[name][::every], marks=len(self.x) < 3)
            curves([line], x_label=self.unit, title=CURVES[self.unit][name], ax=ax)
        return frame(status, to_svg(figure, alt=self.status))


def _status(metrics: Mapping[str, float], unit: str, between: str = "  ") -> str:
    """Return the metrics that are known, in a line."""
    known = {n: metrics[n] for n in CURVES[unit] if math.isfinite(metrics.get(n, math.nan))}
    told = [f"{CURVES[unit][name].partition(',')[0]} {value:.3g}" for name, value in known.items()]
    if "tokens_per_second" in metrics:
        told.append(f"{metrics['tokens_per_second']:,.0f} tokens/s")
    return between.join(told)


def _in_notebook() -> bool:
    """True where a kernel of Jupyter runs the program, so that a display can be updated."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None
