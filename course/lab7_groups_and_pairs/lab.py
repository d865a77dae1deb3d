"""Lab 7: GRPO, RLOO, best-of-n, DPO. Fill in the functions; `README.md` says what each has to be.

`G` groups of `k` texts of one prompt each, `B` texts or pairs, `T` tokens, `N` everything that a policy can
write. Log-probabilities and KLs are in nats.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def group_advantages(returns: Tensor, std: bool) -> Tensor:
    """Compare every text with its own group, as GRPO does.

    Args:
        returns: `(G, k)`, a row for each group.
        std: Divide by the group's standard deviation, the root of the mean squared distance from its mean.

    Returns:
        `(G, k)`. A group whose returns are all the same (to 1e-9) has zeros.
    """
    # BEGIN SOLUTION
    centred = returns - returns.mean(1, keepdim=True)
    spread = (centred**2).mean(1, keepdim=True).sqrt()
    scaled = centred / spread if std else centred
    return torch.where(spread > 1e-9, scaled, 0.0)
    # END SOLUTION


def leave_one_out_advantages(returns: Tensor) -> Tensor:
    """Compare every text with the others of its group, as RLOO does.

    Args:
        returns: `(G, k)`.

    Returns:
        `(G, k)`.
    """
    # BEGIN SOLUTION
    others = (returns.sum(1, keepdim=True) - returns) / (returns.shape[1] - 1)
    return returns - others
    # END SOLUTION


def grpo_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    reference_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: float,
    beta: float,
) -> Tensor:
    """Compute GRPO's loss as it was published.

    Args:
        log_probs: `(B, T)`, of the tokens as the policy is now, with gradients.
        old_log_probs: `(B, T)`, as it was when it wrote them.
        reference_log_probs: `(B, T)`, under the reference policy.
        advantages: `(B,)`, one for each text.
        mask: `(B, T)` bool; there is rubbish in the tables where it is False.
        clip: ε.
        beta: β, the weight of k3.

    Returns:
        A tensor of one number: the mean over texts of the mean over the tokens of each.
    """
    # BEGIN SOLUTION
    ratio = (log_probs - old_log_probs).exp()
    own = advantages[:, None]
    surrogate = torch.minimum(ratio * own, ratio.clamp(1 - clip, 1 + clip) * own)
    log_ratio = reference_log_probs - log_probs
    k3 = log_ratio.exp() - 1 - log_ratio
    gain = torch.where(mask, surrogate - beta * k3, 0.0)
    return -(gain.sum(1) / mask.sum(1)).mean()
    # END SOLUTION


def win_rates(probabilities: Tensor, returns: Tensor) -> Tensor:
    """Compute how often each text has more return than a text that the policy writes.

    Args:
        probabilities: `(N,)`, of the texts under the policy.
        returns: `(N,)`; some may be the same.

    Returns:
        `(N,)`, in [0, 1]; a tie counts one half.
    """
    # BEGIN SOLUTION
    more = (returns[:, None] > returns[None, :]).double()
    same = (returns[:, None] == returns[None, :]).double()
    return (more + 0.5 * same) @ probabilities
    # END SOLUTION


def best_of_n(probabilities: Tensor, returns: Tensor, n: int) -> Tensor:
    """Compute what comes out if n texts are drawn and the best is kept, of equal ones the first.

    Args:
        probabilities: `(N,)`, of the texts under the policy.
        returns: `(N,)`; some may be the same.
        n: How many are drawn.

    Returns:
        `(N,)`, probabilities.
    """
    # BEGIN SOLUTION
    up_to = (returns[None, :] <= returns[:, None]).double() @ probabilities
    below = (returns[None, :] < returns[:, None]).double() @ probabilities
    level = up_to**n - below**n  # the best has this return
    return level * probabilities / (up_to - below)
    # END SOLUTION


def best_of_n_kl(n: int) -> float:
    """Compute the KL of best-of-n from the policy that draws, if no two texts have the same return.

    Args:
        n: How many are drawn.

    Returns:
        Nats per text, for a policy that writes each single text with a vanishing probability.
    """
    # BEGIN SOLUTION
    return math.log(n) - (n - 1) / n
    # END SOLUTION


def implicit_rewards(log_probs: Tensor, reference_log_probs: Tensor, beta: float) -> Tensor:
    """Compute the reward for which a policy is the optimum of return less β times the KL.

    Args:
        log_probs: `(N,)`, of whole texts under the policy.
        reference_log_probs: `(N,)`, under the reference policy.
        beta: β.

    Returns:
        `(N,)`, up to a number that is the same for all texts of a prompt.
    """
    # BEGIN SOLUTION
    return beta * (log_probs - reference_log_probs)
    # END SOLUTION


def dpo_loss(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float
) -> Tensor:
    """Compute DPO's loss of a batch of pairs.

    Args:
        chosen: `(B,)`, log-probabilities of the whole texts that were preferred, with gradients.
        rejected: `(B,)`, of those that were not, with gradients.
        reference_chosen: `(B,)`, under the reference policy.
        reference_rejected: `(B,)`, likewise.
        beta: β.

    Returns:
        A tensor of one number: the mean over pairs.
    """
    # BEGIN SOLUTION
    better = implicit_rewards(chosen, reference_chosen, beta)
    worse = implicit_rewards(rejected, reference_rejected, beta)
    return -F.logsigmoid(better - worse).mean()
    # END SOLUTION
