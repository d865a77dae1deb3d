"""Hidden tests of lab 7: the laws of the public ones with other numbers; the package is a second oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from course.checks import close
from course.lab7_groups_and_pairs import test_lab as public
from course.worlds import world
from text_gym.agents import Policy, exact_policy_gradient, trajectory_log_probs
from text_gym.tasks.enumerable import (
    best_of_n_law,
    bradley_terry,
    enumerable,
    expected_dpo_loss,
    expected_group_advantages,
    expected_win_rate,
    trajectories,
)


def test_groups_of_other_sizes(lab: Any, seed: int) -> None:
    for groups, size in ((1, 2), (5, 8), (7, 3)):
        public.test_texts_are_compared_with_their_own_group(lab, seed + size, groups, size)
        public.test_rloo_leaves_a_text_out_of_its_own_baseline(lab, seed + size, groups, size)


def test_equal_groups(lab: Any, seed: int) -> None:
    public.test_a_group_of_equal_returns_says_nothing(lab, seed)
    for value in (0.1, 1 / 3, 0.7, -12.3):
        returns = torch.full((2, 7), value, dtype=torch.float64)
        for std in (True, False):
            close(
                lab.group_advantages(returns, std),
                np.zeros((2, 7)),
                f"your advantages of seven times {value:.3g}",
                hint=public.EQUAL,
            )


def test_duels_of_another_world(lab: Any, seed: int) -> None:
    public.test_with_two_texts_grpo_climbs_the_win_rate(lab, seed + 1, "ab", 3)


def test_groups_of_three_on_a_transformer(lab: Any, seed: int) -> None:
    """The package's expected advantages in its `exact_policy_gradient`, against the sum over all groups."""
    task = enumerable("ab", 2, seed)
    policy = Policy.new(
        task.tokenizer, width=8, layers=1, heads=2, context=8, seed=seed, device="cpu"
    ).double()
    texts = trajectories(task)
    returns = np.round(4 * task.reward(texts).values) / 4
    log_probs = trajectory_log_probs(policy, texts)
    p = log_probs.detach().exp()
    groups = torch.cartesian_prod(*[torch.arange(len(texts))] * 3)
    chance = p[groups].prod(1)[:, None] / 3
    for std in (True, False):
        weights = torch.zeros_like(p)
        found = torch.as_tensor(lab.group_advantages(torch.from_numpy(returns)[groups], std)) * chance
        weights.index_add_(0, groups.flatten(), found.flatten())
        names, parameters = zip(*policy.named_parameters(), strict=True)
        slopes = dict(
            zip(
                names,
                torch.autograd.grad(log_probs, parameters, weights, retain_graph=True, allow_unused=True),
                strict=True,
            )
        )
        expected = expected_group_advantages(p.numpy(), returns, 3, std=std)
        for name, right in exact_policy_gradient(policy, texts, expected).items():
            close(
                slopes[name],
                right,
                f"the expected gradient of your group advantages (std={std}) by {name}",
                hint="groups of three: the standard deviation is that of the group; " + public.EQUAL,
                rtol=1e-6,
            )


def test_rloo_in_groups_of_three(lab: Any, seed: int) -> None:
    public.test_rloo_has_the_gradient_of_the_return(lab, seed, 3)


def test_the_loss_on_other_batches(lab: Any, seed: int) -> None:
    for texts, width in ((2, 3), (8, 7)):
        public.test_the_loss_is_that_of_the_paper(lab, seed + texts, texts, width)


def test_the_loss_on_another_world(lab: Any, seed: int) -> None:
    public.test_the_loss_as_published_climbs_the_return_per_token(lab, seed + 3, "ab", 4)


def test_win_rates_of_another_world(lab: Any, seed: int) -> None:
    public.test_win_rates_by_every_duel(lab, seed + 1, "ab", 4)
    w = public.tied(seed + 5)
    p, q = w.probabilities, world(seed + 6).probabilities
    close(
        q @ torch.as_tensor(lab.win_rates(p, w.returns)),
        expected_win_rate(q.numpy(), p.numpy(), w.returns.numpy()),
        "the win rate of another policy by your win rates",
        hint="a tie counts one half",
    )


def test_the_best_of_three(lab: Any, seed: int) -> None:
    public.test_best_of_n_by_every_draw(lab, seed + 1, 3, "ab", 3)
    public.test_best_of_n_by_every_draw(lab, seed + 2, 1, "ab", 3)


def test_the_best_of_many(lab: Any, seed: int) -> None:
    w = public.tied(seed + 3)
    for n in (8, 50):
        close(
            lab.best_of_n(w.probabilities, w.returns, n),
            best_of_n_law(w.probabilities.numpy(), w.returns.numpy(), n),
            f"your law of the best of {n}",
            hint="P(best has return ≤ r) = F(r)^n; equal texts share it by their probabilities",
        )


def test_the_kl_of_more_texts(lab: Any, seed: int) -> None:
    public.test_the_kl_of_best_of_n(lab, seed, (3, 16, 100))
    public.test_the_formula_is_an_upper_bound(lab, seed + 1, "ab", 4)


def test_implicit_rewards_of_another_policy(lab: Any, seed: int) -> None:
    public.test_a_policy_is_the_optimum_of_its_implicit_reward(lab, seed + 1, 30)


def test_dpo_on_other_pairs(lab: Any, seed: int) -> None:
    public.test_the_dpo_loss_of_a_batch(lab, seed + 1, 9, 0.1)
    public.test_the_dpo_loss_of_a_hopeless_pair_is_finite(lab, seed)


def test_dpo_against_the_package(lab: Any, seed: int) -> None:
    """Two texts of a uniform reference, one of which is preferred three times as often as the other."""
    policy, reference = np.array([0.9, 0.1]), np.array([0.5, 0.5])
    rewards = np.array([0.0, np.log(3.0)])
    exact = expected_dpo_loss(policy, reference, bradley_terry(rewards), 0.3)
    chosen = torch.tensor([1, 1, 1, 0, 0, 0, 0, 0])  # four pairs of a text with itself: log 2 each
    rejected = torch.tensor([0, 0, 0, 1, 0, 0, 0, 0])
    said, base = torch.from_numpy(np.log(policy)), torch.from_numpy(np.log(reference))
    close(
        lab.dpo_loss(said[chosen], said[rejected], base[chosen], base[rejected], 0.3),
        exact,
        "your DPO loss of eight pairs",
        hint="chosen first, both against the reference, β times the margin, the mean of the logarithms",
    )


def test_where_dpo_ends_in_another_world(lab: Any, seed: int) -> None:
    public.test_dpo_ends_at_the_optimum_of_rlhf(lab, seed + 1, 9, 0.4)
