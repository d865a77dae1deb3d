from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import trim_mean, ttest_1samp

from tests.bench_folder import DESIGNS, NULLS, write_benchmark
from text_gym.bench.analysis.results import read_results
from text_gym.bench.analysis.summary import summarise, summary_of
from text_gym.utils.json_files import write_json


def test_settings(tmp_path: Path) -> None:
    found = summarise(write_benchmark(tmp_path, ["gold", "keywords"]))
    assert found["cells"] == 2 * (1 + 2 * 3) * 3
    assert [s["design"] for s in found["settings"]] == ["gold"] * 7 + ["keywords"] * 7
    cells = [c for c in read_results(tmp_path).cells if c.setting == ("products", "keywords", "ppo", 0.0)]
    own = next(
        s
        for s in found["settings"]
        if (s["design"], s["optimiser"], s["kl_coefficient"]) == ("keywords", "ppo", 0)
    )
    runs = [c["gold"] for c in cells]
    assert own["measures"]["gold"]["value"] == pytest.approx(sum(runs) / 3)
    assert own["measures"]["gold"]["ci95"] == [min(runs), max(runs)]  # of three runs: their range
    assert own["seeds"] == [0, 1, 2]
    assert found["runs"] == {"least": 3, "most": 3, "coverage_of_range": 0.75}


def test_designs_are_ranked_by_gold_within_the_budget(tmp_path: Path) -> None:
    designs = summarise(write_benchmark(tmp_path))["designs"]
    assert [d["rank"] for d in designs] == list(range(1, len(DESIGNS) + 1))
    best = [d["budgets"]["5"]["gold"]["value"] for d in designs]
    assert best == sorted(best, reverse=True)
    assert {designs[0]["name"], designs[1]["name"]} == {"gold", "gold-per-token"}
    assert designs[-1]["name"] == "keywords"
    assert all(d["budgets"][b]["kl_nats"] <= float(b) for d in designs for b in d["budgets"])


def test_a_design(tmp_path: Path) -> None:
    (found,) = summarise(write_benchmark(tmp_path, ["pairs-128"]))["designs"]
    assert found["least_kl_coefficient"] == 0
    assert found["best"]["kl_coefficient"] == 0.3  # 16 and 6 nats are too many
    assert found["static_accuracy"]["mean"] == 0.66
    assert found["null_rulers"] == {name: pytest.approx((i + 1) / 10) for i, name in enumerate(NULLS)}
    assert found["at_least"]["gold"]["value"] == pytest.approx(0.7 + 0.4 - 0.64 + 0.005, abs=0.01)
    assert found["best_of_n"]["5"]["kl_nats"] <= math.log(64)


def test_gold_says_what_the_interquartile_mean_does_not(tmp_path: Path) -> None:
    folder = write_benchmark(tmp_path, ["unstable", "gold"], ["ppo", "grpo", "rloo"], [0.0, 0.05])
    found = summarise(folder)
    cells = [c for c in read_results(folder).cells if c.row["design"] == "unstable"]
    design = next(d for d in found["designs"] if d["name"] == "unstable")
    assert design["yours"]
    assert [e["kl_coefficient"] for e in design["ends"]] == [0.0, 0.05]
    assert design["at_least"] == design["ends"][0]
    for end in design["ends"]:
        own = [c for c in cells if c["kl_coefficient"] == end["kl_coefficient"]]
        golds = np.array([c["gold"] for c in own])
        by_seed = [np.mean([c["gold"] for c in own if c.row["seed"] == s]) for s in range(3)]
        gold = end["gold"]
        assert gold["value"] == pytest.approx(trim_mean(golds, 0.25))
        assert gold["mean"] == pytest.approx(golds.mean())
        low, high = ttest_1samp(by_seed, 0).confidence_interval(0.95)
        assert gold["student"] == pytest.approx([low, high])
        assert gold["worst"] == golds.min()
        assert gold["below_start"] == (golds < 0.7).sum()
    assert [e["gold"]["below_start"] for e in design["ends"]] == [2, 0]
    one = next(s for s in found["settings"] if s["design"] == "unstable" and s["kl_coefficient"] == 0)
    assert (one["optimiser"], one["measures"]["gold"]["below_start"]) == ("ppo", 2)
    assert one["measures"]["gold"]["n"] == 3


def test_findings_and_their_number_are_in_it(tmp_path: Path) -> None:
    found = summarise(write_benchmark(tmp_path, ["fine"], ["ppo"]))
    many = found["multiplicity"]
    assert many["questions"] == len(found["findings"])
    tested = [f["p"] for f in found["findings"] if math.isfinite(f["p"])]
    assert many["tested"] == len(tested)
    assert many["expected_by_chance"] == pytest.approx(len(tested) / 20)


def test_sample_efficiency(tmp_path: Path) -> None:
    found = summarise(write_benchmark(tmp_path, ["gold", "keywords"], ["ppo"], [0.0]))
    target = found["targets"]["products"]
    assert target == pytest.approx(0.7 + 0.9 * 0.3)
    gold, keywords = (s["episodes_to_target"] for s in found["settings"])
    # 0.71 + 0.12 sqrt(kl) reaches 0.97 at 4.69 nats, and 2 nats take 320 episodes.
    assert gold["reached"] == 3
    assert gold["mean"] == pytest.approx(4.69 / 2 * 320, rel=0.1)
    assert keywords["reached"] == 0
    assert math.isnan(keywords["mean"])


def test_the_mean_is_of_runs_that_all_reached_the_target(tmp_path: Path) -> None:
    write_benchmark(tmp_path, ["gold"], ["ppo"], [0.0])
    file = next((tmp_path / "cells").iterdir())
    cell = json.loads(file.read_text())
    for point in cell["curve"]:
        point["gold"] = 0.7
    write_json(file, cell)
    (setting,) = summarise(tmp_path)["settings"]
    assert setting["episodes_to_target"]["reached"] == 2
    assert math.isnan(setting["episodes_to_target"]["mean"])


def test_a_matrix_that_is_not_finished(tmp_path: Path) -> None:
    write_benchmark(tmp_path)
    for i, file in enumerate(sorted((tmp_path / "cells").iterdir())):
        if i % 3:
            file.unlink()
    found = summarise(tmp_path)
    assert found["cells"] == 63
    assert found["runs"]["least"] == 1


def test_probabilities_of_improvement(tmp_path: Path) -> None:
    folder = write_benchmark(tmp_path, ["clarity"], ["ppo", "grpo"], [0.05, 0.3], what="agents")
    found = {(p["a"], p["b"]): p for p in summary_of(read_results(folder))["algorithms"]}
    assert set(found) == {("ppo", "grpo"), ("grpo", "ppo")}
    ahead = [found["grpo", "ppo"]["b_beats_a"]["value"], found["ppo", "grpo"]["b_beats_a"]["value"]]
    assert sum(ahead) == pytest.approx(1)
    assert ahead[0] > 0.5
    assert found["ppo", "grpo"]["strata"] == 2


def test_a_summary_is_json(tmp_path: Path) -> None:
    found = summarise(write_benchmark(tmp_path, seeds=[0]))
    write_json(tmp_path / "summary.json", found)
    assert json.loads((tmp_path / "summary.json").read_text())["cells"] == found["cells"]
