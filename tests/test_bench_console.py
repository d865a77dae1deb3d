"""What a matrix shows: a line a job, and nothing that a reward's name could do to a terminal."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from bench_world import Note
from rich.console import Console

from text_gym.bench.console import show_progress, show_rows
from text_gym.bench.engines import Outcome


def console(terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), width=160, force_terminal=terminal, highlight=False)


def printed(to: Console) -> str:
    assert isinstance(to.file, io.StringIO)
    return to.file.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_each_job_has_a_line_and_failures_say_why(terminal: bool) -> None:
    to = console(terminal)
    with show_progress(to, 2, 5) as show:
        show(Outcome(Note("first"), 3.0), "gold 0.90")
        show(Outcome(Note("bad\x1b[2J"), 1.0, "ValueError: no"), "ValueError: no")
    text = printed(to)
    assert "5 done before" in text
    assert "1/2  first  gold 0.90  (3 s)" in text
    assert "2/2  bad\\x1b[2J  ValueError: no" in text


def row(**values: Any) -> dict[str, Any]:
    return {
        "task": "products", "design": "gold", "optimiser": "rloo", "kl_coefficient": 0.1, "gold": 0.8,
        "gold_start": 0.7, "proxy": 3.0, "proxy_start": 1.0, "proxy_std_start": 0.5, "kl_nats": 2.0,
        "kl_kind": "estimate", "length": 30.0, **values,
    }  # fmt: skip


def test_the_table_has_means_over_seeds_and_bounds_as_bounds() -> None:
    to = console()
    rows = [
        row(),
        row(gold=0.9, kl_nats=4.0),
        row(optimiser="best_of_n", kl_coefficient=None, kl_kind="bound", proxy_std_start=0.0),
    ]
    show_rows(rows, Path("there"), to)
    lines = [line.split() for line in printed(to).splitlines() if line.startswith("gold")]
    assert lines[0] == ["gold", "rloo", "0.1", "0.700", "0.850", "4.0", "3.0", "30", "2"]
    assert lines[1] == ["gold", "best_of_n", "0.700", "0.800", "≤", "2.0", "30", "1"]
    assert "there/report.html" in printed(to)
