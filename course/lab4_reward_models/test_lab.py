"""Public tests of lab 4: the loss against its closed form, the fit against log-odds, tables made by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from course.checks import Array, close, gradient, true
from text_gym.tasks.enumerable import bradley_terry

# bradley_terry_loss


def test_the_loss_is_the_surprise_at_the_choices(lab: Any, seed: int) -> None:
    """Differences log 3 and 0: the choices had probability ¾ and ½."""
    chosen = torch.tensor([math.log(3.0), 1.0], dtype=torch.float64)
    rejected = torch.tensor([0.0, 1.0], dtype=torch.float64)
    right = -(math.log(0.75) + math.log(0.5)) / 2
    close(
        lab.bradley_terry_loss(chosen, rejected),
        right,
        "your loss",
        mistakes={
            "the pair is the wrong way round: the chosen text's reward must be pushed up":
                -(math.log(0.25) + math.log(0.5)) / 2,
            "it is the sum; take the mean over pairs": 2 * right,
            "these are probabilities; the loss has their logarithm": -(0.75 + 0.5) / 2,
            "it has the wrong sign: a likelihood is maximised, a loss is minimised": -right,
            "it is a hinge on the margin; Bradley and Terry's choices are a logistic function of it":
                (max(0.0, 1 - math.log(3.0)) + 1) / 2,
        },
        hint="the probability of a choice is σ(chosen − rejected), and the loss is the mean of −log of it",
    )  # fmt: skip


def test_the_loss_of_rewards_far_apart_is_finite(lab: Any, seed: int) -> None:
    chosen = torch.tensor([-1000.0, 1000.0], dtype=torch.float64, requires_grad=True)
    found = lab.bradley_terry_loss(chosen, torch.zeros(2, dtype=torch.float64))
    hint = "log σ(x) overflows if σ(x) is computed first; there is a function for it (logsigmoid, softplus)"
    close(found, 500.0, "your loss of the margins −1000 and 1000", hint=hint)
    close(gradient(found, chosen, "your loss"), [-0.5, 0.0], "its gradient", hint=hint)


def test_the_gradient_of_the_loss_has_a_closed_form(lab: Any, seed: int, pairs: int = 6) -> None:
    """By a chosen reward it is −σ(rejected − chosen) / n: what surprises, teaches."""
    generator = torch.Generator().manual_seed(seed)
    chosen, rejected = 2 * torch.randn(2, pairs, generator=generator, dtype=torch.float64)
    right = -1 / (1 + (chosen - rejected).exp()) / pairs
    inputs = chosen.clone().requires_grad_()
    close(
        gradient(lab.bradley_terry_loss(inputs, rejected), inputs, "your loss"),
        right,
        "the gradient of your loss by the chosen rewards",
        mistakes={
            "it is the sum; take the mean over pairs": right * pairs,
            "it has the wrong sign, or the pair is the wrong way round": -right,
        },
        hint="it is −σ(rejected − chosen) / n",
    )


# loss_gradient


def test_the_gradient_of_a_linear_reward(lab: Any, seed: int, pairs: int = 6, size: int = 3) -> None:
    """Against finite differences of −log of the likelihood."""
    rng = np.random.default_rng(seed)
    chosen, rejected = rng.normal(size=(2, pairs, size))
    weights = rng.normal(size=size)
    apart = chosen - rejected

    def loss(w: Array) -> float:
        return float(np.mean(np.logaddexp(0.0, -(apart @ w))))

    steps = 1e-5 * np.eye(size)
    right = np.array([(loss(weights + s) - loss(weights - s)) / 2e-5 for s in steps])
    likely = 1 / (1 + np.exp(-(apart @ weights)))
    close(
        lab.loss_gradient(chosen, rejected, weights),
        right,
        "your gradient",
        mistakes={
            "it has the wrong sign, or the pair is the wrong way round": -right,
            "it is the sum; take the mean over pairs": right * pairs,
            "pairs count by how likely they were; what surprises must teach most: σ(−Δ), not σ(Δ)":
                -(likely @ apart) / pairs,
            "all pairs count alike; each must count by the surprise σ(−Δ)": -apart.mean(0),
            "only the chosen texts are in it; a margin is a difference": -((1 - likely) @ chosen) / pairs,
        },
        hint="it is −(1/n) Σ σ(−Δ) (features of chosen − features of rejected)",
        rtol=1e-5,
        atol=1e-8,
    )  # fmt: skip


# fit_rewards


def test_two_texts_differ_by_their_log_odds(lab: Any, seed: int) -> None:
    """Preferred 3 times of 4: log 3, half of it above the mean and half below."""
    half = math.log(3.0) / 2
    close(
        lab.fit_rewards(np.array([[0.0, 3.0], [1.0, 0.0]])),
        [half, -half],
        "your rewards of a text that was preferred 3 times of 4, and of the other",
        mistakes={
            "the pair is the wrong way round: wins[i, j] counts how often i was preferred": [-half, half],
            "these are shares of wins; the log-odds are asked for": [0.75, 0.25],
            "these are shares of wins less their mean; the log-odds are asked for": [0.25, -0.25],
            "the mean must be 0, as choices say nothing of a constant": [2 * half, 0.0],
            "you added imagined wins, which pulls rewards together; that is no maximum of the likelihood":
                [math.log(2.0) / 2, -math.log(2.0) / 2],
            "it stopped after a single step; go on until nothing changes": [0.5, -0.5],
        },
        hint="at the maximum every text has won as often as was to be expected",
        rtol=1e-5,
    )  # fmt: skip


def test_exact_preferences_give_the_rewards_back(lab: Any, seed: int, texts: int = 5) -> None:
    """A rater by Bradley and Terry, asked so often that the shares are exact."""
    rewards = np.random.default_rng(seed).normal(size=texts)
    wins = 100 * bradley_terry(rewards)
    np.fill_diagonal(wins, 0.0)
    right = rewards - rewards.mean()
    close(
        lab.fit_rewards(wins),
        right,
        "your rewards, from the exact preferences of a known reward",
        mistakes={
            "the pair is the wrong way round: wins[i, j] counts how often i was preferred": -right,
            "the mean must be 0, as choices say nothing of a constant": right - right[-1],
        },
        hint="at the maximum every text has won as often as was to be expected",
        rtol=1e-5,
        atol=1e-7,
    )


def test_the_fit_expects_what_happened(lab: Any, seed: int, texts: int = 6) -> None:
    """The score equation: at the maximum, expected wins are the wins."""
    rng = np.random.default_rng(seed)
    wins = rng.integers(1, 9, (texts, texts)).astype(np.float64)
    np.fill_diagonal(wins, 0.0)
    found = np.asarray(lab.fit_rewards(wins), dtype=np.float64)
    close(found.mean(), 0.0, "the mean of your rewards", hint="the mean must be 0", atol=1e-6)
    expected = ((wins + wins.T) * bradley_terry(found)).sum(axis=1)
    close(
        expected,
        wins.sum(axis=1),
        "the wins that are to be expected with your rewards",
        hint="at the maximum every text has won as often as was to be expected",
        rtol=1e-5,
    )


# accuracy


def test_a_tie_counts_half(lab: Any, seed: int) -> None:
    close(
        lab.accuracy(np.array([1.0, 0.0, 2.0, 5.0]), np.array([0.0, 0.0, 3.0, 1.0])),
        0.625,
        "your accuracy with two right, one wrong and one tie",
        mistakes={
            "a tie counts half; you count it as right": 0.75,
            "a tie counts half; you count it as wrong": 0.5,
            "the pair is the wrong way round": 0.375,
        },
    )


# reliability, calibration_error, wilson_interval


def test_reliability_by_hand(lab: Any, seed: int) -> None:
    forecasts = np.array([0.1, 0.2, 0.5, 0.9, 1.0, 0.95])
    outcomes = np.array([0.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    forecast, came_true, count = lab.reliability(forecasts, outcomes, 4)
    close(
        count,
        [2.0, 1.0, 3.0],
        "your counts of four bins, of which one is empty",
        mistakes={
            "empty bins are left out": [2.0, 0.0, 1.0, 3.0],
            "a forecast of 1.0 belongs to the last bin": [2.0, 1.0, 2.0],
        },
        hint="a forecast of 1.0 belongs to the last bin; empty bins are left out",
    )
    close(
        forecast,
        [0.15, 0.5, 0.95],
        "your mean forecasts",
        mistakes={
            "these are the middles of the bins; the mean forecast of the cases is asked for": [
                0.125,
                0.625,
                0.875,
            ]
        },
    )
    close(came_true, [0.5, 1.0, 2 / 3], "your shares that came true")


def test_the_calibration_error_weighs_bins_with_their_cases(lab: Any, seed: int) -> None:
    close(
        lab.calibration_error(np.array([0.2, 0.9]), np.array([0.3, 0.7]), np.array([30.0, 10.0])),
        0.125,
        "your calibration error",
        mistakes={
            "all bins count alike; weigh them with their cases": 0.15,
            "gaps of different signs cancel; take their absolute values": -0.025,
            "gaps of different signs cancel; take their absolute values first": 0.025,
            "it is the largest gap; the mean is asked for": 0.2,
            "you square the gaps; the mean absolute gap is asked for": 0.0175,
        },
    )


def test_wilsons_interval_solves_its_equation(
    lab: Any, seed: int, cases: Any = ((7, 10), (0, 10), (10, 10))
) -> None:
    for successes, count in cases:
        low, high = lab.wilson_interval(successes, count, 1.96)
        share = successes / count
        what = f"your interval of {successes} of {count}"
        normal = 1.96 * math.sqrt(share * (1 - share) / count)
        true(
            not np.allclose([low, high], [share - normal, share + normal], atol=1e-6),
            f"{what} is Wald's, ± z √(p̂ (1 − p̂) / n), which is empty at 0 and 1; Wilson's is asked for",
        )
        true(
            0 <= low < high <= 1,
            f"{what} is {low:.4f} to {high:.4f}; shares are between 0 and 1, and low < high",
        )
        for end in (low, high):
            if not 0 < end < 1:  # at a share of 0 or 1 the equation is solved by the share itself
                close(end, share, f"an end of {what}")
                continue
            close(
                abs(share - end) / math.sqrt(end * (1 - end) / count),
                1.96,
                f"the distance of the share from an end of {what}, in standard deviations at that end",
                mistakes={"you use one standard deviation (z = 1)": 1.0},
                hint="solve (k/n − p)² = z² p (1 − p) / n for p; a sign or a factor of z is wrong",
                rtol=1e-6,
            )
