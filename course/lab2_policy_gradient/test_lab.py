"""Public tests of lab 2: every formula against its exact answer, on worlds small enough to be listed.

A message names the mistake, if it is one that is often made. The hidden tests are these laws and some more,
with other numbers and on larger worlds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from course.checks import close, gradient
from course.worlds import world


def batch(seed: int, texts: int = 5, width: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Draw log-probabilities, a mask and weights of a batch; there is rubbish on its padding."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, width, (texts,), generator=generator)
    mask = torch.arange(width) < lengths[:, None]
    log_probs = -torch.rand(texts, width, generator=generator, dtype=torch.float64)
    weights = torch.randn(texts, width, generator=generator, dtype=torch.float64)
    return torch.where(mask, log_probs, -7.0), mask, weights


# rewards_to_go


def test_a_token_is_paid_for_what_follows_it(lab: Any, seed: int) -> None:
    rewards = torch.tensor([[0.0, 0.0, 1.0, 0.0], [1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    close(
        lab.rewards_to_go(rewards),
        [[1.0, 1.0, 1.0, 0.0], [10.0, 9.0, 7.0, 4.0]],
        "your rewards to go",
        mistakes={
            "you add up what came before a token; it cannot have caused that": rewards.cumsum(1),
            "you leave out a token's own reward": [[1.0, 1.0, 0.0, 0.0], [9.0, 7.0, 4.0, 0.0]],
            "every token gets the whole return, rewards before it too": [[1.0] * 4, [10.0] * 4],
        },
    )


# reinforce_loss


def test_the_loss_of_one_token_is_minus_its_weighted_log_probability(lab: Any, seed: int) -> None:
    log_probs = torch.tensor([[-0.7]], dtype=torch.float64)
    found = lab.reinforce_loss(log_probs, torch.tensor([[True]]), torch.tensor([[3.0]], dtype=torch.float64))
    close(
        found,
        2.1,
        "your loss of a single token",
        mistakes={"it has the wrong sign: optimizers go downhill, and the return must go up": -2.1},
    )


def test_the_loss_weighs_every_token_of_every_text_alike(
    lab: Any, seed: int, texts: int = 5, width: int = 6
) -> None:
    log_probs, mask, weights = batch(seed, texts, width)
    log_probs.requires_grad_()
    found = gradient(lab.reinforce_loss(log_probs, mask, weights), log_probs, "your loss")
    right = torch.where(mask, -weights / texts, 0.0)
    lengths = mask.sum(1, keepdim=True)
    close(
        found,
        right,
        "the gradient of your loss by the log-probabilities",
        mistakes={
            "it has the wrong sign: optimizers go downhill, and the return must go up": -right,
            "it is the mean per token: with longer texts in a batch every token counts less; "
            "divide by the number of texts": right * texts / mask.sum(),
            "it is the mean over the padded width: divide by the number of texts": right / width,
            "each text is divided by its own length, so that long texts count less (a length bias); "
            "sum over tokens, then take the mean over texts": right / lengths,
            "it reads padding: tokens after a text's end have no part in it; use the mask": -weights / texts,
            "it is the sum over texts; divide by the number of texts": right * texts,
            "it weighs the probability in place of the log-probability: ∇π is not ∇log π": right
            * log_probs.exp(),
        },
        hint="the loss is −(1/B) Σ_i Σ_t w_it log π(a_it) over the tokens where the mask is True",
    )


def test_the_expected_gradient_of_the_loss_is_the_exact_policy_gradient(
    lab: Any, seed: int, symbols: str = "abc", max_tokens: int = 3
) -> None:
    """A batch of all texts, in which each has its probability as a further weight, is the expectation."""
    w = world(seed, symbols, max_tokens)
    count = len(w.returns)
    weights = (count * w.probabilities * w.returns)[:, None].expand_as(w.log_probs)
    inputs = torch.where(w.mask, w.log_probs, -9.0).detach().requires_grad_()
    by_tokens = gradient(lab.reinforce_loss(inputs, w.mask, weights), inputs, "your loss")
    (found,) = torch.autograd.grad(w.log_probs, w.logits, by_tokens, retain_graph=True)
    close(
        found.flatten(),
        -w.policy_gradient,
        "the expected gradient of your loss by the weights of the policy",
        mistakes={
            "it has the wrong sign: optimizers go downhill, and the return must go up": w.policy_gradient
        },
        hint="it must be minus the gradient of the expected return",
    )


# leave_one_out


def test_the_baseline_of_a_text_is_the_mean_of_the_others(lab: Any, seed: int) -> None:
    returns = torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64)
    close(
        lab.leave_one_out(returns),
        [3.0, 2.5, 0.5],
        "your leave-one-out baseline of returns 0, 1, 5",
        mistakes={
            "it includes the text itself, and so takes away a part of its own return": [
                2.0,
                2.0,
                2.0,
            ],
            "you divide by n; there are n − 1 others": [2.0, 5 / 3, 1 / 3],
        },
    )


def test_a_baseline_that_leaves_the_text_out_changes_nothing_on_average(
    lab: Any, seed: int, size: int = 2
) -> None:
    """Over all batches of `size` independent texts of a small world, weighted with their probabilities."""
    w = world(seed, "a", 2)
    texts = range(len(w.returns))
    batches = torch.cartesian_prod(*[torch.tensor(texts)] * size)  # (batches, size)
    total = torch.zeros_like(w.policy_gradient)
    with_itself = torch.zeros_like(w.policy_gradient)
    scores, p = w.scores, w.probabilities
    for rows in batches:
        returns = w.returns[rows]
        baseline = torch.as_tensor(lab.leave_one_out(returns))
        chance = p[rows].prod()
        total += chance * ((returns - baseline) @ scores[rows]) / size
        with_itself += chance * ((returns - returns.mean()) @ scores[rows]) / size
    close(
        total,
        w.policy_gradient,
        "the expected gradient with your baseline",
        mistakes={"it is (n − 1)/n of the right one: your baseline includes the text itself": with_itself},
        hint="a baseline of a text must be computed from the other texts alone",
    )


# expected_gradient, gradient_variance, best_baseline


def test_the_expected_gradient_is_exact_whatever_the_baseline(
    lab: Any, seed: int, symbols: str = "abc", max_tokens: int = 3
) -> None:
    w = world(seed, symbols, max_tokens)
    p, scores, returns, right = w.probabilities, w.scores, w.returns, w.policy_gradient
    for baseline in (0.0, 0.6, -3.0):
        close(
            lab.expected_gradient(p, scores, returns, baseline),
            right,
            f"your expected gradient with baseline {baseline}",
            mistakes={
                "you forgot the probabilities: all texts count alike": ((returns - baseline) @ scores)
                / len(p),
                "the baseline is taken off after the return was multiplied by its probability, "
                "so the baseline changes the expectation": (p * returns - baseline) @ scores,
            },
            hint="it is Σ π(y) (R(y) − b) ∇log π(y); a baseline changes nothing in it, since Σ π ∇log π = 0",
        )


def test_the_variance_is_the_mean_squared_distance_from_the_mean(
    lab: Any, seed: int, symbols: str = "abc", max_tokens: int = 3
) -> None:
    w = world(seed, symbols, max_tokens)
    p, scores, returns, mean = w.probabilities, w.scores, w.returns, w.policy_gradient
    for baseline in (0.0, 0.6):
        samples = (returns - baseline)[:, None] * scores  # (N, D): the estimator, for each text
        right = (p * ((samples - mean) ** 2).sum(1)).sum()
        plain = returns[:, None] * scores
        close(
            lab.gradient_variance(p, scores, returns, baseline),
            right,
            f"your variance with baseline {baseline}",
            mistakes={
                "it is the second moment E‖g‖²: take off ‖E g‖²": (p * (samples**2).sum(1)).sum(),
                "it does not depend on the baseline, but the baseline is there to lower it": (
                    p * ((plain - mean) ** 2).sum(1)
                ).sum(),
                "you forgot the probabilities: all texts count alike": ((samples - mean) ** 2).sum(1).mean(),
            },
        )


def test_no_baseline_has_less_variance_than_the_best(
    lab: Any, seed: int, symbols: str = "abc", max_tokens: int = 3
) -> None:
    """The variance is a parabola in b; its lowest point follows from its values at three places."""
    w = world(seed, symbols, max_tokens)
    p, scores, returns, mean = w.probabilities, w.scores, w.returns, w.policy_gradient

    def variance(b: float) -> Tensor:
        return (p * (((returns - b)[:, None] * scores - mean) ** 2).sum(1)).sum()

    low, middle, high = variance(-1.0), variance(0.0), variance(1.0)
    right = (low - high) / (2 * (low - 2 * middle + high))
    squared = (scores**2).sum(1)
    close(
        lab.best_baseline(p, scores, returns),
        right,
        "your best baseline",
        mistakes={
            "it is the mean return, which is good but not the best: texts with long scores count more": p
            @ returns,
            "you forgot the probabilities: all texts count alike": (squared @ returns) / squared.sum(),
            "you weigh with ‖∇log π‖; the variance has its square": (p * squared.sqrt() @ returns)
            / (p * squared.sqrt()).sum(),
        },
        hint="set the derivative of the variance by b to 0",
    )
