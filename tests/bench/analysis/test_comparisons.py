from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.bench_folder import DESIGNS, END, cell, write_benchmark
from text_gym.bench.analysis.comparisons import (
    best_algorithms,
    best_of_n_against_rl,
    length_rater,
    static_accuracy,
    traits,
)
from text_gym.bench.analysis.results import read_results


def gold(design: str, kl: float) -> float:
    _, _, _, up, down, _ = DESIGNS[design]
    return min(1.0, 0.7 + up * math.sqrt(kl) - down * kl)


def test_the_length_biased_rater(tmp_path: Path) -> None:
    (found,) = length_rater(read_results(write_benchmark(tmp_path)))
    assert found.verdict == "yes"
    drift, difference = found.numbers[0][1], found.numbers[1][1]
    assert drift.value == difference.value == pytest.approx(1.5 * 16)


def test_designs_that_differ_in_one_trait_are_compared(tmp_path: Path) -> None:
    found = {f.name: f for f in traits(read_results(write_benchmark(tmp_path)))}
    assert {name: f.verdict for name, f in found.items()} == {
        "members": "yes",
        "asked": "yes",
        "opinions": "yes",
        "per": "no",
        "rater": "yes",
    }
    pairs = {"members": ("clean-512", "ensemble-512"), "asked": ("ratings-512", "clean-512")}
    pairs |= {"opinions": ("pairs-128", "clean-512"), "per": ("gold", "gold-per-token")}
    pairs |= {"rater": ("clean-512", "length-biased-512")}
    for name, (a, b) in pairs.items():
        expected = sum(gold(b, kl) - gold(a, kl) for kl in END.values()) / len(END)
        label, whole = found[name].numbers[0]
        assert label == "all coefficients"
        assert whole.value == pytest.approx(expected, abs=0.02)
        assert whole.n == 2 * 3 * 3  # optimisers, coefficients, seeds
        at_zero = dict(found[name].numbers)["β = 0"]
        assert at_zero.value == pytest.approx(gold(b, 16) - gold(a, 16), abs=0.02)


def test_of_several_numbers_of_opinions_the_least_and_the_most_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, own, *rest = DESIGNS["clean-512"]
    for opinions in (256, 1024):
        monkeypatch.setitem(DESIGNS, f"clean-{opinions}", ("o", {**own, "opinions": opinions}, *rest))
    names = ["clean-256", "clean-512", "clean-1024", "pairs-128"]
    (found,) = traits(read_results(write_benchmark(tmp_path, names)))
    assert "1,024 opinions give better text than 128" in found.question


def test_designs_that_differ_in_two_traits_are_not_compared(tmp_path: Path) -> None:
    results = read_results(write_benchmark(tmp_path, ["pairs-128", "length-biased-512", "gold"]))
    assert list(traits(results)) == []
    assert list(length_rater(results)) == []


def test_seeds_that_differ_are_not_paired(tmp_path: Path) -> None:
    write_benchmark(tmp_path, ["clean-512"], ["ppo"], [0.0], [0, 1])
    write_benchmark(tmp_path, ["ensemble-512"], ["ppo"], [0.0], [2, 3])
    assert list(traits(read_results(tmp_path))) == []


def test_static_accuracy(tmp_path: Path) -> None:
    (found,) = static_accuracy(read_results(write_benchmark(tmp_path)))
    # Without the gold designs, from the best: by accuracy ensemble, clean, ratings, length-biased, clarity,
    # pairs-128, keywords; by the maximum of 0.7 + up sqrt(kl) - down kl up to 5 nats ensemble, clean, then
    # clarity and ratings (0.81 both), length-biased and pairs-128 (0.76 both), keywords. So ranks differ by
    # (2, 1, 1) and perhaps (1, 1) more, and 6 times the sum of squares is 36 to 48 or less.
    assert 1 - 6 * 8 / (7 * 48) <= found.numbers[0][1].value < 1
    assert found.numbers[0][1].n == 7
    assert found.verdict == "yes"
    few = read_results(write_benchmark(tmp_path / "few", ["clarity", "keywords", "pairs-128"]))
    assert list(static_accuracy(few)) == []


def test_best_of_n_at_the_same_kl(tmp_path: Path) -> None:
    (found,) = best_of_n_against_rl(read_results(write_benchmark(tmp_path)))
    assert found.verdict == "no"  # both follow the same curve, but for the 0.01 that is PPO's
    assert found.numbers[0][1].value == pytest.approx(0.01, abs=0.015)
    assert f"{math.log(64) - 63 / 64:.1f} nats" in found.question
    assert list(best_of_n_against_rl(read_results(write_benchmark(tmp_path / "b", optimisers=["ppo"])))) == []


def test_the_best_algorithm_of_each_task(tmp_path: Path) -> None:
    folder = write_benchmark(
        tmp_path, ["pairs-128"], ["ppo", "grpo"], [0.05], range(5), ["copy", "sort"], "agents"
    )
    found = list(best_algorithms(read_results(folder)))
    assert [f.question.partition(":")[0] for f in found] == ["copy", "sort"]
    assert all("is PPO, first" in f.question for f in found)
    assert all(0 < f.numbers[0][1].value - f.numbers[1][1].value < 0.02 for f in found)
    least = (min(cell("pairs-128", o, 0.05, s)["row"]["gold"] for s in range(5)) for o in ("ppo", "grpo"))
    for run in least:
        assert all(f"(worst run {run:.3f})" in f.statement for f in found)
