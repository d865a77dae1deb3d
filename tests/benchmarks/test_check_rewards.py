"""The script that recomputes a summary from the rows alone agrees with it, and sees what was changed."""

from __future__ import annotations

import csv
import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.bench_folder import write_benchmark
from text_gym.bench.analysis.summary import summarise
from text_gym.utils.json_files import write_json

Printed = pytest.CaptureFixture[str]
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "check_rewards.py"


def folder(path: Path, seeds: int, optimisers: tuple[str, ...] = ("best_of_n", "ppo", "rloo")) -> Path:
    here = write_benchmark(path, ["gold", "unstable", "keywords"], optimisers, seeds=range(seeds))
    rows = json.loads((here / "results.json").read_text())
    with (here / "results.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    write_json(here / "summary.json", summarise(here))
    return here


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module("check_rewards")


@pytest.mark.parametrize("seeds", [1, 3, 5])
def test_it_agrees(tmp_path: Path, seeds: int, check: Any, capsys: Printed) -> None:
    assert check.main([str(folder(tmp_path, seeds))]) == 0
    printed = capsys.readouterr().out
    assert "all agree" in printed
    assert f"numbers of {3 * seeds * (1 + 2 * 3)} rows" in printed


def test_it_sees_what_is_wrong(tmp_path: Path, check: Any, capsys: Printed) -> None:
    here = folder(tmp_path, 3)
    whole = json.loads((here / "summary.json").read_text())
    design = next(d for d in whole["designs"] if d["name"] == "unstable")
    changes: list[tuple[str, Any]] = [
        ("worst", 0.5),
        ("below_start", 1),
        ("mean", 0.9),
        ("student", [0.0, 1.0]),
    ]
    changes += [("ci95", [0.1, 0.99]), ("value", None), ("n", 5)]
    for key, value in changes:
        right = design["ends"][0]["gold"][key]
        design["ends"][0]["gold"][key] = value
        (here / "summary.json").write_text(json.dumps(whole))
        assert check.main([str(here)]) == 1
        printed = capsys.readouterr().out
        assert f"unstable \\xb7 \\u03b2 0: {key} is " in printed
        assert "1 differ" in printed
        design["ends"][0]["gold"][key] = right


def test_it_stands_alone() -> None:
    assert not re.search(r"^\s*(from|import) text_gym", SCRIPT.read_text(), flags=re.MULTILINE)
