"""`benchmarks/conversations.py`: when a run ends and what is gained, by hand; and what is learnt, nightly."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("conversations")


def test_a_run_goes_on_after_95_percent_and_the_time_until_then_is_that_of_ten_iterations(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(100))
    monkeypatch.setattr(script.time, "process_time", lambda: float(next(seconds)))  # one an iteration
    clock = script.Clock(optimum=0.5, seconds=51.0)
    rewards = [0.0] * 30 + [0.5] * 9 + [0.2] + [0.5] * 8 + [0.2] * 3  # 0.475 is enough
    goes_on = [clock({"reward": reward}) for reward in rewards]
    assert clock.reached is None  # a 0.2 among ten makes the mean 0.47
    assert goes_on == [True] * 50 + [False]
    clock = script.Clock(optimum=0.5, seconds=1000.0)
    rewards = [0.0] * 20 + [0.5] * 9 + [0.25] + [0.5] * 5  # ten in a row: 0.475 at the thirtieth
    assert all(clock({"reward": reward}) for reward in rewards)
    assert clock.reached == 30.0
    curve = np.array(clock.curve())
    assert curve.shape == (35, 2)
    assert curve[:, 1].tolist() == rewards


def test_the_gain_is_the_mean_and_its_interval_knows_the_spread_of_the_seeds(script: ModuleType) -> None:
    def rows(*seeds: list[float]) -> list[dict[str, list[float]]]:
        return [{"gains": gains} for gains in seeds]

    assert script.mean_gain(rows([0.5] * 4, [0.5] * 4)) == (0.5, 0.5, 0.5)
    mean, low, high = script.mean_gain(rows([0.0] * 4, [1.0] * 4))  # a quarter of the draws is one seed twice
    assert (mean, low, high) == (0.5, 0.0, 1.0)
    mean, low, high = script.mean_gain(rows([0.0, 1.0] * 50))  # one seed: the texts' own spread, 1/20
    assert (mean, low, high) == pytest.approx((0.5, 0.4, 0.6), abs=0.03)


@pytest.mark.nightly
@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_guess_is_learnt_from_nothing(algorithm: str, script: ModuleType) -> None:
    row = script.run("guess", algorithm, 1, 180.0)
    assert row["before"] < 0.5
    assert row["after"] >= 0.95 * row["optimum"]
