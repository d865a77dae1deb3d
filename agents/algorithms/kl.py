"""KL to the reference policy: estimators from samples, and the coefficient that keeps it in bounds.

Estimators are Schulman's ("Approximating KL divergence", 2020) of KL(policy ‖ reference), in nats a
token, for tokens drawn from the policy. The exact full-vocabulary KL is for tests, not for training.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from text_gym.errors import ConfigError

from .configs import Estimator


def estimate_kl(log_probs: Tensor, reference_log_probs: Tensor, estimator: Estimator = "k1") -> Tensor:
    """Per-token estimates of the KL divergence, in nats, of the inputs' shape.

    Args:
        log_probs: Of the tokens taken, under the policy they were drawn from.
        reference_log_probs: Of the same tokens under the reference.
        estimator: `k1` = log p/q: unbiased, may be negative. `k2` = ½ (log p/q)²: biased, low
            variance, its gradient is that of the KL. `k3` = q/p − 1 + log p/q: unbiased, never negative.

    >>> estimate_kl(torch.tensor([0.0]), torch.tensor([0.0]), "k3")
    tensor([0.])
    """
    ratio = log_probs - reference_log_probs
    if estimator == "k1":
        return ratio
    if estimator == "k2":
        return ratio**2 / 2
    if estimator == "k3":
        return torch.expm1(-ratio) + ratio
    raise ConfigError(f"unknown KL estimator {estimator!r}; choose k1, k2 or k3")


class KLController:
    """The KL coefficient β: fixed, or steered towards a target (Ziegler et al. 2019, eq. 8).

    Args:
        coefficient: β at the start, reward units per nat.
        target: KL to hold, in nats per episode; None keeps β fixed.
        horizon: Episodes over which a full error moves β by a factor e.

    Raises:
        ConfigError: One of them is out of range, or no number.
    """

    def __init__(self, coefficient: float, target: float | None = None, horizon: float = 2000.0) -> None:
        if not 0 <= coefficient < math.inf or not (target is None or target > 0):
            raise ConfigError(
                f"KL coefficient {coefficient} must not be negative and target {target} be positive"
            )
        if not horizon > 0:
            raise ConfigError(f"the KL horizon is {horizon} episodes; it must be positive")
        self.coefficient, self.target, self.horizon = coefficient, target, horizon

    def update(self, kl: float, episodes: int) -> None:
        """Adapt β to the KL (nats per episode) seen in this many episodes."""
        if self.target is not None:
            error = min(max(kl / self.target - 1.0, -0.2), 0.2)
            self.coefficient *= 1.0 + error * episodes / self.horizon
