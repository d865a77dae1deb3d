from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from text_gym.models.sizes import DEFAULTS, Sizes
from text_gym.models.tuning import DECIDING, Candidate, Tuned, Work, candidates, changed, ratio_of, tune_sizes

USUAL = Sizes()
TRIED = candidates(USUAL, cpu=True, kernels=True, threads=1)


class FakeMachine:
    """Work takes a second, times a factor for each size that has a value of its own, and some noise.

    Args:
        factors: By name and value.
        noise: Standard deviation of the logarithm of a time.
        seed: Of the noise.
    """

    def __init__(self, factors: dict[tuple[str, float], float], noise: float = 0.0, seed: int = 0) -> None:
        self.factors, self.noise = factors, noise
        self.rng = np.random.default_rng(seed)
        self.time = 0.0
        self.done: list[tuple[Sizes, Work]] = []

    def measure(self, sizes: Sizes, work: Work) -> float:
        self.done.append((sizes, work))
        took = math.exp(self.rng.normal() * self.noise)
        for (name, value), factor in self.factors.items():
            took *= factor if getattr(sizes, name) == value else 1.0
        self.time += took
        return took

    def tune(self, seconds: float = 1e6, tried: list[Candidate] = TRIED) -> Tuned:
        return tune_sizes(self.measure, USUAL, tried, seconds, clock=lambda: self.time)


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_without_noise_the_fastest_value_of_each_size_is_found(data: st.DataObject) -> None:
    factor = st.sampled_from([0.5, 0.9, 0.99, 1.0, 1.5])
    factors = {(c.name, value): data.draw(factor) for c in TRIED for value in c.values}
    found = FakeMachine(factors).tune()
    for candidate, row in zip(TRIED, found.rows, strict=True):
        of_values = [factors[candidate.name, value] for value in candidate.values]
        worth_it = min(of_values) < 0.97
        assert factors[candidate.name, row.best] == min(of_values)
        assert row.kept == worth_it
        assert row.ratio.value == pytest.approx(min(of_values))
        assert getattr(found.sizes, row.name) == (row.best if worth_it else getattr(USUAL, row.name))
    assert (found.together is None) == (found.sizes == USUAL)


def test_noise_alone_changes_hardly_ever_a_default() -> None:
    """On 200 machines with noise of a tenth; the value that looked fastest among four is measured anew."""
    found = [FakeMachine({}, 0.1, seed).tune(120) for seed in range(200)]
    rows = [row for each in found for row in each.rows]
    assert len(rows) > 1000
    assert sum(row.kept for row in rows) <= 0.03 * len(rows)
    assert sum(each.sizes != USUAL for each in found) <= 4


@pytest.mark.parametrize(
    ("decide", "kept"), [([0.9] * 8, True), ([0.9] * 7 + [1.1], False), ([0.98] * 8, False)]
)
def test_a_gain_has_to_be_larger_than_noise_and_worth_it(decide: list[float], kept: bool) -> None:
    """There is time for one round to choose by, three to doubt it, and no more than eight that decide."""
    times, clock = iter([0.9] * 4 + decide), itertools.count()

    def measure(sizes: Sizes, work: Work) -> float:
        return 1.0 if sizes == USUAL else next(times, 0.9)

    tried = [Candidate("tile_rows", "update", (512,))]
    (row,) = tune_sizes(measure, USUAL, tried, 2, clock=lambda: float(next(clock))).rows
    assert row.ratio.n == 8
    assert row.kept == kept


def test_a_gain_is_found_through_noise() -> None:
    machines = [FakeMachine({("tile_rows", 2048): 0.8}, 0.05, seed) for seed in range(20)]
    found = [machine.tune().sizes for machine in machines]
    assert found.count(replace(USUAL, tile_rows=2048)) >= 18


def test_each_size_is_tried_with_what_was_kept_before() -> None:
    machine = FakeMachine({("tile_rows", 2048): 0.5})
    assert machine.tune().sizes == replace(USUAL, tile_rows=2048)
    after = [s for s, _ in machine.done if s.tile_ids != USUAL.tile_ids]
    assert {s.tile_rows for s in after} == {2048}


def test_what_makes_no_whole_iteration_faster_is_not_used() -> None:
    """What a rollout gains the update loses."""

    class Treacherous(FakeMachine):
        def measure(self, sizes: Sizes, work: Work) -> float:
            worse = work == "iteration" and sizes != USUAL
            return super().measure(sizes, work) * (1.6 if worse else 1.0)

    found = Treacherous({("compact_below", 0.5): 0.9}).tune()
    (kept,) = [row for row in found.rows if row.kept]
    assert (kept.name, kept.best) == ("compact_below", 0.5)
    assert found.together is not None
    assert found.together.low > 1
    assert found.sizes == USUAL


def test_what_slows_the_machine_down_meanwhile_is_no_gain() -> None:
    """Each measurement takes 10 % longer than the one before: whoever always came first would look faster."""

    class Slower(FakeMachine):
        def measure(self, sizes: Sizes, work: Work) -> float:
            return super().measure(sizes, work) * 1.1 ** len(self.done)

    for other in (512, 2048):
        found = Slower({}).tune(1e9, [Candidate("tile_rows", "update", (other,))])
        assert found.sizes == USUAL


def test_no_size_is_begun_after_the_end() -> None:
    machine = FakeMachine({})
    found = machine.tune(20)
    assert machine.time < 20 + 1 + 5 * 3  # the warm-up, and three rounds of five values
    assert [row.name for row in found.rows] + list(found.unmeasured) == [c.name for c in TRIED]
    assert found.unmeasured


def test_a_decision_has_enough_pairs_even_where_time_is_short() -> None:
    found = FakeMachine({("min_rows_to_pack", 64): 0.5}).tune(1)
    (row,) = found.rows
    assert row.ratio.n == DECIDING[0]
    assert found.sizes.min_rows_to_pack == 64
    assert found.together is not None
    assert found.together.n == DECIDING[0]


def test_what_is_said_before_it_is_done() -> None:
    said: list[str] = []
    machine, tried = FakeMachine({("tile_rows", 2048): 0.5}), [Candidate("tile_rows", "update", (2048,))]
    tune_sizes(machine.measure, USUAL, tried, 9, clock=lambda: 0.0, tell=said.append)
    assert said == ["warming up", "measuring tile_rows", "measuring all of them together"]


def test_only_what_can_make_a_difference_is_tried() -> None:
    def names(kind: str, **how: bool | int) -> set[str]:
        return {c.name for c in candidates(DEFAULTS[kind], **how)}  # type: ignore[arg-type]

    cpu = names("cpu", cpu=True, kernels=True, threads=2)
    assert cpu >= {"small_threads", "min_rows_to_pack", "pass_bytes", "tile_rows", "tell_every"}
    assert not cpu & {"free_share", "width_bucket", "drawn_at_once"}
    assert names("cpu", cpu=True, kernels=False, threads=1) >= {"drawn_at_once"}
    assert not names("cpu", cpu=True, kernels=False, threads=1) & {"min_rows_to_pack", "small_threads"}
    cuda = names("cuda", cpu=False, kernels=False, threads=8)
    assert cuda >= {"free_share", "width_bucket", "pass_overhead"}
    assert not cuda & {"small_threads", "min_rows_to_pack", "pass_bytes", "drawn_at_once"}


@pytest.mark.parametrize("kind", DEFAULTS)
def test_every_value_that_is_tried_is_a_possible_one_and_not_the_default(kind: str) -> None:
    usual = DEFAULTS[kind]
    for candidate in candidates(usual, cpu=kind == "cpu", kernels=False, threads=64):
        assert len(set(candidate.values)) == len(candidate.values)
        for value in candidate.values:
            assert changed(usual, candidate.name, value) != usual
    threads = [c for c in candidates(usual, cpu=True, kernels=True, threads=2) if c.name == "small_threads"]
    assert [c.values for c in threads] == [(1, 2)]  # and none above


def test_the_interval_of_a_median_covers_it() -> None:
    """Whatever the distribution, in 95 % of cases at least; fewer than six pairs have none."""
    rng = np.random.default_rng(0)
    for n in (6, 9, 20):
        seconds = np.ones((2000, n, 2))
        seconds[:, :, 1] = np.exp(rng.standard_cauchy((2000, n)).clip(-9, 9))  # the median is 1
        found = [ratio_of(pairs) for pairs in seconds]
        assert np.mean([each.low <= 1 <= each.high for each in found]) >= 0.94
        assert all(each.low <= each.value <= each.high for each in found)
    assert math.isnan(ratio_of(np.ones((5, 2))).high)
