"""Lab 6: reward hacking. Fill in the functions; `README.md` says what each has to be.

`N` everything that a policy can write, `m` texts that were drawn. KL is in nats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def best_of_n_kl(n: int) -> float:
    """Compute how far best-of-n goes from its policy, if no two texts have the same reward.

    Args:
        n: How many texts are drawn, at least 1.

    Returns:
        KL(best of n ‖ policy), in the limit of many texts of small probability.
    """
    # BEGIN SOLUTION
    return math.log(n) - (n - 1) / n
    # END SOLUTION


def best_of_n_law(probabilities: Floats, rewards: Floats, n: int) -> Floats:
    """Compute the probability of every text to be the best of `n` that are drawn, the first among equals.

    Args:
        probabilities: `(N,)`, of the texts under the policy.
        rewards: `(N,)`, by which the best is chosen; several texts may have the same.
        n: How many texts are drawn independently; the same one may come twice.

    Returns:
        `(N,)`, probabilities.
    """
    # BEGIN SOLUTION
    below = (rewards[None, :] < rewards[:, None]) @ probabilities
    equal = (rewards[None, :] == rewards[:, None]) @ probabilities
    return np.asarray(((below + equal) ** n - below**n) * probabilities / equal)
    # END SOLUTION


def kl_divergence(policy: Floats, reference: Floats) -> float:
    """Compute KL(policy ‖ reference) of two distributions over texts.

    Args:
        policy: `(N,)`; some may be 0.
        reference: `(N,)`, all above 0.
    """
    # BEGIN SOLUTION
    written = policy > 0
    return float(policy[written] @ np.log(policy[written] / reference[written]))
    # END SOLUTION


def gain(policy: Floats, reference: Floats, rewards: Floats) -> float:
    """Compute what a policy earns more than the reference, in the reference's standard deviations.

    Args:
        policy: `(N,)`, probabilities of the texts.
        reference: `(N,)`.
        rewards: `(N,)`, not all the same.
    """
    # BEGIN SOLUTION
    mean = reference @ rewards
    return float((policy @ rewards - mean) / np.sqrt(reference @ (rewards - mean) ** 2))
    # END SOLUTION


def over_optimisation(policy: Floats, reference: Floats, proxy: Floats, gold: Floats) -> float:
    """Compute how much more a policy gained by the reward that was optimised than by gold.

    Args:
        policy: `(N,)`, probabilities of the texts.
        reference: `(N,)`.
        proxy: `(N,)`, the reward that was optimised.
        gold: `(N,)`, the one that we believe.
    """
    # BEGIN SOLUTION
    return gain(policy, reference, proxy) - gain(policy, reference, gold)
    # END SOLUTION


def best_of_n_gold(proxy: Floats, gold: Floats, n: int) -> float:
    """Estimate the expected gold of best-of-n by proxy from `m` texts, without bias (Nakano et al. 2021).

    Args:
        proxy: `(m,)`, of independent texts, all different.
        gold: `(m,)`, of the same texts.
        n: From 1 to m.

    Returns:
        The mean, over all sets of `n` of the texts, of the gold of the one that has the most proxy.
    """
    # BEGIN SOLUTION
    ranked = gold[np.argsort(proxy)]
    m = len(ranked)
    weights = np.zeros(m)  # C(i, n − 1) / C(m, n): the others come from the i texts below
    weights[-1] = n / m
    for i in range(m - 1, n - 1, -1):
        weights[i - 1] = weights[i] * (i - n + 1) / i
    return float(weights @ ranked)
    # END SOLUTION


def fit_gao(kl: Floats, gains: Floats) -> tuple[float, float]:
    """Fit the law of best-of-n, gain = d (α − β d) with d = √KL, by least squares (Gao et al. 2023).

    Args:
        kl: `(points,)`.
        gains: `(points,)`, of gold.

    Returns:
        α and β.
    """
    # BEGIN SOLUTION
    d = np.sqrt(kl)
    (alpha, beta), *_ = np.linalg.lstsq(np.stack([d, -(d**2)], axis=1), gains, rcond=None)
    return float(alpha), float(beta)
    # END SOLUTION


def peak(alpha: float, beta: float) -> tuple[float, float]:
    """Find where that law is highest.

    Args:
        alpha: Above 0.
        beta: Above 0.

    Returns:
        The KL there, in nats, and the gain.
    """
    # BEGIN SOLUTION
    d = alpha / (2 * beta)
    return d**2, d * (alpha - beta * d)
    # END SOLUTION


def my_reward(texts: Sequence[str], facts: Sequence[str]) -> Floats:
    """Say how good advertisements are; the reward is your own, and gold stays hidden.

    Good is an advertisement that mentions every fact, once, in few words, without superlatives. Somebody will
    draw many texts, take the one that you like best, and look at it.

    Args:
        texts: `(m,)`, words in lower case with a space between two, in any order and number.
        facts: Words that are to be mentioned.

    Returns:
        `(m,)`.
    """
    # BEGIN SOLUTION
    hype = {"best", "amazing", "ultimate", "stunning", "unique"}
    rewards = []
    for text in texts:
        words = text.split()
        said = len(set(words) & set(facts)) / len(facts)
        repeated = len(words) - len(set(words))
        superlatives = sum(word in hype for word in words)
        rewards.append(said - 0.1 * repeated - 0.1 * superlatives - 0.01 * len(words))
    return np.array(rewards)
    # END SOLUTION
