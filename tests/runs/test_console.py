from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

from rich.console import Console

from text_gym.runs.console import Notes, progress, show_results


def console(**settings: Any) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, width=120, **settings), stream


def test_progress_is_a_tenth_of_the_lines_where_there_is_no_terminal() -> None:
    shown, stream = console()
    with progress(shown, 50) as report:
        for i in range(1, 51):
            report({"iteration": i, "reward": i / 10, "kl": float("nan"), "tokens_per_second": 1234.5})
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "iteration 5  reward 0.500  1,234 tokens/s"


def test_huge_rewards_are_short_and_no_kl_is_minus_zero() -> None:
    shown, stream = console()
    with progress(shown, 1) as report:
        report({"iteration": 1, "reward": -3.75e29, "kl": -0.0001, "tokens_per_second": 1.0})
    assert stream.getvalue() == "iteration 1  reward -3.750e+29  KL 0.00 nats  1 tokens/s\n"


def test_a_display_says_what_is_waited_for() -> None:
    metrics = {"iteration": 1, "reward": 0.5, "kl": float("nan"), "tokens_per_second": 10.0}
    shown, stream = console()
    with progress(shown, 1) as report:
        report.stage("measuring the start")
        report(metrics)
    assert stream.getvalue().splitlines() == [
        "measuring the start …",
        "iteration 1  reward 0.500  10 tokens/s",
    ]
    shown, stream = console(force_terminal=True)
    with progress(shown, 1) as report:
        report.stage("measuring the start")
        shown.print("between")  # which draws the bar anew
        assert "measuring the start" in stream.getvalue()
        assert "training" not in stream.getvalue()
        report(metrics)
    assert "training" in stream.getvalue()
    assert "1/1" in stream.getvalue()


def test_notes_are_shown_and_written_while_the_block_lasts() -> None:
    shown, stream = console()
    written: list[str] = []
    log = logging.getLogger("text_gym")
    with Notes(shown, written.append):
        log.info("resumed after iteration %d", 7)
        log.warning("strange \x1b[31m[bold]text")
    log.info("later")
    assert written[0] == "resumed after iteration 7"
    assert "\x1b" not in written[1]
    assert "[bold]text" in stream.getvalue()
    assert "later" not in stream.getvalue()
    assert log.handlers == []


def test_the_table_shows_what_both_sides_know() -> None:
    shown, stream = console()

    def side(mean: float) -> dict[str, Any]:
        gold = {"mean": mean, "ci95": [mean - 0.1, mean + 0.1]}
        return {
            "gold": gold,
            "reward": {"name": "length", **gold, "terms": {"words": gold}},
            "kl_nats": mean,
            "perplexity": float("nan"),
            "length_tokens": 3.0,
            "terminated": 1.0,
        }

    summary = {"before": side(0.25), "after": side(0.75), "tokens": 12345, "seconds": 6.7}
    show_results(
        shown,
        summary,
        [("a [red]prompt", "bad", {"gold": 0.25}, "good", {"gold": 0.75, "odd\x1b[31m": 2})],
        Path("runs/x"),
        31.4,
    )
    text = stream.getvalue()
    assert "0.250 [0.150, 0.350]" in text
    assert "0.750 [0.650, 0.850]" in text
    assert "perplexity" not in text
    assert text.index("gold") < text.index("reward (length)") < text.index("length: words")
    assert "before (gold 0.25): bad" in text
    assert "after  (gold 0.75, odd" in text
    assert "\x1b" not in text
    assert "a [red]prompt" in text
    assert "12,345 tokens; 31 s in all, 7 s of them training; results in runs/x" in text
