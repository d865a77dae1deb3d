"""Curves made by the formulas of Gao et al. 2022, whose coefficients are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import scipy.stats

from text_gym.bench.analysis.frontier import (
    Form,
    curve,
    fit,
    frontiers,
    held_out_error,
    penalty_frontier,
    spent_kl,
)
from text_gym.bench.analysis.results import CellResult, Results
from text_gym.bench.analysis.verdicts import UNKNOWN

STD = 0.2
PLACES = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0)


def cell(
    gain: Callable[[float], float],
    seed: int = 0,
    optimiser: str = "ppo",
    beta: float | None = 0.0,
    places: Sequence[float] = PLACES,
    design: str = "mine",
) -> CellResult:
    """A run whose gold gains so many standard deviations at each distance."""
    points = [{"step": i, "kl_nats": d * d, "gold": 0.5 + STD * gain(d)} for i, d in enumerate(places)]
    row = {"task": "t", "design": design, "optimiser": optimiser, "kl_coefficient": beta, "seed": seed}
    return CellResult(
        {**row, "gold_std_start": STD, "gold_start": 0.5, "gold": points[-1]["gold"]}, points, []
    )


def results(*cells: CellResult) -> Results:
    return Results({"designs": []}, cells)


def rl(alpha: float, beta: float) -> Callable[[float], float]:
    return lambda d: d * (alpha - beta * math.log(d)) if d else 0.0


def line(shift: float) -> Callable[[float], float]:
    """Gold of the start, and from there on d and a shift of gold."""
    return lambda d: d + shift / STD if d else 0.0


def best(alpha: float, beta: float) -> Callable[[float], float]:
    return lambda d: d * (alpha - beta * d)


@pytest.mark.parametrize(("form", "made"), [("rl", rl), ("best_of_n", best)])
def test_the_coefficients_are_found_again(form: Form, made: Any) -> None:
    alphas = [1.0, 1.2, 1.4]
    found = fit([cell(made(a, 0.3), seed) for seed, a in enumerate(alphas)], form)
    assert found is not None
    low, high = scipy.stats.ttest_1samp(alphas, 0).confidence_interval(0.95)
    assert found["alpha"]["value"] == pytest.approx(1.2)
    assert found["alpha"]["ci95"] == pytest.approx([low, high])
    assert found["beta"]["value"] == pytest.approx(0.3)
    assert (found["points"], found["seeds"], found["d_max"], found["note"]) == (15, 3, 4.0, "")
    d = np.linspace(0, 30, 30_001)[1:]  # where the mean curve is highest, by looking
    values = np.array([made(1.2, 0.3)(float(x)) for x in d])
    at = float(d[values.argmax()])
    assert found["peak"]["d"] == pytest.approx(at, abs=1e-3)
    assert found["peak"]["nats"] == pytest.approx(at**2, rel=1e-3)
    assert found["peak"]["gain"] == pytest.approx(float(values.max()))
    assert found["peak"]["within"] == (at <= 4.0)
    assert len(found["peak_nats"]) == 3
    assert curve(1.2, 0.3, np.array([0.0, 2.0]), form) == pytest.approx([0.0, made(1.2, 0.3)(2.0)])


def test_one_seed_has_no_interval() -> None:
    found = fit([cell(rl(1.0, 0.5))], "rl")
    assert found is not None
    assert found["alpha"]["value"] == pytest.approx(1.0)
    assert math.isnan(found["alpha"]["ci95"][0])
    assert found["note"] == ""


@pytest.mark.parametrize(
    ("run", "note"),
    [
        (cell(rl(1.0, 0.5), places=(0.0, 1.0, 2.0, 3.0)), "too few points"),
        (cell(rl(1.0, 0.5), places=(0.0, 3.0, 3.1, 3.2, 3.3)), "no spread"),
        (cell(rl(0.01, 0.001)), "gold hardly moves"),
        (cell(lambda d: math.sin(9 * d)), "the form does not describe"),
    ],
)
def test_fits_that_mean_nothing_say_so(run: CellResult, note: str) -> None:
    found = fit([run], "rl")
    assert found is not None
    assert found["note"].startswith(note)


def test_no_points_no_fit() -> None:
    assert fit([], "rl") is None
    assert fit([cell(rl(1, 1), places=(0.0,))], "rl") is None
    straight = fit([cell(rl(1.0, 0.0))], "rl")
    assert straight is not None
    assert straight["beta"]["value"] == pytest.approx(0, abs=1e-9)
    rising = fit([cell(rl(1.0, -0.2))], "rl")
    assert rising is not None
    assert rising["peak"] is None  # it rises for ever


def test_only_the_smallest_coefficient_is_fitted() -> None:
    cells = [cell(rl(1.0, 0.5)), cell(rl(9.0, 0.5), beta=0.4), cell(best(2.0, 0.1), 0, "best_of_n", None)]
    found = frontiers(results(*cells), "t", "mine")
    assert found["rl"]["alpha"]["value"] == pytest.approx(1.0)
    assert found["best_of_n"]["alpha"]["value"] == pytest.approx(2.0)
    assert frontiers(results(*cells), "t", "other") == {"rl": None, "best_of_n": None}


@pytest.mark.parametrize(("above", "verdict"), [(0.0, "no"), (0.1, "yes"), (-0.1, "yes")])
def test_whether_a_penalty_moves_the_frontier(above: float, verdict: str) -> None:
    cells = []
    for seed in range(3):
        jitter = 0.01 * (seed - 1)
        cells.append(cell(lambda d: d, seed))
        # Nearer to the start than the first point of the other there is nothing to compare with.
        moved = [0.0, 0.1, 0.7, 1.5, 2.5]
        cells.append(cell(line(above + jitter), seed, beta=0.4, places=moved))
    (found,) = penalty_frontier(results(*cells))
    assert found.verdict == verdict
    assert found.numbers[0][1].value == pytest.approx(above, abs=1e-9)
    assert found.p < 0.05 or above == 0


def test_a_penalty_alone_is_compared_with_nothing() -> None:
    assert list(penalty_frontier(results(cell(rl(1, 1)), cell(rl(1, 1), 1)))) == []
    assert list(penalty_frontier(results(cell(rl(1, 1)), cell(rl(1, 1), 1, beta=0.4)))) == []  # other seeds
    far = cell(rl(1, 1), beta=0.4, places=(0.0, 0.2))
    assert list(penalty_frontier(results(cell(rl(1, 1)), far))) == []


@pytest.mark.parametrize(("below", "seeds", "verdict"), [(0.1, 3, "yes"), (0.0, 3, "no"), (0.1, 1, UNKNOWN)])
def test_whether_reinforcement_learning_spends_more_kl(below: float, seeds: int, verdict: str) -> None:
    cells = []
    for seed in range(seeds):
        lost = below + 0.002 * seed
        cells.append(cell(lambda d: d, seed, "best_of_n", None, places=(0.0, 0.4, 0.9, 1.8)))
        # The last point is beyond what best-of-n reaches.
        cells.append(cell(line(-lost), seed, places=(0.0, 0.2, 1.0, 5.0)))
    (found,) = spent_kl(results(*cells))
    assert found.verdict == verdict
    assert found.numbers[0][1].value == pytest.approx(below + 0.001 * (seeds - 1), abs=1e-9)
    assert list(spent_kl(results(*cells[1::2]))) == []


def test_the_form_that_made_the_curves_predicts_other_seeds_without_error() -> None:
    cells = [cell(lambda d: d * (1.5 - 0.3 * d), seed) for seed in range(3)]
    assert max(held_out_error(cells, "best_of_n").values()) < 1e-20
    assert list(held_out_error(cells, "best_of_n")) == [0, 1, 2]
    assert min(held_out_error(cells, "rl").values()) > 1e-3
    near, far = (held_out_error(cells, "rl", share)[0] for share in (1.0, 0.6))
    assert far > near


def test_a_seed_is_predicted_by_the_others_alone() -> None:
    """Two seeds lie on one line through 0 and the third on another; each is predicted by the rest of them."""
    lines: list[Callable[[float], float]] = [lambda d: d, lambda d: d, lambda d: 3 * d]
    cells = [cell(line, seed, places=(0.0, 1.0, 2.0)) for seed, line in enumerate(lines)]
    found = held_out_error(cells, "best_of_n")
    squares = (1.0 + 4.0) / 2  # mean of d² over the points
    assert found == pytest.approx({0: squares, 1: squares, 2: 4 * squares})


def test_extrapolation_is_fitted_to_near_points_and_judged_by_far_ones() -> None:
    cells = [cell(lambda d: d if d <= 2 else d + 1, seed) for seed in range(2)]
    assert held_out_error(cells, "best_of_n", 0.5) == pytest.approx({0: 1.0, 1: 1.0})  # fitted up to d = 2
    assert held_out_error(cells[:1], "best_of_n") == {}
