"""The made-up runs have known curves: gold = 0.7 + up * sqrt(kl) - down * kl, give or take 0.01."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from bench_folder import DESIGNS, END, write_benchmark

from text_gym.bench.findings import find
from text_gym.bench.results import read_results
from text_gym.bench.verdicts import UNKNOWN, Finding


def findings(folder: Path, name: str) -> list[Finding]:
    return [f for f in find(read_results(folder)) if f.name == name]


def only(folder: Path, name: str) -> Finding:
    (found,) = findings(folder, name)
    return found


def gold(design: str, kl: float) -> float:
    _, _, _, up, down, _ = DESIGNS[design]
    return 0.7 + up * math.sqrt(kl) - down * kl


def test_a_small_model_is_over_optimised(tmp_path: Path) -> None:
    found = only(write_benchmark(tmp_path, ["gold", "pairs-128", "length-biased-512"]), "over_optimisation")
    assert found.verdict == "yes"
    assert "Is a reward model" in found.question
    assert "“pairs-128”" in found.question
    fall, change, gain = (interval for _, interval in found.numbers[:3])
    best = max(gold("pairs-128", END[0.0] * i / 8) for i in range(9))
    assert fall.value == pytest.approx(gold("pairs-128", 16) - best, abs=0.02)
    assert fall.low < fall.value < fall.high < 0
    assert change.value == pytest.approx(gold("pairs-128", 16) - 0.7, abs=0.02)
    assert gain.value == pytest.approx(0.4 * 4 / 0.5)
    assert fall.n == 6  # two optimisers, three seeds


def test_learned_models_are_judged_together(tmp_path: Path) -> None:
    found = only(write_benchmark(tmp_path), "over_optimisation")
    assert "“pairs-128”, “clean-512”" in found.question
    numbers = dict(found.numbers)
    falls = []
    for design in ("pairs-128", "clean-512"):
        best = max(gold(design, END[0.0] * i / 8) for i in range(9))
        falls.append(gold(design, 16) - best)
        assert numbers[f"gold, best to end: {design}"].value == pytest.approx(falls[-1], abs=0.02)
    assert numbers["gold, best to end"].value == pytest.approx(sum(falls) / 2, abs=0.02)
    assert numbers["gold, best to end"].n == 12  # two designs, two optimisers, three seeds


def test_the_coefficient_that_prevents_it(tmp_path: Path) -> None:
    found = only(write_benchmark(tmp_path, ["pairs-128"]), "prevention")
    assert found.verdict == "yes"
    assert found.statement.startswith("From β = 0.3 on")  # at 0.05, 6 nats: still 0.05 below the best
    assert [label for label, _ in found.numbers] == [f"gold, best to end: β = {b:g}" for b in sorted(END)]


def test_nothing_prevents_it_where_nothing_was_tried(tmp_path: Path) -> None:
    folder = write_benchmark(tmp_path, ["pairs-128"], ["ppo"], [0.0, 0.05])
    assert only(folder, "prevention").verdict in ("no", UNKNOWN)
    assert findings(write_benchmark(tmp_path / "b", ["pairs-128"], ["ppo"], [0.0]), "prevention") == []


def test_a_good_model_is_not_over_optimised(tmp_path: Path) -> None:
    folder = write_benchmark(tmp_path, ["pairs-128"], ["ppo"], [0.3])
    assert only(folder, "over_optimisation").verdict == "no"  # at one nat there is nothing to see


def test_a_single_run_tells_nothing(tmp_path: Path) -> None:
    folder = write_benchmark(tmp_path, seeds=[0])
    found = [f for f in find(read_results(folder)) if f.name != "static_accuracy"]  # that one is over designs
    assert len(found) > 5
    assert {f.verdict for f in found} == {UNKNOWN}


def test_a_script_is_hacked(tmp_path: Path) -> None:
    found = only(write_benchmark(tmp_path), "script")
    assert found.verdict == "yes"
    assert found.numbers[1][1].value == pytest.approx(gold("keywords", 16) - 0.7, abs=0.02)


def test_questions_whose_cells_are_missing_are_not_asked(tmp_path: Path) -> None:
    assert find(read_results(write_benchmark(tmp_path, ["clarity"], ["ppo"]))) == []
    assert find(read_results(write_benchmark(tmp_path / "b", ["clarity", "gold"], ["best_of_n"]))) == []
