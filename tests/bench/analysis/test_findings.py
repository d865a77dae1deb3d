"""The made-up runs have known curves: gold = 0.7 + up * sqrt(kl) - down * kl, give or take 0.01."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.bench_folder import DESIGNS, END, write_benchmark
from text_gym.bench.analysis.findings import find
from text_gym.bench.analysis.results import read_results
from text_gym.bench.analysis.verdicts import UNKNOWN, Finding


def findings(folder: Path, name: str, design: str = "") -> list[Finding]:
    return [f for f in find(read_results(folder)) if (f.name, f.design) == (name, design)]


def only(folder: Path, name: str, design: str = "") -> Finding:
    (found,) = findings(folder, name, design)
    return found


def gold(design: str, kl: float) -> float:
    _, _, _, up, down, _ = DESIGNS[design]
    return 0.7 + up * math.sqrt(kl) - down * kl


def test_a_small_model_is_over_optimised(tmp_path: Path) -> None:
    found = only(write_benchmark(tmp_path, ["gold", "pairs-128"]), "over_optimisation", "pairs-128")
    assert found.verdict == "yes"
    assert found.question == "Is “pairs-128” over-optimised when it is optimised at β = 0?"
    assert findings(tmp_path, "over_optimisation") == []  # a single model is not asked about twice
    fall, change, gain = (interval for _, interval in found.numbers[:3])
    best = max(gold("pairs-128", END[0.0] * i / 8) for i in range(9))
    assert fall.value == pytest.approx(gold("pairs-128", 16) - best, abs=0.02)
    assert fall.low < fall.value < fall.high < 0
    assert change.value == pytest.approx(gold("pairs-128", 16) - 0.7, abs=0.02)
    assert gain.value == pytest.approx(0.4 * 4 / 0.5)
    assert fall.n == 6  # two optimisers, three seeds


def test_learned_models_are_judged_together(tmp_path: Path) -> None:
    found = only(write_benchmark(tmp_path), "over_optimisation")
    assert "Are “pairs-128”, “clean-512” over-optimised" in found.question
    numbers = dict(found.numbers)
    falls = []
    for design in ("pairs-128", "clean-512"):
        best = max(gold(design, END[0.0] * i / 8) for i in range(9))
        falls.append(gold(design, 16) - best)
        assert numbers[f"gold, best to end: {design}"].value == pytest.approx(falls[-1], abs=0.02)
    assert numbers["gold, best to end"].value == pytest.approx(sum(falls) / 2, abs=0.02)
    assert numbers["gold, best to end"].n == 12  # two designs, two optimisers, three seeds


def test_the_coefficient_that_prevents_it(tmp_path: Path) -> None:
    found = only(write_benchmark(tmp_path, ["pairs-128"]), "prevention", "pairs-128")
    assert found.verdict == "yes"
    assert found.statement.startswith("From β = 0.3 on")  # at 0.05, 6 nats: still 0.05 below the best
    assert [label for label, _ in found.numbers] == [f"gold, best to end: β = {b:g}" for b in sorted(END)]


def test_nothing_prevents_it_where_nothing_was_tried(tmp_path: Path) -> None:
    folder = write_benchmark(tmp_path, ["pairs-128"], ["ppo"], [0.0, 0.05])
    assert only(folder, "prevention", "pairs-128").verdict in ("no", UNKNOWN)
    alone = write_benchmark(tmp_path / "b", ["pairs-128"], ["ppo"], [0.0])
    assert findings(alone, "prevention", "pairs-128") == []


def test_a_good_model_is_not_over_optimised(tmp_path: Path) -> None:
    folder = write_benchmark(tmp_path, ["pairs-128"], ["ppo"], [0.3])
    assert (
        only(folder, "over_optimisation", "pairs-128").verdict == "no"
    )  # at one nat there is nothing to see


def test_a_single_seed_says_what_happened_and_no_more(tmp_path: Path) -> None:
    found = find(read_results(write_benchmark(tmp_path, [*DESIGNS, "hackable"], seeds=[0])))
    # The former is over designs, and what texts look like is seen, not inferred.
    found = [f for f in found if f.name not in ("static_accuracy", "texts")]
    assert len(found) > 20
    assert {f.verdict for f in found} == {UNKNOWN}
    answers = {f.name: f.answer for f in found if f.design == "hackable"}
    assert answers == {
        "outcome": "Hacked in these 2 runs of one seed.",
        "over_optimisation": "In these 2 runs of one seed, yes.",
        "prevention": "In these runs, yes.",
        "length_drift": "In these 2 runs of one seed, yes.",
        "standing": "",
    }


def test_every_design_is_asked_the_same_and_yours_come_first(tmp_path: Path) -> None:
    found = find(read_results(write_benchmark(tmp_path, ["gold", "keywords", "hackable", "fine"])))
    by_design: dict[str, list[str]] = {}
    for f in found:
        by_design.setdefault(f.design, []).append(f.name)
    assert list(by_design) == ["hackable", "fine", "", "gold", "keywords"]
    asked = ["outcome", "over_optimisation", "prevention", "length_drift", "texts"]
    assert by_design["hackable"] == [*asked, "standing"]
    assert by_design["keywords"] == asked
    assert by_design["fine"] == ["outcome", "over_optimisation", "length_drift", "texts", "standing"]
    assert by_design["gold"] == by_design["fine"][:-1]


def test_what_prevents_hacking(tmp_path: Path) -> None:
    found = only(write_benchmark(tmp_path, ["hackable"]), "prevention", "hackable")
    assert found.verdict == "yes"
    assert found.statement.startswith("From β = 0.3 on")  # 0.66 of 0.7, at 6 nats 0.46
    assert found.statement.endswith("6 of 6 runs ended below the start.")


def test_the_drift_of_length(tmp_path: Path) -> None:
    folder = write_benchmark(tmp_path, ["hackable", "fine"])
    found = only(folder, "length_drift", "hackable")
    assert found.verdict == "yes"
    assert "+32.0 [+32.0, +32.0] words a text, from 28" in found.statement
    assert only(folder, "length_drift", "fine").verdict == "no"


def test_texts_are_quoted_with_their_symptoms(tmp_path: Path) -> None:
    folder = write_benchmark(tmp_path, ["hackable", "fine"])
    found = only(folder, "texts", "hackable")
    assert found.alarm
    assert found.answer.startswith("Grows long, repeats itself")
    assert "60 % of the texts say a phrase of four words twice, 4 % at the start" in found.statement
    assert "“you can ride further for”" not in found.statement  # that is not the longest one
    assert "you can ride further for you and you can ride" in found.statement.lower().replace(",", "")
    assert not only(write_benchmark(tmp_path / "b", ["fine"]), "outcome", "fine").alarm


def test_the_rank_and_its_neighbours(tmp_path: Path) -> None:
    found = only(write_benchmark(tmp_path, ["gold", "fine", "keywords"]), "standing", "fine")
    assert "rank 2 of 3" in found.question
    assert [label for label, _ in found.numbers] == ["difference to gold", "difference to keywords"]
    above, below = (interval.value for _, interval in found.numbers)
    assert above == pytest.approx((0.07 - 0.12) * 2, abs=0.02)  # at 4 nats
    assert below > 0.1
    assert found.verdict == "yes"


def test_a_script_is_hacked(tmp_path: Path) -> None:
    found = only(write_benchmark(tmp_path), "outcome", "keywords")
    assert (found.verdict, found.answer) == ("no", "Hacked.")
    assert found.numbers[0][1].value == pytest.approx(gold("keywords", 16) - 0.7, abs=0.02)


def test_questions_whose_cells_are_missing_are_not_asked(tmp_path: Path) -> None:
    alone = find(read_results(write_benchmark(tmp_path, ["clarity"], ["ppo"])))
    assert {f.name for f in alone if not f.design} == {"penalty_frontier"}
    chosen = find(read_results(write_benchmark(tmp_path / "b", ["clarity", "gold"], ["best_of_n"])))
    assert [f.name for f in chosen if not f.design] == []
    assert [f.name for f in chosen if f.name == "prevention"] == []


def test_dpo_and_distillation_are_compared_with_rloo(tmp_path: Path) -> None:
    """Only GRPO and best-of-n are shifted in the made-up runs: these have RLOO's curves, but for noise."""
    others = ["rloo", "dpo", "distillation"]
    folder = write_benchmark(tmp_path, ["gold", "keywords"], ["best_of_n", *others], [0.0, 0.3])
    for optimiser in ("dpo", "distillation"):
        found = only(folder, optimiser)
        effect, end = (interval for _, interval in found.numbers[:2])
        assert abs(effect.value) < 0.02
        assert abs(end.value) < 0.02
        assert "mean over 2 designs" in found.statement
        assert [label for label, _ in found.numbers[2:]] == ["gold", "keywords"]
    assert (
        findings(write_benchmark(tmp_path / "without", ["gold"], ["dpo"]), "dpo") == []
    )  # nothing beside it


def test_only_reinforcement_learning_is_held_against_best_of_n(tmp_path: Path) -> None:
    rl = write_benchmark(tmp_path / "rl", ["gold", "keywords"], ["best_of_n", "rloo"], [0.0, 0.3])
    more = write_benchmark(tmp_path / "more", ["gold", "keywords"], ["best_of_n", "rloo", "dpo"], [0.0, 0.3])
    for name in ("best_of_n", "spent_kl"):
        assert only(more, name).statement == only(rl, name).statement
    without = write_benchmark(tmp_path / "without", ["gold"], ["best_of_n", "dpo"], [0.3])
    assert findings(without, "best_of_n") == findings(without, "spent_kl") == []
