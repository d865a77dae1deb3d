"""Keeps the package's promises with large numbers: `python -m tests.trust [-k WORDS] [FILES]` runs for hours.

It runs the nightly tests that tell how often they tried something (the fixture `tried`) and writes what
came of it to benchmarks/results/trust.json, from which `python docs/make.py` makes the table of the page
"How it is tested". Tests that are not run keep the rows that they had.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "trust.json"


class Watch:
    """Chooses the tests that tell how often they tried something, and keeps what they tell."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out every other test."""
        chosen = [item for item in items if "tried" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what a test told, a row for each function."""
        if report.when != "call" or report.skipped:
            return
        told: dict[str, Any] = dict(report.user_properties).get("tried", {})  # type: ignore[assignment]
        row: dict[str, Any] = self.rows.setdefault(
            report.nodeid.partition("[")[0],
            {
                "promise": "",
                "unit": "",
                "tried": 0,
                "found": Counter(),
                "failed": 0,
                "seconds": 0.0,
                "date": datetime.date.today().isoformat(),
            },
        )
        row |= {key: told[key] for key in ("promise", "unit") if key in told}
        row["tried"] += told.get("number", 0)
        row["found"].update(told.get("found", {}))
        row["failed"] += report.failed
        row["seconds"] += round(report.duration, 1)


def main(arguments: list[str]) -> int:
    """Run the tests and write the rows of those that ran."""
    watch = Watch()
    options = ["-o", "addopts=", "-m", "nightly", "-n", "0", "--timeout", "36000", "-q"]
    given = any(Path(argument.partition("::")[0]).exists() for argument in arguments)
    places = [] if given else [str(ROOT / "tests")]
    status = pytest.main([*options, *arguments, *places], plugins=[watch])
    old = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    rows = dict(sorted((old | watch.rows).items()))
    RESULTS.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
