from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest

from tests.bench_folder import write_benchmark
from text_gym.bench.analysis.results import (
    Setting,
    optimiser_name,
    read_leaderboard,
    read_results,
    setting_of,
)
from text_gym.errors import ConfigError, DataError


def test_cells_come_in_the_order_of_the_configuration(tmp_path: Path) -> None:
    folder = write_benchmark(tmp_path, ["keywords", "gold"], ["ppo", "best_of_n"], [0.3, 0.0], [1, 0])
    found = read_results(folder)
    assert [(*c.setting[1:], c.row["seed"]) for c in found.cells] == [
        (design, optimiser, beta, seed)
        for design in ("keywords", "gold")
        for optimiser, betas in (("ppo", (0.0, 0.3)), ("best_of_n", (None,)))
        for beta in betas
        for seed in (0, 1)
    ]
    assert found.designs == ["keywords", "gold"]
    assert found.coefficients("gold") == [0.0, 0.3]
    assert [len(c) for c in found.trained("gold", 0.3)] == [2]
    assert found.traits("keywords") == {"kind": "script"}
    assert found.traits("another") == {}
    assert len(found.settings) == 6


def test_a_cell_without_a_measure_has_nan(tmp_path: Path) -> None:
    cell = read_results(write_benchmark(tmp_path, ["gold"], ["ppo"], [0.0], [0])).cells[0]
    assert math.isnan(cell["no such measure"])
    assert math.isnan(cell["n"])
    assert cell["gold_start"] == 0.7
    assert cell.along("kl_nats").tolist() == [2.0 * i for i in range(9)]


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        read_results(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match="no finished cell"):
        read_results(tmp_path)
    (tmp_path / "cells").mkdir()
    for content in ("{", "[]", '{"row": {}}', '{"row": {"task": 1}}', '{"row": 3}'):
        (tmp_path / "cells" / "0.json").write_text(content)
        with pytest.raises(DataError, match=r"0\.json is no cell"):
            read_results(tmp_path)


def test_the_two_leaderboard_files_say_the_same(tmp_path: Path) -> None:
    folder = write_benchmark(tmp_path, ["gold", "keywords"], seeds=[0])
    rows = json.loads((folder / "results.json").read_text())
    for row in rows:
        row["null_rulers"] = json.dumps(row["null_rulers"])
    (folder / "results.json").write_text(json.dumps(rows))
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    of_json, of_csv = read_leaderboard(folder / "results.json"), read_leaderboard(folder / "results.csv")
    assert of_json == of_csv == read_leaderboard(folder)
    assert of_csv[0]["kl_coefficient"] is None
    assert of_csv[0]["kl_nats"] == pytest.approx(math.log(64) - 63 / 64)
    assert setting_of(of_csv[0]) == Setting("products", "gold", "best_of_n", None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", "", "give the folder of a benchmark"),
        ("x.json", "{}", "expected a list"),
        ("x.json", "[]", "no rows"),
        ("x.json", '[{"task": "t"}]', "no column 'design'"),
        ("x.csv", "task,design,optimiser,kl_coefficient,seed\nt,d,o,0,0\n", "no column 'gold'"),
        (
            "x.csv",
            "task,design,optimiser,kl_coefficient,seed,gold\nt,d,o,zero,0,1\n",
            "kl_coefficient is 'zero'",
        ),
        (
            "x.csv",
            "task,design,optimiser,kl_coefficient,seed,gold\nt,d,o,0,0,1\nt,d,o,0,0,1\n",
            "rows 1 and 2",
        ),
    ],
)
def test_files_that_are_no_leaderboards(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_leaderboard(tmp_path / name)


def test_a_folder_without_results(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no results\.json"):
        read_leaderboard(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        read_leaderboard(tmp_path / "gone.csv")


def test_names_of_optimisers_and_settings() -> None:
    assert [optimiser_name(o) for o in ("ppo", "rloo", "sb3.ppo", "best_of_n")] == [
        "PPO",
        "RLOO",
        "SB3 PPO",
        "best-of-n",
    ]
    assert str(Setting("t", "gold", "grpo", 0.05)) == "gold, GRPO, β = 0.05"
    assert str(Setting("t", "gold", "best_of_n", None)) == "gold, best-of-n"
