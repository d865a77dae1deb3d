"""Hidden tests of lab 2: the laws of the public ones with other seeds and sizes, and on a neural network."""

from __future__ import annotations

from typing import Any

import torch

from course.checks import close, gradient
from course.lab2_policy_gradient import test_lab as public
from text_gym.agents import Policy, exact_policy_gradient
from text_gym.tasks.enumerable import enumerable, trajectories


def test_rewards_to_go_add_up_to_the_definition(lab: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(7, 11, generator=generator, dtype=torch.float64)
    right = torch.stack([rewards[:, t:].sum(1) for t in range(11)], dim=1)
    close(
        lab.rewards_to_go(rewards),
        right,
        "your rewards to go",
        mistakes={
            "you add up what came before a token; it cannot have caused that": rewards.cumsum(1),
            "you leave out a token's own reward": right - rewards,
            "every token gets the whole return, rewards before it too": right[:, :1].expand(7, 11),
        },
    )


def test_rewards_to_go_of_a_single_token(lab: Any, seed: int) -> None:
    close(lab.rewards_to_go(torch.tensor([[2.5]])), [[2.5]], "your rewards to go of one token's own reward")
    public.test_a_token_is_paid_for_what_follows_it(lab, seed)


def test_the_loss_on_other_batches(lab: Any, seed: int) -> None:
    for texts, width in ((2, 9), (16, 4), (7, 40)):
        public.test_the_loss_weighs_every_token_of_every_text_alike(lab, seed + texts, texts, width)


def test_the_loss_on_larger_worlds(lab: Any, seed: int) -> None:
    public.test_the_expected_gradient_of_the_loss_is_the_exact_policy_gradient(lab, seed + 1, "ab", 4)


def test_the_loss_of_a_network_has_the_exact_policy_gradient(lab: Any, seed: int) -> None:
    """The weights are a transformer's, and the oracle is the package's `exact_policy_gradient`."""
    task = enumerable("abc", 3, seed)
    policy = Policy.new(
        task.tokenizer, width=8, layers=1, heads=2, context=8, seed=seed, device="cpu"
    ).double()
    texts = trajectories(task)
    returns = torch.from_numpy(task.reward(texts).values)
    starts = torch.tensor([len(text.prompt_ids) for text in texts])
    lengths = torch.tensor([len(text.completion_ids) for text in texts])
    tokens = torch.zeros(len(texts), int((starts + lengths).max()), dtype=torch.int64)
    for row, text in zip(tokens, texts, strict=True):
        both = torch.cat([torch.from_numpy(text.prompt_ids), torch.from_numpy(text.completion_ids)])
        row[: len(both)] = both
    said = policy.evaluate(tokens, starts, lengths).log_probs
    mask = torch.arange(said.shape[1]) < lengths[:, None]
    chance = (said * mask).sum(1).detach().exp()
    weights = (len(texts) * chance * returns)[:, None].expand_as(said)
    inputs = said.detach().requires_grad_()
    by_tokens = gradient(lab.reinforce_loss(inputs, mask, weights), inputs, "your loss")
    names, parameters = zip(*policy.named_parameters(), strict=True)
    found = dict(zip(names, torch.autograd.grad(said, parameters, by_tokens, allow_unused=True), strict=True))
    for name, right in exact_policy_gradient(policy, texts, returns.numpy()).items():
        close(
            found[name],
            -right,
            f"the expected gradient of your loss by {name}",
            mistakes={"it has the wrong sign: optimizers go downhill, and the return must go up": right},
            hint="it must be minus the gradient of the expected return, whatever the policy is",
            rtol=1e-6,
        )


def test_the_baseline_on_other_returns(lab: Any, seed: int) -> None:
    returns = torch.randn(9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    right = torch.stack([torch.cat([returns[:i], returns[i + 1 :]]).mean() for i in range(9)])
    close(
        lab.leave_one_out(returns),
        right,
        "your leave-one-out baseline",
        mistakes={
            "it includes the text itself, and so takes away a part of its own return": returns.mean().expand(
                9
            ),
            "you divide by n; there are n − 1 others": right * 8 / 9,
        },
    )


def test_the_baseline_changes_nothing_on_average_in_larger_batches(lab: Any, seed: int) -> None:
    public.test_a_baseline_that_leaves_the_text_out_changes_nothing_on_average(lab, seed + 2, size=3)


def test_expectation_and_variance_on_another_world(lab: Any, seed: int) -> None:
    public.test_the_expected_gradient_is_exact_whatever_the_baseline(lab, seed + 3, "abcd", 2)
    public.test_the_variance_is_the_mean_squared_distance_from_the_mean(lab, seed + 3, "abcd", 2)


def test_the_variance_falls_to_that_of_the_best_baseline(lab: Any, seed: int) -> None:
    public.test_no_baseline_has_less_variance_than_the_best(lab, seed + 4, "ab", 4)


def test_a_policy_that_writes_one_text_has_no_variance(lab: Any, seed: int) -> None:
    p, scores = torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 0.0], [3.0, -3.0]])
    close(
        lab.gradient_variance(p, scores, torch.tensor([0.3, 0.9]), 0.0),
        0.0,
        "your variance of a policy that always writes the same text",
        mistakes={"you forgot the probabilities: all texts count alike": 3.645},
    )
