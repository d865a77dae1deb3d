from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor

from text_gym.agents.algorithms.estimators import KLController, estimate_kl, gae, masked_mean, whiten
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


def by_definition(
    rewards: list[float], values: list[float], gamma: float, lam: float
) -> tuple[list[float], list[float]]:
    """Eq. 16 of Schulman et al. 2016 as it is printed: for each t a sum over all later TD errors."""
    length = len(rewards)
    after = [*values[1:], 0.0]  # the state after the last token is terminal
    errors = [rewards[t] + gamma * after[t] - values[t] for t in range(length)]
    advantages = [sum((gamma * lam) ** (k - t) * errors[k] for k in range(t, length)) for t in range(length)]
    return advantages, [a + v for a, v in zip(advantages, values, strict=True)]


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[int], int, float, float]:
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
    discounts = st.floats(0, 1)
    return lengths, draw(st.integers(0, 2**32 - 1)), draw(discounts), draw(discounts)


@settings(max_examples=150, deadline=None)
@given(batches())
def test_gae_is_its_definition(batch: tuple[list[int], int, float, float]) -> None:
    lengths, seed, gamma, lam = batch
    rng = np.random.default_rng(seed)
    shape = (len(lengths), max(lengths))
    rewards, values = rng.normal(size=shape), rng.normal(size=shape)
    mask = np.arange(shape[1]) < np.array(lengths)[:, None]
    # What stands past an episode's end must not matter.
    found = gae(*map(torch.from_numpy, (rewards, values, mask)), gamma=gamma, lam=lam)
    for i, n in enumerate(lengths):
        expected = by_definition(rewards[i, :n].tolist(), values[i, :n].tolist(), gamma, lam)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.dtype == torch.float64
            np.testing.assert_allclose(ours[i, :n], theirs, rtol=0, atol=1e-12)
            assert not ours[i, n:].any()


def test_gae_by_hand() -> None:
    # δ = (0 + 0.5*2 - 1, 3 - 2) = (0, 1), γλ = 0.25; and 1 - 0.5, whatever stands after the end.
    rewards = torch.tensor([[0.0, 3.0], [1.0, 9.0]])
    values = torch.tensor([[1.0, 2.0], [0.5, 9.0]])
    mask = torch.tensor([[True, True], [True, False]])
    advantages, returns = gae(rewards, values, mask, gamma=0.5, lam=0.5)
    assert advantages.tolist() == [[0.25, 1.0], [0.5, 0.0]]
    assert returns.tolist() == [[1.25, 3.0], [1.0, 0.0]]


@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_gae_agrees_with_stable_baselines3_across_episode_boundaries(lam: float) -> None:
    """SB3 keeps episodes end to end in one column."""
    rng = np.random.default_rng(7)
    lengths, gamma = [3, 1, 5, 2, 4, 1], 0.97
    shape = (len(lengths), max(lengths))
    rewards, values = rng.normal(size=shape).astype(np.float32), rng.normal(size=shape).astype(np.float32)
    mask = np.arange(shape[1]) < np.array(lengths)[:, None]
    advantages, returns = gae(*map(torch.from_numpy, (rewards, values, mask)), gamma=gamma, lam=lam)

    buffer = RolloutBuffer(sum(lengths), Box(-1, 1, (1,)), Discrete(2), gamma=gamma, gae_lambda=lam)
    for i, n in enumerate(lengths):
        for t in range(n):
            value, start = torch.tensor([values[i, t]]), np.array([t == 0])
            buffer.add(
                np.zeros((1, 1)), np.zeros((1, 1)), rewards[i, t : t + 1], start, value, torch.zeros(1)
            )
    buffer.compute_returns_and_advantage(torch.zeros(1), np.array([True]))
    np.testing.assert_allclose(advantages[mask], buffer.advantages[:, 0], rtol=0, atol=5e-6)
    np.testing.assert_allclose(returns[mask], buffer.returns[:, 0], rtol=0, atol=5e-6)


def random_batch(seed: int, rows: int = 8, width: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, values and a mask of random lengths; 0 past the ends."""
    rng = np.random.default_rng(seed)
    mask = torch.from_numpy(np.arange(width) < rng.integers(1, width + 1, size=rows)[:, None])
    rewards, values = (torch.from_numpy(rng.normal(size=(rows, width))) * mask for _ in range(2))
    return rewards, values, mask


@given(seed=st.integers(0, 10_000), constant=st.floats(-100, 100))
@settings(max_examples=50, deadline=None)
def test_a_constant_added_to_the_reward_leaves_whitened_advantages_alone(seed: int, constant: float) -> None:
    rewards, values, mask = random_batch(seed)
    last = mask.sum(1, keepdim=True) - 1
    more = rewards.scatter_add(1, last, torch.full_like(rewards, constant))
    first, second = (whiten(gae(r, values, mask, lam=1.0)[0], mask) for r in (rewards, more))
    assert torch.allclose(first, second, rtol=0, atol=1e-6)


def test_rows_and_padding_do_not_mix() -> None:
    rewards, values, mask = random_batch(3)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    plain = gae(rewards, values, mask)[0]
    assert torch.equal(gae(rewards[order], values[order], mask[order])[0], plain[order])
    wide = [torch.nn.functional.pad(x, (0, 4)) for x in (rewards, values, mask)]
    padded = gae(wide[0], wide[1], wide[2])[0]
    assert torch.equal(padded[:, :6], plain)
    assert not padded[:, 6:].any()
    assert torch.allclose(whiten(padded, wide[2])[:, :6], whiten(plain, mask), rtol=0, atol=1e-12)


@given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 1e3), mean=st.floats(-10, 10))
@settings(max_examples=50, deadline=None)
def test_whiten_gives_mean_zero_and_deviation_one_over_real_tokens(
    seed: int, scale: float, mean: float
) -> None:
    x, _, mask = random_batch(seed)
    x = (x * scale + mean) * mask
    white = whiten(x, mask)
    real = white[mask].numpy()
    assert real.mean() == pytest.approx(0, abs=1e-8)
    assert real.std() == pytest.approx(1)
    assert not white[~mask].any()
    unshifted = whiten(x, mask, shift=False)
    np.testing.assert_allclose(unshifted[mask], x[mask].numpy() / x[mask].numpy().std())


@given(value=st.floats(-1e4, 1e4, width=32), rows=st.integers(1, 64), width=st.integers(1, 64))
@settings(max_examples=100, deadline=None)
def test_whiten_does_not_amplify_rounding_noise(value: float, rows: int, width: int) -> None:
    mask = torch.ones(rows, width, dtype=torch.bool)
    assert not whiten(torch.full((rows, width), value), mask).any()


def test_masked_mean_by_hand() -> None:
    x, mask = torch.tensor([[1.0, 5.0], [3.0, 9.0]]), torch.tensor([[True, False], [True, False]])
    assert masked_mean(x, mask) == 2.0
