"""Sequential tests of a run: has a measure left its range, does the reward still select for the criteria?

Both look at every batch, so their error is that of a whole run and not of a look.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from text_gym.episode import FloatArray, IntArray

WINDOW = 3  # batches in the moving averages
# CUSUM (Page 1954, "Continuous inspection schemes"): each batch's drift in standard errors, less the slack,
# is added to a sum that never falls below 0; above the limit the drift is no chance.
SLACK, LIMIT = 1.0, 4.0
STAKES = (0.5, 1.0, 2.0, 4.0)  # bets on small and on large effects, in standard errors of a batch
_RICH = 1e100  # no winnings are counted beyond, so that they stay finite


class Gauge:
    """Follows one measure of the texts from batch to batch, and tells when it has left its range for good.

    The range is the mean of the start; where the mean of texts known to be good is known as well, it is
    everything between the two.

    Args:
        start: `(n,)`, of the texts that it began with.
        sign: 1 if a rise raises suspicion, -1 if a fall does, 0 if both do.
        least: Standard deviations by which the last batches have to be off.
        spread: Least standard deviation that a text is taken to have.
        good: Mean over texts known to be good.

    Attributes:
        sums: The CUSUM, in standard errors, upwards (1) and downwards (-1).
        recent: Drift of the last batches, standard deviations.
        since: Iteration in which the present drift began; None while there is none.
    """

    def __init__(
        self, start: FloatArray, sign: int, least: float, spread: float = 1e-9, good: float | None = None
    ) -> None:
        self.mean, self.variance, self.count = float(start.mean()), float(start.var()), len(start)
        self.low, self.high = sorted((self.mean, self.mean if good is None else good))
        self.least, self.spread, self.now = least, spread, self.mean
        self.sums = dict.fromkeys((1, -1) if sign == 0 else (sign,), 0.0)
        self.recent: list[float] = []
        self.since: int | None = None

    def add(self, values: FloatArray, groups: IntArray, iteration: int) -> float:
        """Add a batch's values and return its drift out of the range, in standard deviations of a text.

        Both spreads count (Cohen's d), of the start and of the batch: a single odd text then moves little.

        Args:
            values: `(n,)`, of the batch's texts.
            groups: `(n,)`, the number of each one's prompt; texts of one prompt count as one observation.
            iteration: Its number.
        """
        self.now, squared_error = mean_of_groups(values, groups)
        off = self.now - min(max(self.now, self.low), self.high)
        drift = off / self.spread_of(values)
        errors = off / max(math.sqrt(self.variance / self.count + squared_error), 1e-9)
        self.recent = [*self.recent, drift][-WINDOW:]
        self.sums = {sign: max(0.0, total + sign * errors - SLACK) for sign, total in self.sums.items()}
        if not any(self.sums.values()):
            self.since = None
        elif self.since is None:
            self.since = iteration
        return drift

    def spread_of(self, values: FloatArray) -> float:
        """Return the standard deviation of a text, of the start and of these values, `(n,)`, together."""
        return max(math.sqrt((self.variance + float(values.var())) / 2), self.spread)

    @property
    def out(self) -> bool:
        """True while it is out of its range."""
        return any(total > LIMIT and sign * self.off >= self.least for sign, total in self.sums.items())

    @property
    def off(self) -> float:
        """The mean drift of the last batches, standard deviations."""
        return float(np.mean(self.recent)) if self.recent else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain JSON data."""
        return {**vars(self), "sums": {str(sign): total for sign, total in self.sums.items()}}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Gauge:
        """Restore a gauge from what `state_dict` returned."""
        gauge = cls.__new__(cls)
        vars(gauge).update(state, sums={int(sign): total for sign, total in state["sums"].items()})
        return gauge

    def __str__(self) -> str:
        start = f"{self.mean:.3g} ± {math.sqrt(self.variance):.2g}"
        return (
            f"is {self.now:.3g}, was {start} at the start, and has been drifting since iteration {self.since}"
        )


class SelectionTest:
    """Bets, batch by batch, that the reward does not select for a criterion; who is right cannot win much.

    By Price's equation (1970) a reward moves the mean of a criterion by their covariance: what it selects
    against is going to fall. With x the centred products of criterion and reward, a batch says

        t = Σ (x − κ |x|) / √Σ x²,

    and a bet of stake λ pays exp(−λ t − λ²/2). If the signs of x are independent and positive with
    probability (1 + κ)/2 or more, no bet pays more than 1 on average (Hoeffding), so that the winnings ever
    exceed 1/α in at most α of such runs, however long they are (Ville 1939). One bets on every stake, and on
    every batch k as the first one of the change, with a share of 1/(k (k + 1)).

    Args:
        kappa: Net share of the products that a reward without a fault selects in the criterion's favour.

    Attributes:
        winnings: Of 1 that was staked.
    """

    def __init__(self, kappa: float) -> None:
        self.kappa, self.batches, self.winnings = kappa, 0, 1.0
        self.bets = [0.0 for _ in STAKES]

    def add(self, products: FloatArray) -> None:
        """Add a batch, by its centred products `(m,)`."""
        size = float(np.sqrt(products @ products))
        if size < 1e-12:  # nothing was selected; nothing is bet
            return
        self.batches += 1
        t = float((products - self.kappa * np.abs(products)).sum()) / size
        fresh = 1 / (self.batches * (self.batches + 1))
        self.bets = [
            min(_RICH, (bet + fresh) * math.exp(-stake * t - stake**2 / 2))
            for bet, stake in zip(self.bets, STAKES, strict=True)
        ]
        self.winnings = float(np.mean(self.bets)) + 1 / (self.batches + 1)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain JSON data."""
        return {**vars(self)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        vars(self).update(state)


def mean_of_groups(values: FloatArray, groups: IntArray) -> tuple[float, float]:
    """Return the mean of values, `(n,)`, and its squared standard error, where those of a group go together.

    A single group, or groups of one, count as if there were none.
    """
    names, group = np.unique(groups, return_inverse=True)
    if len(names) == 1:
        names = group = np.arange(len(values))
    mean = float(values.mean())
    sums = np.bincount(group, values - mean)
    count = len(names)
    return mean, float(sums @ sums) * count / (max(1, count - 1) * len(values) ** 2)


def centred_products(values: FloatArray, rewards: FloatArray, groups: IntArray) -> FloatArray:
    """Return the products of values and rewards, `(n,)` each, less the means of their groups, by group.

    Where most groups are of one, all are one group, and its products are not summed.

    Returns:
        `(groups,)`, or `(n,)`.
    """
    names, group = np.unique(groups, return_inverse=True)
    by_group = len(values) >= 2 * len(names)
    if not by_group:
        group = np.zeros(len(values), dtype=np.int64)
    count = np.bincount(group)
    a, b = (x - (np.bincount(group, x) / count)[group] for x in (values, rewards))
    products: FloatArray = a * b
    return np.bincount(group, products).astype(np.float64) if by_group else products
