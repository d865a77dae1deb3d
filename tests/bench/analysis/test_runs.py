from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.bench_folder import END, GOLD_STD, PROXY_STD, STEPS, WORDS, point, write_benchmark
from text_gym.bench.analysis.results import Setting, read_results
from text_gym.bench.analysis.runs import (
    below_start,
    best_point,
    falls,
    mean_curve,
    mean_known,
    mean_of,
    value,
)


def test_measures_that_follow_from_others(tmp_path: Path) -> None:
    cell = read_results(write_benchmark(tmp_path, ["length-biased-512"], ["ppo"], [0.0], [0])).cells[0]
    assert value(cell, "gold") == cell["gold"]
    assert value(cell, "length_drift") == pytest.approx(1.5 * END[0.0])
    assert value(cell, "length_slope") == pytest.approx(1.5 * END[0.0] / (320 * STEPS) * 1000)
    assert value(cell, "proxy_gain") == pytest.approx(0.4 * 4 / PROXY_STD)
    assert value(cell, "gold_gain") == pytest.approx((cell["gold"] - 0.7) / GOLD_STD)
    assert math.isnan(value(cell, "self-bleu"))


def test_a_mean_curve_has_the_steps_that_all_runs_have(tmp_path: Path) -> None:
    cells = read_results(write_benchmark(tmp_path, ["clarity"], ["ppo"], [0.0], [0, 1])).cells
    both = [point("clarity", "ppo", 4.0, seed, 10, 640)["gold"] for seed in (0, 1)]
    curve = mean_curve([cells[0], type(cells[1])(cells[1].row, cells[1].curve[:4], [])])
    assert [p["step"] for p in curve] == [0, 5, 10, 15]
    assert curve[2]["gold"] == pytest.approx(sum(both) / 2)
    assert curve[2]["gold_gain"] == pytest.approx((sum(both) / 2 - 0.7) / GOLD_STD)
    assert curve[0]["gold_gain"] == curve[0]["proxy_gain"] == 0


def test_of_three_runs_one_may_be_cut_short(tmp_path: Path) -> None:
    cells = read_results(write_benchmark(tmp_path, ["clarity"], ["ppo"], [0.0], [0, 1, 2])).cells
    cut = type(cells[1])(cells[1].row, cells[1].curve[:4], [])
    assert [p["step"] for p in mean_curve([cells[0], cut, cells[2]])] == [0, 5, 10, 15]


def test_the_best_point_within_a_budget(tmp_path: Path) -> None:
    settings = read_results(write_benchmark(tmp_path, ["pairs-128"], ["grpo"])).settings
    # gold = 0.7 + 0.10 sqrt(kl) - 0.04 kl has its maximum at kl = 1.5625.
    found = best_point(settings, 20.0)
    assert found is not None
    setting, at, gold = found
    assert at["kl_nats"] == pytest.approx(1.5, abs=0.6)
    assert sum(gold.values()) / 3 == pytest.approx(0.7625, abs=0.01)
    assert len(gold) == 3
    assert isinstance(setting, Setting)
    nothing = best_point(settings, 0.0)
    assert nothing is not None
    assert nothing[2] == {0: 0.7, 1: 0.7, 2: 0.7}  # the start
    assert best_point({}, 1.0) is None


def test_means() -> None:
    assert mean_known([1.0, math.nan, 3.0]) == 2
    assert math.isnan(mean_known([math.nan]))


def test_the_mean_of_strata(tmp_path: Path) -> None:
    results = read_results(write_benchmark(tmp_path, ["keywords"], ["ppo", "grpo"], [0.0]))
    found = mean_of(results.trained("keywords", 0.0), "length")
    assert (found.value, found.n) == (WORDS - END[0.0], 6)


def test_falls_from_the_best_point_of_the_mean_curve(tmp_path: Path) -> None:
    cells = read_results(write_benchmark(tmp_path, ["pairs-128"], ["grpo"], [0.0])).cells
    found = falls(cells)
    assert list(found) == [0, 1, 2]
    for cell, fall in zip(cells, found.values(), strict=True):
        golds = [p["gold"] for p in cell.curve]
        assert fall == golds[-1] - golds[1]  # at 2 nats, of 0, 2, 4 ... 16: 0.7 + 0.1 sqrt(kl) - 0.04 kl
    assert falls([type(cells[0])(cells[0].row, [], [])]) == {}


def test_a_run_falls_from_where_the_mean_is_best_and_not_from_its_own_best(tmp_path: Path) -> None:
    cells = read_results(write_benchmark(tmp_path, ["pairs-128"], ["grpo"], [0.0], [0, 1])).cells
    golds = [0.0, 1.0, 0.6, 0.3], [0.0, 0.4, 0.7, 0.2]  # the mean is 0.7 at the second point
    curves = [[{"step": i, "gold": g} for i, g in enumerate(run)] for run in golds]
    found = falls([type(c)(c.row, curve, []) for c, curve in zip(cells, curves, strict=True)])
    assert found == {0: pytest.approx(-0.7), 1: pytest.approx(-0.2)}


def test_runs_below_their_start(tmp_path: Path) -> None:
    results = read_results(write_benchmark(tmp_path, ["unstable"], ["ppo", "grpo", "rloo"], [0.0]))
    assert below_start(results.cells) == 2
    assert below_start([c for c in results.cells if c.row["optimiser"] == "grpo"]) == 0
