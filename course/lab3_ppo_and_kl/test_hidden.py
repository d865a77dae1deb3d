"""Hidden tests of lab 3: the laws of the public ones with other seeds and sizes, and on a transformer."""

from __future__ import annotations

from typing import Any

import torch

from course.checks import close, gradient
from course.lab3_ppo_and_kl import test_lab as public
from text_gym.agents import Policy, exact_policy_gradient, trajectory_log_probs
from text_gym.tasks.enumerable import enumerable, trajectories


def test_estimates_of_a_token(lab: Any, seed: int) -> None:
    public.test_estimates_of_one_token(lab, seed)
    public.test_the_gradient_of_k2_is_that_of_the_kl(lab, seed)


def test_estimates_on_a_larger_world(lab: Any, seed: int) -> None:
    public.test_k1_and_k3_are_right_on_average(lab, seed, "ab", 5)


def test_k3_is_never_negative(lab: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    policy, reference = -3 * torch.rand(2, 50, generator=generator, dtype=torch.float64)
    _, _, k3 = lab.kl_estimates(policy, reference)
    close(
        (torch.as_tensor(k3) < 0).sum(), 0, "the number of negative ones among your k3", hint="r − 1 ≥ log r"
    )


def test_prices_on_another_batch(lab: Any, seed: int) -> None:
    public.test_every_token_pays_for_its_own_nats(lab, seed, 9, 12)


def test_advantages_on_other_batches(lab: Any, seed: int) -> None:
    public.test_gae_by_its_definition(lab, seed, 7, 11)


def test_advantages_of_monte_carlo(lab: Any, seed: int) -> None:
    public.test_with_lambda_one_the_critic_cancels(lab, seed, 7, 11)


def test_whitening_of_another_batch(lab: Any, seed: int) -> None:
    public.test_whitening_is_over_the_tokens_of_the_batch(lab, seed, 8, 10)


def test_clipping_elsewhere(lab: Any, seed: int) -> None:
    public.test_the_loss_stops_pushing_where_it_is_clipped(lab, seed, 0.3)


def test_together_on_another_world(lab: Any, seed: int) -> None:
    public.test_reward_gae_and_loss_together_are_the_exact_gradient(lab, seed, 1.3, "ab", 4)


def test_together_on_a_transformer(lab: Any, seed: int) -> None:
    """The oracle is the package's `exact_policy_gradient` with its reference and β."""
    beta = 0.25
    task = enumerable("abc", 2, seed)
    sizes = {"width": 8, "layers": 1, "heads": 2, "context": 8, "device": "cpu"}
    policy, reference = (Policy.new(task.tokenizer, seed=seed + i, **sizes).double() for i in (0, 1))  # type: ignore[arg-type]
    texts = trajectories(task)
    returns = task.reward(texts).values
    with torch.no_grad():
        nats = trajectory_log_probs(policy, texts) - trajectory_log_probs(reference, texts)
    log_probs = trajectory_log_probs(policy, texts)[:, None]  # a text as a single action
    mask = torch.ones_like(log_probs, dtype=torch.bool)
    now = log_probs.detach()
    shaped = lab.kl_rewards(torch.from_numpy(returns)[:, None], now, now - nats[:, None], mask, beta)
    weighted = torch.as_tensor(shaped) * now.exp() * len(texts)
    inputs = now.clone().requires_grad_()
    by_texts = gradient(lab.clipped_loss(inputs, now, weighted, mask, 0.2), inputs, "your clipped loss")
    names, parameters = zip(*policy.named_parameters(), strict=True)
    found = dict(
        zip(names, torch.autograd.grad(log_probs, parameters, by_texts, allow_unused=True), strict=True)
    )
    right = exact_policy_gradient(policy, texts, returns, reference=reference, beta=beta)
    for name, slope in right.items():
        close(
            found[name],
            -slope,
            f"the expected gradient of your rewards and loss by {name}",
            hint="it must be minus the gradient of the expected return less β times the KL",
            rtol=1e-6,
        )


def test_optimal_policies(lab: Any, seed: int) -> None:
    public.test_the_optimal_policy_is_the_reference_tilted(lab, seed, 7)


def test_objectives(lab: Any, seed: int) -> None:
    public.test_the_objective_is_return_less_kl(lab, seed, 7)


def test_the_frontier_of_another_world(lab: Any, seed: int) -> None:
    public.test_climbing_ends_on_the_closed_form_frontier(lab, seed, 12)
