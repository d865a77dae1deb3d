from __future__ import annotations

import itertools
import math
import random
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from text_gym.episode import FloatArray
from text_gym.reward_models import LabelStore
from text_gym.reward_models.labels.questions import LabelCriterion, Question
from text_gym.reward_models.people.agreement import (
    draw_agreement,
    krippendorff_alpha,
    measure_agreement,
    shifts_and_noise,
)

NAN = math.nan
ONE = (LabelCriterion("charm"),)


def brute_force_alpha(marks: FloatArray, distance: str) -> float:
    """1 - observed / expected disagreement over all pairs of answers, as Krippendorff (2011) defines it."""
    units = [[v for v in unit if not math.isnan(v)] for unit in marks.T]
    units = [unit for unit in units if len(unit) > 1]
    values = [v for unit in units for v in unit]
    n = len(values)
    counts = {v: values.count(v) for v in sorted(set(values))}

    def delta(a: float, b: float) -> float:
        if distance == "nominal":
            return float(a != b)
        low, high = min(a, b), max(a, b)
        between = sum(c for v, c in counts.items() if low <= v <= high)
        return (between - (counts[a] + counts[b]) / 2) ** 2

    observed = sum(
        delta(a, b) / (len(unit) - 1) for unit in units for a, b in itertools.permutations(unit, 2)
    )
    expected = sum(delta(a, b) for a, b in itertools.permutations(values, 2)) / (n - 1)
    return 1 - observed / expected


@pytest.mark.parametrize("level", ["nominal", "ordinal"])
def test_alpha_is_that_of_the_definition(level: Literal["nominal", "ordinal"]) -> None:
    pytest.importorskip("krippendorff")
    rng = np.random.default_rng(0)
    for _ in range(10):
        truth = rng.integers(1, 6, 12).astype(float)
        marks: FloatArray = np.clip(truth + rng.integers(-1, 2, (3, 12)), 1.0, 5.0)
        marks[rng.random((3, 12)) < 0.3] = NAN
        expected = brute_force_alpha(marks, level)
        assert krippendorff_alpha(marks, level) == pytest.approx(expected, abs=1e-12)


def test_alpha_of_a_worked_example() -> None:
    """Krippendorff (2011), section C: four observers, twelve units, nominal 0.743, ordinal 0.815."""
    pytest.importorskip("krippendorff")
    text = """1 2 3 3 2 1 4 1 2 . . .
              1 2 3 3 2 2 4 1 2 5 . 3
              . 3 3 3 2 3 4 2 2 5 1 .
              1 2 3 3 2 4 4 1 2 5 1 ."""
    marks = np.array([[NAN if w == "." else float(w) for w in line.split()] for line in text.splitlines()])
    assert krippendorff_alpha(marks, "nominal") == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(marks, "ordinal") == pytest.approx(0.815, abs=5e-4)


@pytest.mark.parametrize(
    "marks", [np.zeros((0, 0)), np.array([[1.0, NAN], [NAN, 2.0]]), np.array([[3.0, 3.0], [3.0, 3.0]])]
)
def test_alpha_is_unknown_without_disagreement_to_compare_with(marks: np.ndarray) -> None:
    assert math.isnan(krippendorff_alpha(marks, "ordinal"))


def test_shifts_by_hand() -> None:
    # Text qualities 0.2 and 0.6; the raters add 0, 0.1 and -0.1; nobody shares a text with the fourth.
    marks = np.array([[0.2, 0.6, NAN], [0.3, 0.7, NAN], [0.1, 0.5, NAN], [NAN, NAN, 0.9]])
    shift, noise = shifts_and_noise(marks)
    assert shift[:3] == pytest.approx([0.0, 0.1, -0.1])
    assert noise[:3] == pytest.approx([0.0, 0.0, 0.0], abs=1e-7)
    assert np.isnan([shift[3], noise[3]]).all()


@settings(max_examples=30)
@given(st.integers(0, 1000))
def test_shifts_are_those_of_least_squares_on_dummy_variables(seed: int) -> None:
    rng = np.random.default_rng(seed)
    marks = rng.random((4, 15))
    marks[rng.random((4, 15)) < 0.3] = NAN
    marks[:, 0] = rng.random(4)  # one text that all share
    raters, texts = np.nonzero(~np.isnan(marks))
    design = np.zeros((len(raters) + 1, 4 + 15))
    design[np.arange(len(raters)), raters] = 1
    design[np.arange(len(raters)), 4 + texts] = 1
    design[-1, :4] = 1  # the shifts sum to 0
    target = np.append(marks[raters, texts], 0.0)
    expected = np.linalg.lstsq(design, target, rcond=None)[0][:4]
    assert shifts_and_noise(marks)[0] == pytest.approx(expected, abs=1e-9)


def test_shift_and_noise_of_simulated_raters_are_found() -> None:
    rng = np.random.default_rng(0)
    shifts, noise = np.array([0.1, 0.0, -0.05, -0.05]), np.array([0.02, 0.05, 0.1, 0.2])
    marks = rng.random(4000) + shifts[:, None] + noise[:, None] * rng.standard_normal((4, 4000))
    marks[rng.random(marks.shape) < 0.4] = NAN
    found = shifts_and_noise(marks)
    assert found[0] == pytest.approx(shifts, abs=0.015)
    assert found[1] == pytest.approx(noise, abs=0.015)


def label(store: LabelStore, rater: str, texts: list[str], marks: list[int], seconds: float = 30.0) -> None:
    for item, mark in zip(
        store.put([Question.rating("p", t, ONE) for t in texts], overlap=9), marks, strict=True
    ):
        store.record(item, rater, {"charm": mark}, latency=seconds)


def test_careful_raters_are_described_and_not_warned_about(tmp_path: Path) -> None:
    pytest.importorskip("krippendorff")
    rng = random.Random(0)
    texts = [f"text {i} " + "x" * rng.randrange(100) for i in range(40)]
    truth = [rng.randrange(1, 6) for _ in texts]
    with LabelStore(tmp_path / "labels.db") as store:
        label(store, "ada", texts, truth)
        label(store, "bob", texts[:20], [min(5, t + 1) for t in truth[:20]], seconds=10.0)
        found = measure_agreement(store.labels())
    assert (found.questions, found.overlap) == (40, 20)
    assert 0.5 < found.alpha["rating/charm"] < 1
    ada, bob = found.raters
    assert (ada.answers, bob.answers, ada.seconds, bob.seconds) == (40, 20, 30.0, 10.0)
    assert ada.mean == pytest.approx(np.mean([(t - 1) / 4 for t in truth]))
    ahead = np.mean([(min(5, t + 1) - t) / 4 for t in truth[:20]])
    assert (bob.shift, ada.shift) == pytest.approx((ahead / 2, -ahead / 2))
    assert bob.agreement > 0.9
    assert ada.warnings == bob.warnings == ()
    assert abs(ada.length) < 0.4


def test_raters_who_do_not_read_are_named(tmp_path: Path) -> None:
    pytest.importorskip("krippendorff")
    rng = random.Random(1)
    texts = [f"{i}" + "y" * 300 for i in range(30)]
    truth = [rng.randrange(1, 6) for _ in texts]
    with LabelStore(tmp_path / "labels.db") as store:
        label(store, "ada", texts, truth)
        label(store, "bob", texts, truth)
        label(store, "hasty", texts, truth, seconds=1.0)  # 300 characters
        label(store, "same", texts, [4] * 30)
        label(store, "random", texts, [6 - t for t in truth])
        label(store, "short", texts[:5], [4] * 5, seconds=0.1)  # too few to say
        found = {p.rater: p.warnings for p in measure_agreement(store.labels()).raters}
    assert found["ada"] == found["bob"] == found["short"] == ()
    assert ["faster than the texts can be read" in w for w in found["hasty"]] == [True]
    assert any("100% of the answers are the same" in w for w in found["same"])
    assert any("nothing to do with the others'" in w for w in found["random"])


def test_a_rater_is_compared_with_the_mean_of_the_others_alone(tmp_path: Path) -> None:
    pytest.importorskip("krippendorff")
    rng = np.random.default_rng(3)
    marks = rng.integers(1, 6, (3, 60))
    marks[1] = np.clip(marks[0] + rng.integers(-1, 2, 60), 1, 5)  # the third has nothing to do with these
    with LabelStore(tmp_path / "labels.db") as store:
        for rater, own in zip(("ada", "bob", "random"), marks.tolist(), strict=True):
            label(store, rater, [f"text {i}" for i in range(60)], own)
        raters = measure_agreement(store.labels()).raters
    for i, profile in enumerate(raters):
        others = np.delete(marks, i, axis=0).mean(axis=0)
        assert profile.agreement == pytest.approx(spearmanr(marks[i], others).statistic)
    assert any("nothing to do with the others'" in w for w in raters[2].warnings)


def test_a_skip_is_no_answer(tmp_path: Path) -> None:
    pytest.importorskip("krippendorff")
    with LabelStore(tmp_path / "labels.db") as store:
        items = store.put([Question.rating("p", t, ONE) for t in ("one", "two", "three")], overlap=2)
        store.record(items[0], "ada", {"charm": 2}, latency=4.0)
        store.record(items[0], "bob", {"charm": 4}, latency=6.0)
        store.record(items[1], "ada", {"charm": 5}, latency=8.0)
        before = measure_agreement(store.labels())
        store.skip(items[1], "bob", latency=90.0)
        store.skip(items[2], "eve", latency=1.0)
        rows = [row for group in store.standing(items).values() for row in group]
        found = measure_agreement(rows)
    assert (found.questions, found.overlap) == (2, 1)
    assert repr(found) == repr(before)  # NaN and all


def test_answers_without_a_time_are_not_hasty(tmp_path: Path) -> None:
    pytest.importorskip("krippendorff")
    texts = [f"{i}" + "y" * 300 for i in range(30)]
    marks = [1 + i % 5 for i in range(30)]
    with LabelStore(tmp_path / "labels.db") as store:
        label(store, "ada", texts, marks, seconds=NAN)
        label(store, "bob", texts[:29], marks[:29], seconds=NAN)
        label(store, "bob", texts[29:], marks[29:], seconds=12.0)
        ada, bob = measure_agreement(store.labels()).raters
    assert math.isnan(ada.seconds)
    assert math.isnan(ada.hasty)
    assert (bob.seconds, bob.hasty) == (12.0, 0.0)
    assert ada.warnings == bob.warnings == ()


def test_the_longer_text_is_counted_on_its_side_and_ties_are_no_choice(tmp_path: Path) -> None:
    asked = [
        ("longer", "short", "left"),
        ("short", "longer", "right"),
        ("short", "longer", "left"),
        ("longer", "short", "tie"),
        ("even", "odd!", "right"),
    ]
    with LabelStore(tmp_path / "labels.db") as store:
        items = store.put([Question.comparison("p", left, right) for left, right, _ in asked[:2]])
        items += store.put([Question.comparison("q", left, right) for left, right, _ in asked[2:]])
        for item, (_, _, choice) in zip(items, asked, strict=True):
            store.record(item, "ada", {"preference": choice})
        (ada,) = measure_agreement(store.labels()).raters
    assert ada.longer == 2 / 3


def test_love_of_length_shows(tmp_path: Path) -> None:
    texts = ["x" * n for n in range(1, 31)]
    with LabelStore(tmp_path / "labels.db") as store:
        label(store, "ada", texts, [1 + n // 7 for n in range(30)])
        sides = store.put(
            [Question.comparison("p", "long text", "short"), Question.comparison("p", "a", "bbb")]
        )
        store.record(sides[0], "ada", {"preference": "left"})
        store.record(sides[1], "ada", {"preference": "left"})
        (ada,) = measure_agreement(store.labels()).raters
    assert ada.length > 0.95
    assert ada.longer == 0.5
    assert math.isnan(ada.shift)


def test_nothing_at_all() -> None:
    found = measure_agreement([])
    assert (found.alpha, found.overlap, found.questions, found.raters) == ({}, 0, 0, ())


def test_the_figure(tmp_path: Path) -> None:
    pytest.importorskip("krippendorff")
    with LabelStore(tmp_path / "labels.db") as store:
        label(store, "$\\frac{\x1b[31m", ["a", "bb"], [1, 2])  # a name that is no formula
        label(store, "bob", ["a", "bb"], [1, 3])
        labels = list(store.labels())
    draw_agreement(measure_agreement(labels), labels, tmp_path / "agreement.png")
    draw_agreement(measure_agreement([]), [], tmp_path / "empty.png")
    assert (tmp_path / "agreement.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "empty.png").stat().st_size > 1000
