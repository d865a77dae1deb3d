"""Numbers are copied without the texts, and a text that is left is found."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench_e2e import rows, write_table
from tests.bench_folder import write_benchmark
from text_gym.bench.analysis.summary import summarise
from text_gym.utils.json_files import write_json

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("rewards_numbers")


def test_quotations_are_cut_out_and_nothing_else(script: Any, tmp_path: Path) -> None:
    text = rows()[0][1]
    folder = write_benchmark(tmp_path / "made", ["gold", "keywords"], ["rloo"], text=text)
    (folder / "results.csv").write_text("gold\n0.5\n")
    whole = summarise(folder)
    write_json(folder / "summary.json", whole)
    assert sum(text in f["statement"] for f in whole["findings"]) == 2
    out, table = tmp_path / "out", str(write_table(tmp_path))
    config = json.loads((folder / "config.json").read_text())
    assert script.main(script.Options(folder, out, table)) == 1  # descriptions of designs say it, too
    assert not out.exists()
    write_json(folder / "config.json", {**config, "designs": [], "command": "text-gym bench rewards"})
    write_json(folder / "summary.json", summarise(folder))
    assert script.main(script.Options(folder, out, table)) == 0
    content, found = (json.loads((d / "summary.json").read_text()) for d in (folder, out))
    pairs = [(a, b) for a, b in zip(content["findings"], found["findings"], strict=True) if a != b]
    assert {a["name"] for a, _ in pairs} == {"texts"}
    assert all(a["statement"].startswith(b["statement"]) and b["statement"] for a, b in pairs)
    assert (out / "results.json").exists()
    assert (out / "results.csv").read_text() == "gold\n0.5\n"


def test_what_is_published_of_e2e_holds_no_quotation(script: Any) -> None:
    folder = ROOT / "benchmarks" / "results" / "rewards-e2e"
    assert {file.suffix for file in folder.iterdir()} <= {".json", ".csv"}
    for finding in json.loads((folder / "summary.json").read_text(encoding="utf-8"))["findings"]:
        assert not script.QUOTED.search(finding["statement"])
