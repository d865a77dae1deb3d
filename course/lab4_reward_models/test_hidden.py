"""Hidden tests of lab 4: the laws of the public ones with other seeds and sizes, and other oracles."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest

from course.checks import close, gradient
from course.lab4_reward_models import test_lab as public


def test_the_loss(lab: Any, seed: int) -> None:
    public.test_the_loss_is_the_surprise_at_the_choices(lab, seed)
    public.test_the_loss_of_rewards_far_apart_is_finite(lab, seed)


def test_far_apart(lab: Any, seed: int) -> None:
    public.test_the_loss_of_rewards_far_apart_is_finite(lab, seed)


def test_the_gradient_of_more_pairs(lab: Any, seed: int) -> None:
    public.test_the_gradient_of_the_loss_has_a_closed_form(lab, seed, 40)


def test_the_gradient_of_more_features(lab: Any, seed: int) -> None:
    public.test_the_gradient_of_a_linear_reward(lab, seed, 30, 8)


def test_loss_and_gradient_agree(lab: Any, seed: int) -> None:
    """The gradient that you wrote is that of the loss that you wrote."""
    generator = torch.Generator().manual_seed(seed)
    chosen, rejected = torch.randn(2, 9, 4, generator=generator, dtype=torch.float64)
    weights = torch.randn(4, generator=generator, dtype=torch.float64)
    first = (chosen @ weights).requires_grad_()
    by_rewards = gradient(lab.bradley_terry_loss(first, rejected @ weights), first, "your loss")
    close(
        lab.loss_gradient(chosen.numpy(), rejected.numpy(), weights.numpy()),
        by_rewards @ (chosen - rejected),
        "your gradient, against autograd on your loss",
        hint="one of them has the wrong sign, or lacks the surprise, or is a sum and no mean",
    )


def test_two_texts(lab: Any, seed: int) -> None:
    public.test_two_texts_differ_by_their_log_odds(lab, seed)


def test_log_odds_of_other_shares(lab: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    won, lost = rng.integers(1, 60, 2).astype(float) + 0.5
    half = float(np.log(won / lost)) / 2
    close(
        lab.fit_rewards(np.array([[0.0, won], [lost, 0.0]])),
        [half, -half],
        f"your rewards after {won:g} wins and {lost:g} losses",
        hint="their difference is the log-odds, log(won/lost)",
        rtol=1e-5,
    )


def test_more_texts(lab: Any, seed: int) -> None:
    public.test_exact_preferences_give_the_rewards_back(lab, seed, 12)
    public.test_the_fit_expects_what_happened(lab, seed, 15)


def test_pairs_that_nobody_was_asked_about(lab: Any, seed: int) -> None:
    """A circle of texts: only neighbours were compared."""
    rewards = np.random.default_rng(seed).normal(size=6)
    wins = np.zeros((6, 6))
    for i in range(6):
        j = (i + 1) % 6
        share = 1 / (1 + np.exp(rewards[j] - rewards[i]))
        wins[i, j], wins[j, i] = 10 * share, 10 * (1 - share)
    close(
        lab.fit_rewards(wins),
        rewards - rewards.mean(),
        "your rewards of six texts in a circle, of which neighbours were compared",
        hint="texts that were never compared say nothing of each other: there are wins, and no games",
        rtol=1e-5,
        atol=1e-6,
    )


def test_accuracy(lab: Any, seed: int) -> None:
    public.test_a_tie_counts_half(lab, seed)


def test_accuracy_of_many(lab: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    chosen, rejected = rng.integers(0, 3, (2, 50)).astype(float)
    right = np.mean([1.0 if c > r else 0.5 if c == r else 0.0 for c, r in zip(chosen, rejected, strict=True)])
    close(lab.accuracy(chosen, rejected), right, "your accuracy", hint="a tie counts half")


def test_tables(lab: Any, seed: int) -> None:
    public.test_reliability_by_hand(lab, seed)


def test_errors(lab: Any, seed: int) -> None:
    public.test_the_calibration_error_weighs_bins_with_their_cases(lab, seed)


def test_tables_of_many(lab: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    forecasts = np.round(rng.random(300), 3)
    outcomes = (rng.random(300) < forecasts).astype(float)
    rows = []
    for low in range(8):
        inside = [i for i, f in enumerate(forecasts) if low <= f * 8 < low + 1 or (low == 7 and f == 1)]
        rows.append((forecasts[inside].mean(), outcomes[inside].mean(), len(inside)))
    for found, right, what in zip(
        lab.reliability(forecasts, outcomes, 8),
        zip(*rows, strict=True),
        ("forecasts", "shares", "counts"),
        strict=True,
    ):
        hint = (
            "the mean forecast of a bin's cases, not its middle; a forecast on a border is in the upper bin"
        )
        close(found, right, f"your {what} of 300 cases in 8 bins", hint=hint)


WALD_LOW, WALD_HIGH = 0.325 - 0.14514820260597217, 0.325 + 0.14514820260597217  # 1.96 √(0.325 · 0.675 / 40)


def test_intervals(lab: Any, seed: int) -> None:
    public.test_wilsons_interval_solves_its_equation(lab, seed, ((3, 17), (0, 4), (88, 90)))


def test_intervals_of_scipy(lab: Any, seed: int) -> None:
    right = binomtest(13, 40).proportion_ci(0.95, method="wilson")
    close(
        lab.wilson_interval(13, 40, 1.959963984540054),
        [right.low, right.high],
        "your interval of 13 of 40",
        mistakes={
            "it is Wald's, which is empty at shares of 0 and 1; Wilson's is asked for": [WALD_LOW, WALD_HIGH]
        },
        hint="Wilson's interval, with z² in it",
    )
