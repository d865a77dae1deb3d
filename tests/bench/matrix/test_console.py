"""What a matrix shows: a line a job, and nothing that a reward's name could do to a terminal."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.bench_world import Note
from text_gym.bench.matrix.console import show_findings, show_progress, show_rows
from text_gym.bench.matrix.engines import Outcome


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
    show_rows(rows, to)
    lines = [line.split() for line in printed(to).splitlines() if line.startswith("gold")]
    assert lines[0] == ["gold", "rloo", "0.1", "0.700", "0.850", "0.800", "0", "of", "2", "4.0", "3.0", "30"]
    assert lines[1] == ["gold", "best_of_n", "0.700", "0.800", "0.800", "0", "of", "1", "≤", "2.0", "30"]


def test_failures_are_counted_and_yours_come_first() -> None:
    to = console()
    golds = (0.99, 0.98, 0.41, 0.99, 0.69)
    show_rows([row(), *(row(design="mine", group="yours", gold=g) for g in golds), row(gold=None)], to)
    lines = [line.split() for line in printed(to).splitlines() if "rloo" in line]
    assert [line[0] for line in lines] == ["mine", "gold"]
    assert lines[0][3:9] == ["0.700", "0.812", "0.410", "2", "of", "5"]
    assert lines[1][3:9] == ["0.700", "0.800", "0.800", "0", "of", "2"]


def finding(design: str, question: str, answer: str, alarm: bool = False) -> dict[str, Any]:
    return {
        "design": design,
        "question": question,
        "answer": answer,
        "alarm": alarm,
        "statement": f"S{question}",
    }


def test_the_users_first_finding_is_printed() -> None:
    to = console()
    found = [
        finding("mine", "Does it hold?", "Hacked.\x1b[2J", True),
        finding("mine", "Does it drift?", "Yes."),
        finding("other", "And this?", "It holds."),
        finding("", "Together?", "No."),
        finding("gold", "Gold?", "It holds."),
    ]
    designs = [{"name": n, "yours": n != "gold"} for n in ("gold", "mine", "other")]
    many = {"questions": 5, "tested": 4, "expected_by_chance": 0.2, "below_0.05": 3, "below_0.05_by_holm": 2}
    show_findings({"findings": found, "designs": designs, "multiplicity": many}, Path("there"), to)
    lines = printed(to).splitlines()
    assert lines[:5] == [
        "Does it hold? Hacked.\\x1b[2J",
        "  SDoes it hold?",
        "Does it drift? Yes.",
        "And this? It holds.",
        "  SAnd this?",
    ]
    assert "Gold?" not in printed(to)
    assert "about 0.2 of these would exclude zero by chance; 3 do, 2 after Holm's" in printed(to)
    assert "there/report.html" in lines[-1]
    to = console()
    show_findings(
        {"findings": found[3:], "designs": designs[:1], "multiplicity": many | {"tested": 0}}, Path("x"), to
    )
    assert "Together? No." in printed(to)
    assert "chance" not in printed(to)
