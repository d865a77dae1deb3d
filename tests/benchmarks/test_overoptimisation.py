from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("overoptimisation")


def test_known_curves_are_recovered_and_told_apart(script: ModuleType) -> None:
    rows = script.synthetic(script.Synthetic(curves=30))
    assert [row["form"] for row in rows] == ["d (α − β d)", "d (α − β log d)"]
    for row in rows:  # of 30 intervals of 95 %, 25 or fewer hold the truth with probability 0.003
        assert min(row["alpha_held"], row["beta_held"]) > 25 / 30
        assert row["form_told"] > 0.9


def test_what_is_described_is_the_curve_that_was_drawn(script: ModuleType) -> None:
    rng = script.np.random.default_rng(0)
    quiet = script.Synthetic(seeds=4, noise=0.0, spread=0.0)
    cells = script.invented("best_of_n", 1.5, 0.25, rng, quiet)
    for cell in cells:
        for point in cell.curve:
            point["proxy"] = point["gold"]
    row = script.describe(cells)
    own = row["forms"]["best_of_n"]
    assert own["alpha"]["value"] == pytest.approx(1.5)
    assert own["beta"]["value"] == pytest.approx(0.25)
    assert max(own["error"].values()) < 1e-12 < min(row["forms"]["rl"]["error"].values())
    assert row["difference"]["value"] < 0
    assert row["far_difference"]["value"] < row["difference"]["value"]  # the wrong form errs more far away
