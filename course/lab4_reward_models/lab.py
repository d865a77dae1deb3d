"""Lab 4: reward models. Fill in the functions; `README.md` says what each has to be.

`n` pairs of texts, `D` features, `N` texts. A pair has a chosen and a rejected text.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional

Floats = npt.NDArray[np.float64]


def sigmoid(x: Floats) -> Floats:
    """Compute 1 / (1 + exp(−x)) without overflow; this one is given."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -np.asarray(x))))


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Compute the loss of a reward model on pairs.

    Args:
        chosen: `(n,)`, rewards of the preferred texts, with gradients; they may be far apart.
        rejected: `(n,)`, rewards of the other ones.

    Returns:
        A tensor of one number: the mean negative log-likelihood of the choices, in nats.
    """
    # BEGIN SOLUTION
    return functional.softplus(rejected - chosen).mean()
    # END SOLUTION


def loss_gradient(chosen: Floats, rejected: Floats, weights: Floats) -> Floats:
    """Compute the gradient of that loss for a linear reward, weights · features, without autograd.

    Args:
        chosen: `(n, D)`, features of the preferred texts.
        rejected: `(n, D)`, features of the other ones.
        weights: `(D,)`.

    Returns:
        `(D,)`, the gradient of the mean loss by the weights.
    """
    # BEGIN SOLUTION
    differences = chosen - rejected
    surprise = sigmoid(-(differences @ weights))
    return np.asarray(-(surprise @ differences) / len(chosen))
    # END SOLUTION


def fit_rewards(wins: Floats) -> Floats:
    """Find the rewards under which the choices are likeliest (maximum likelihood).

    Args:
        wins: `(N, N)`, how often the text of the row was preferred to that of the column; everybody has won
            and lost against somebody, so that there is a maximum.

    Returns:
        `(N,)`, to at least six digits, with mean 0: choices say nothing of a constant that all have.
    """
    # BEGIN SOLUTION
    games = wins + wins.T
    rewards = np.zeros(len(wins))
    for _ in range(100):
        forecast = sigmoid(rewards[:, None] - rewards[None, :])
        gradient = (wins - games * forecast).sum(axis=1)
        curvature = games * forecast * (1 - forecast)
        hessian = np.diag(curvature.sum(axis=1)) - curvature
        newton = np.linalg.pinv(hessian) @ gradient
        rewards = rewards + newton / max(1.0, float(np.abs(newton).max()))
    return np.asarray(rewards - rewards.mean())
    # END SOLUTION


def accuracy(chosen: Floats, rejected: Floats) -> float:
    """Compute the share of pairs that a reward model orders rightly; a tie counts half.

    Args:
        chosen: `(n,)`, rewards of the preferred texts.
        rejected: `(n,)`, rewards of the other ones.
    """
    # BEGIN SOLUTION
    return float(np.mean((np.sign(chosen - rejected) + 1) / 2))
    # END SOLUTION


def reliability(forecasts: Floats, outcomes: Floats, bins: int) -> tuple[Floats, Floats, Floats]:
    """Compare forecasts with what happened, bin by bin.

    Args:
        forecasts: `(n,)`, probabilities in [0, 1].
        outcomes: `(n,)`, 1 for what came true and 0 for what did not.
        bins: How many equal parts [0, 1] is cut into; a forecast on a border belongs to the upper one, 1.0
            to the last.

    Returns:
        Mean forecast, share that came true and number of cases of every bin that is not empty, in order.
    """
    # BEGIN SOLUTION
    place = np.minimum((forecasts * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins).astype(np.float64)
    there = count > 0
    forecast = np.bincount(place, forecasts, bins)[there] / count[there]
    came_true = np.bincount(place, outcomes, bins)[there] / count[there]
    return forecast, came_true, count[there]
    # END SOLUTION


def calibration_error(forecast: Floats, came_true: Floats, count: Floats) -> float:
    """Compute the expected calibration error of a reliability table: the mean gap over all cases.

    Args:
        forecast: `(bins,)`, mean forecast of each bin.
        came_true: `(bins,)`, share of it that came true.
        count: `(bins,)`, cases in it.
    """
    # BEGIN SOLUTION
    return float(np.abs(forecast - came_true) @ count / count.sum())
    # END SOLUTION


def wilson_interval(successes: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Compute Wilson's interval of a share.

    Args:
        successes: k, from 0 to `count`.
        count: n, at least 1.
        z: Standard deviations; 1.96 for 95 %.

    Returns:
        The two shares p at which k/n is `z` standard deviations √(p (1 − p) / n) away from p.
    """
    # BEGIN SOLUTION
    share = successes / count
    scale = 1 + z**2 / count
    centre = (share + z**2 / (2 * count)) / scale
    half = z / scale * float(np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)))
    return max(0.0, centre - half), min(1.0, centre + half)
    # END SOLUTION
