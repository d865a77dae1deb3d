from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from text_gym.agents.algorithms.kl import KLController, estimate_kl
from text_gym.errors import ConfigError

log_probabilities = st.lists(st.floats(-30, 0, width=32), min_size=1, max_size=20)


@given(log_probabilities, st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_k2_and_k3_are_never_negative_and_all_are_zero_for_equal_policies(p: list[float], seed: int) -> None:
    own = torch.tensor(p)
    other = own + torch.from_numpy(np.random.default_rng(seed).normal(size=len(p))).float()
    assert (estimate_kl(own, other, "k2") >= 0).all()
    assert (estimate_kl(own, other, "k3") >= 0).all()
    assert not any(estimate_kl(own, own, k).any() for k in ("k1", "k2", "k3"))


def test_estimators_by_hand() -> None:
    own, other = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()  # p / q = 2
    assert estimate_kl(own, other, "k1").item() == pytest.approx(math.log(2))
    assert estimate_kl(own, other, "k2").item() == pytest.approx(math.log(2) ** 2 / 2)
    assert estimate_kl(own, other, "k3").item() == pytest.approx(0.5 - 1 + math.log(2))
    assert estimate_kl(other, own, "k1").item() == pytest.approx(-math.log(2))  # p less likely: negative


@pytest.mark.parametrize("seed", range(5))
def test_expectations_are_the_exact_kl(seed: int) -> None:
    """k1 and k3 are unbiased: summed over the vocabulary with the policy's weights they are the KL."""
    rng = np.random.default_rng(seed)
    p, q = (torch.from_numpy(rng.dirichlet(np.ones(7))) for _ in range(2))
    exact = float((p * (p / q).log()).sum())
    assert float((p * estimate_kl(p.log(), q.log(), "k1")).sum()) == pytest.approx(exact, abs=1e-12)
    assert float((p * estimate_kl(p.log(), q.log(), "k3")).sum()) == pytest.approx(exact, abs=1e-12)
    other_way = float((q * (q / p).log()).sum())
    assert exact != pytest.approx(other_way, rel=1e-3)  # the direction is tested, too

    draws = torch.from_numpy(rng.choice(7, size=20_000, p=p.numpy()))
    for estimator in ("k1", "k3"):
        sample = estimate_kl(p.log()[draws], q.log()[draws], estimator)
        assert abs(float(sample.mean()) - exact) < 4 * float(sample.std()) / math.sqrt(len(draws))


def test_gradient_of_k2_is_that_of_the_kl_in_expectation_and_that_of_k1_vanishes() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, dtype=torch.float64, generator=generator, requires_grad=True)
    reference = torch.randn(6, dtype=torch.float64, generator=generator).log_softmax(0)
    p = logits.log_softmax(0)
    (exact,) = torch.autograd.grad((p.exp() * (p - reference)).sum(), logits, retain_graph=True)
    gradients = {
        k: torch.autograd.grad(
            (p.detach().exp() * estimate_kl(p, reference, k)).sum(), logits, retain_graph=True
        )[0]
        for k in ("k1", "k2")
    }
    assert exact.abs().max() > 0.05
    assert torch.allclose(gradients["k2"], exact, rtol=0, atol=1e-12)
    assert gradients["k1"].abs().max() < 1e-12


def test_an_unknown_estimator_is_named() -> None:
    with pytest.raises(ConfigError, match="'k4'"):
        estimate_kl(torch.zeros(1), torch.zeros(1), "k4")  # type: ignore[arg-type]


def test_the_controller_moves_beta_towards_the_target_in_bounded_steps() -> None:
    fixed = KLController(0.3)
    fixed.update(100.0, 64)
    assert fixed.coefficient == 0.3
    controller = KLController(0.1, target=5.0, horizon=1000)
    controller.update(5.0, 100)
    assert controller.coefficient == pytest.approx(0.1)
    controller.update(5.5, 100)  # error 0.1, a tenth of the horizon
    assert controller.coefficient == pytest.approx(0.1 * 1.01)
    controller.update(1e9, 100)  # cut at 0.2
    assert controller.coefficient == pytest.approx(0.1 * 1.01 * 1.02)
    controller.update(0.0, 100)
    assert controller.coefficient == pytest.approx(0.1 * 1.01 * 1.02 * 0.98)


@pytest.mark.parametrize(
    ("coefficient", "target"),
    [(-0.1, None), (0.1, 0.0), (0.1, -1.0), (math.nan, None), (math.inf, None), (0.1, math.nan)],
)
def test_a_controller_of_no_sense_is_refused(coefficient: float, target: float | None) -> None:
    with pytest.raises(ConfigError, match=str(coefficient)):
        KLController(coefficient, target)
    with pytest.raises(ConfigError, match="horizon is 0"):
        KLController(0.1, 1.0, horizon=0)
