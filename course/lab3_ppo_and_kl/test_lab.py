"""Public tests of lab 3: PPO's parts by their definitions, the KL by listing, and where it all ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from course.checks import close, gradient
from course.worlds import world
from text_gym.tasks.enumerable import kl_divergence, total_variation
from text_gym.tasks.enumerable import optimal_policy as closed_form

RUBBISH = 1e3


def batch(seed: int, texts: int, width: int, count: int) -> tuple[Tensor, ...]:
    """Draw a mask and `count` tables of numbers, with rubbish on the padding."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, width, (texts,), generator=generator)
    lengths[0], lengths[-1] = width, 1
    mask = torch.arange(width) < lengths[:, None]
    tables = torch.randn(count, texts, width, generator=generator, dtype=torch.float64)
    return (mask, *torch.where(mask, tables, RUBBISH))


# kl_estimates


def test_estimates_of_one_token(lab: Any, seed: int) -> None:
    """The policy gives the token ½, the reference ¼: log 2, ½ (log 2)², ½ − 1 + log 2."""
    found = lab.kl_estimates(torch.tensor([0.5]).double().log(), torch.tensor([0.25]).double().log())
    log2 = float(np.log(2.0))
    close(
        found[0],
        [log2],
        "your k1",
        mistakes={"k1 has the wrong sign: it is log π/π_ref, which is above 0 on average": [-log2]},
    )
    close(
        found[1],
        [log2**2 / 2],
        "your k2",
        mistakes={"k2 lacks its factor ½": [log2**2]},
    )
    close(
        found[2],
        [log2 - 0.5],
        "your k3",
        mistakes={
            "k3 has its ratio upside down: in r − 1 − log r it is r = π_ref/π": [1 - log2],
            "k3 is r − 1 − log r: the sign of the logarithm is wrong": [-0.5 - log2],
            "k3 lacks log r: r − 1 alone is 0 on average, whatever the policies are": [-0.5],
        },
    )


def test_k1_and_k3_are_right_on_average(
    lab: Any, seed: int, symbols: str = "abc", max_tokens: int = 3
) -> None:
    """Over everything that the policy can write; the reference is another policy of the same world."""
    policy, reference = (world(s, symbols, max_tokens).text_log_probs.detach() for s in (seed, seed + 1))
    exact = kl_divergence(policy.exp().numpy(), reference.exp().numpy())
    backwards = kl_divergence(reference.exp().numpy(), policy.exp().numpy())
    k1, _, k3 = lab.kl_estimates(policy, reference)
    for name, found in (("k1", k1), ("k3", k3)):
        close(
            policy.exp() @ found,
            exact,
            f"the expectation of your {name}",
            mistakes={
                f"{name} has the wrong sign": -exact,
                f"{name} has its ratio upside down; it is the KL of the reference from the policy": backwards,
            },
            hint=f"E {name} is the KL exactly, over texts that the policy draws",
        )


def test_the_gradient_of_k2_is_that_of_the_kl(lab: Any, seed: int) -> None:
    """Tokens are drawn from the policy as it is; the estimators are differentiated as losses."""
    w, reference = world(seed), world(seed + 1).text_log_probs.detach()
    log_probs = w.text_log_probs
    right = w.slope_of((log_probs.exp() * (log_probs - reference)).sum())
    inputs = log_probs.detach().requires_grad_()
    _, k2, _ = lab.kl_estimates(inputs, reference)
    by_texts = gradient((w.probabilities * k2).sum(), inputs, "your k2")
    close(
        w.slope_of((by_texts * log_probs).sum()),
        right,
        "the expected gradient of your k2",
        mistakes={"k2 lacks its factor ½": 2 * right},
        hint="in a loss, k2 = ½ (log π/π_ref)² has the gradient of the KL on average, and k1 has none",
    )


# kl_rewards


def test_every_token_pays_for_its_own_nats(lab: Any, seed: int, texts: int = 4, width: int = 6) -> None:
    mask, rewards, log_probs, reference = batch(seed, texts, width, 3)
    rewards = rewards * mask
    nats = log_probs - reference
    log_probs = torch.where(mask, log_probs, -RUBBISH)
    whole = (nats * mask).sum(1)
    at_end = torch.zeros_like(rewards)
    for i, length in enumerate(mask.sum(1)):
        at_end[i, length - 1] = whole[i]
    close(
        lab.kl_rewards(rewards, log_probs, reference, mask, 0.3),
        (rewards - 0.3 * nats) * mask,
        "your rewards with the price of the KL",
        mistakes={
            "you pay for the KL; its price is taken off": (rewards + 0.3 * nats) * mask,
            "you ignore β": (rewards - nats) * mask,
            "you charge for padding; nothing was drawn there": rewards - 0.3 * (log_probs - reference),
            "you charge a text's whole KL at its end; every token can pay for its own": rewards
            - 0.3 * at_end,
        },
    )


# gae


def by_definition(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float, *, bootstrap: float = 0.0
) -> Tensor:
    """Σ_l (γλ)^l δ_{t+l}, term by term, with `bootstrap` as the value of the state after the end."""
    found = torch.zeros_like(rewards)
    for i, length in enumerate(mask.sum(1).tolist()):
        expected = [*values[i, :length].tolist(), bootstrap]
        deltas = [float(rewards[i, t]) + gamma * expected[t + 1] - expected[t] for t in range(length)]
        for t in range(length):
            found[i, t] = sum((gamma * lam) ** (j - t) * deltas[j] for j in range(t, length))
    return found


def test_gae_by_its_definition(lab: Any, seed: int, texts: int = 4, width: int = 6) -> None:
    mask, rewards, values = batch(seed, texts, width, 2)
    shorter = mask.sum(1) < width
    for gamma, lam in ((0.9, 0.8), (1.0, 0.0), (0.95, 1.0)):
        right = by_definition(rewards, values, mask, gamma, lam)
        padded = by_definition(rewards, values, mask, gamma, lam, bootstrap=RUBBISH)
        padded[~shorter] = right[~shorter]
        all_tokens = by_definition(rewards, values, torch.ones_like(mask), gamma, lam)
        close(
            lab.gae(rewards, values, mask, gamma, lam),
            right,
            f"your advantages with γ = {gamma}, λ = {lam}",
            mistakes={
                "you bootstrap after EOS: when a text is over, no value follows": padded,
                "you read padding: rewards and values after a text's end leak into it": all_tokens * mask,
                "you give advantages to padding": all_tokens,
                "you ignore λ": by_definition(rewards, values, mask, gamma, 1.0),
                "you ignore γ": by_definition(rewards, values, mask, 1.0, lam),
                "you forget that the critic expected something: take V(s_t) off": by_definition(
                    rewards, torch.zeros_like(values), mask, gamma, lam
                ),
                "surprises fade by γλ a token; you let them fade by λ alone": fading(
                    rewards, values, mask, gamma, lam, lam
                ),
                "surprises fade by γλ a token; you let them fade by γ alone": fading(
                    rewards, values, mask, gamma, lam, gamma
                ),
                "you add what comes after the end, or nothing after δ: A_t = δ_t + γλ A_{t+1}": fading(
                    rewards, values, mask, gamma, lam, 0.0
                ),
            },
            hint="Â_t = Σ_l (γλ)^l δ_{t+l} and δ_t = r_t + γ V(s_{t+1}) − V(s_t), from the end backwards",
        )


def fading(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float, by: float) -> Tensor:
    """The mistake of letting surprises fade by another factor than γλ."""
    deltas = by_definition(rewards, values, mask, gamma, 0.0)
    return by_definition(deltas, torch.zeros_like(values), mask, by, 1.0)


def test_with_lambda_one_the_critic_cancels(lab: Any, seed: int, texts: int = 4, width: int = 6) -> None:
    """λ = γ = 1 is Monte Carlo: what was earned from here on, less what was expected."""
    mask, rewards, values = batch(seed + 1, texts, width, 2)
    earned = (rewards * mask).flip(1).cumsum(1).flip(1)
    close(
        lab.gae(rewards, values, mask, 1.0, 1.0),
        (earned - values) * mask,
        "your advantages with λ = γ = 1",
        hint="the sum telescopes to the return less V(s_t); nothing is bootstrapped after EOS",
    )


# whiten


def test_whitening_is_over_the_tokens_of_the_batch(
    lab: Any, seed: int, texts: int = 4, width: int = 6
) -> None:
    mask, x = batch(seed, texts, width, 1)
    tokens = x[mask].numpy()

    def scaled(mean: Any, std: Any) -> Tensor:
        return torch.where(mask, (x - mean) / std, 0.0)

    inside = x * mask
    rows = mask.sum(1, keepdim=True)
    row_mean = inside.sum(1, keepdim=True) / rows
    row_std = (((x - row_mean) ** 2 * mask).sum(1, keepdim=True) / rows).sqrt()
    close(
        lab.whiten(x, mask),
        scaled(tokens.mean(), tokens.std()),
        "your whitened numbers",
        mistakes={
            "mean and standard deviation are over the whole batch, padding included": scaled(
                x.mean(), x.std(correction=0)
            ),
            "your standard deviation is over the whole batch, padding included": scaled(
                tokens.mean(), ((inside - tokens.mean()) ** 2).mean().sqrt()
            ),
            "padding counts as zeros in your mean and standard deviation": scaled(
                inside.mean(), inside.std(correction=0)
            ),
            "you divide by n − 1 in the variance; here it is the mean square": scaled(
                tokens.mean(), tokens.std(ddof=1)
            ),
            "you whiten every text by itself; the batch has one mean and one standard deviation": scaled(
                row_mean, row_std
            ),
            "you divide by the variance, not by the standard deviation": scaled(tokens.mean(), tokens.var()),
            "you do not take the mean off": scaled(0.0, tokens.std()),
            "padding must be 0": (x - tokens.mean()) / tokens.std(),
        },
    )


# clipped_loss

RATIOS = (0.4, 0.9, 1.0, 1.15, 1.5)


def test_the_loss_stops_pushing_where_it_is_clipped(lab: Any, seed: int, clip: float = 0.2) -> None:
    """Five ratios, with a positive and a negative advantage each, and a token of padding."""
    ratios = torch.tensor([[*RATIOS, 7.0], [*RATIOS, 7.0]], dtype=torch.float64)
    advantages = torch.tensor([[2.0] * 6, [-1.0] * 6], dtype=torch.float64)
    mask = torch.tensor([[True] * 5 + [False]] * 2)
    old = torch.full_like(ratios, -1.0)
    now = (old + ratios.log()).requires_grad_()
    found = lab.clipped_loss(now, old, advantages, mask, clip)
    plain = ratios * advantages
    bounded = ratios.clamp(1 - clip, 1 + clip) * advantages
    inverse = advantages / ratios
    inverse_bounded = (1 / ratios).clamp(1 - clip, 1 + clip) * advantages

    def mean(x: Tensor) -> Tensor:
        return -x[mask].mean()

    surrogate = torch.minimum(plain, bounded)
    close(
        found,
        mean(surrogate),
        "your clipped loss",
        mistakes={
            "it has the wrong sign: optimizers go downhill": -mean(surrogate),
            "you take the maximum; the minimum is the pessimistic one": mean(torch.maximum(plain, bounded)),
            "you do not clip": mean(plain),
            "you clip always: without the minimum, what went wrong is not called back": mean(bounded),
            "the ratio is upside down: it is π/π_old": mean(torch.minimum(inverse, inverse_bounded)),
            "you read padding": -surrogate.mean(),
            "you divide by the padded size; divide by the number of tokens":
                -(surrogate * mask).mean(),
            "it is the mean over texts; here it is the mean over tokens": -(surrogate * mask).sum() / 2,
            "it is the sum; take the mean over tokens": -(surrogate * mask).sum(),
            "the ratio lacks its exponential: it is exp(log π − log π_old)": mean(
                torch.minimum(ratios.log() * advantages, ratios.log().clamp(1 - clip, 1 + clip) * advantages)
            ),
        },
    )  # fmt: skip
    pushes = torch.where(advantages > 0, ratios <= 1 + clip, ratios >= 1 - clip) & mask
    close(
        gradient(found, now, "your clipped loss"),
        torch.where(pushes, -plain, 0.0) / mask.sum(),
        "the gradient of your clipped loss",
        hint="where the ratio is beyond the clip on the side to which the advantage pushes, it is 0",
    )


def test_reward_gae_and_loss_together_are_the_exact_gradient(
    lab: Any, seed: int, beta: float = 0.4, symbols: str = "abc", max_tokens: int = 3
) -> None:
    """At the policy that played, over all texts: ∇ (E R − β KL), by kl_rewards, gae and clipped_loss."""
    w, reference = world(seed, symbols, max_tokens), world(seed + 1, symbols, max_tokens).log_probs.detach()
    text_reference = reference.sum(1)
    log_probs = w.text_log_probs
    right = w.slope_of((log_probs.exp() * (w.returns - beta * (log_probs - text_reference))).sum())
    now = w.log_probs.detach()
    rewards = torch.zeros_like(now)
    rewards[torch.arange(len(now)), w.mask.sum(1) - 1] = w.returns
    shaped = torch.as_tensor(lab.kl_rewards(rewards, now, reference, w.mask, beta))
    advantages = torch.as_tensor(lab.gae(shaped, torch.zeros_like(now), w.mask, 1.0, 1.0))
    weighted = advantages * w.probabilities[:, None] * w.mask.sum()  # the loss is a mean per token
    inputs = now.clone().requires_grad_()
    by_tokens = gradient(lab.clipped_loss(inputs, now, weighted, w.mask, 0.2), inputs, "your clipped loss")
    (found,) = torch.autograd.grad(w.log_probs, w.logits, by_tokens)
    close(
        found.flatten(),
        -right,
        "the expected gradient of your rewards, advantages and loss together",
        mistakes={"it has the wrong sign: optimizers go downhill": right},
        hint="it must be minus the gradient of the expected return less β times the KL",
    )


# optimal_policy, kl_objective


def numbers(seed: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw logits, a reference policy and returns of `count` texts."""
    generator = torch.Generator().manual_seed(seed)
    logits, other = torch.randn(2, count, generator=generator, dtype=torch.float64)
    return logits, torch.softmax(other, 0), torch.rand(count, generator=generator, dtype=torch.float64)


def test_the_optimal_policy_is_the_reference_tilted(lab: Any, seed: int, count: int = 40) -> None:
    _, reference, returns = numbers(seed, count)
    for beta in (0.2, 1.0, 0.001):
        right = closed_form(reference.numpy(), returns.numpy(), beta)
        tilted = reference * (returns / beta).exp()
        close(
            lab.optimal_policy(reference, returns, beta),
            right,
            f"your optimal policy with β = {beta}",
            mistakes={
                "it is not normalised: probabilities add up to 1": tilted,
                "you multiply by β; a nat that costs more must keep the policy nearer": torch.softmax(
                    reference.log() + returns * beta, 0
                ),
                "it forgets the reference: π* ∝ π_ref exp(R/β)": torch.softmax(returns / beta, 0),
            },
            hint="with a small β exp(R/β) overflows: work with logarithms, or take the largest off first",
        )


def test_the_objective_is_return_less_kl(lab: Any, seed: int, count: int = 40) -> None:
    logits, reference, returns = numbers(seed, count)
    policy = torch.softmax(logits, 0)
    earned = float(policy @ returns)
    kl = kl_divergence(policy.numpy(), reference.numpy())
    backwards = kl_divergence(reference.numpy(), policy.numpy())
    close(
        lab.kl_objective(logits, reference, returns, 0.3),
        earned - 0.3 * kl,
        "your objective with β = 0.3",
        mistakes={
            "the KL is the wrong way round: it is KL(π ‖ π_ref), over texts that π writes": earned
            - 0.3 * backwards,
            "you pay for the KL; its price is taken off": earned + 0.3 * kl,
            "you ignore β": earned - kl,
            "you forget the KL": earned,
        },
    )


def climbed(lab: Any, reference: Tensor, returns: Tensor, beta: float) -> Tensor:
    """Maximise the student's objective from the reference policy on: the policy at which that ends."""
    logits = reference.log().clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=150, line_search_fn="strong_wolfe", tolerance_change=1e-13
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        objective = lab.kl_objective(logits, reference, returns, beta)
        logits.grad = -gradient(objective, logits, "your objective")
        loss: Tensor = -objective.detach()
        return loss

    optimizer.step(closure)
    return torch.softmax(logits.detach(), 0)


def test_climbing_ends_on_the_closed_form_frontier(lab: Any, seed: int, count: int = 40) -> None:
    """For every β: within a total variation of 0.01 of π_ref exp(R/β)."""
    _, reference, returns = numbers(seed, count)
    for beta in (1.0, 0.3, 0.1, 0.03):
        right = closed_form(reference.numpy(), returns.numpy(), beta)
        found = climbed(lab, reference, returns, beta).numpy()
        close(
            total_variation(found, right),
            0.0,
            f"the total variation between where your objective leads with β = {beta} and π_ref exp(R/β)",
            atol=0.01,
            hint="is the KL the right way round, and is its gradient whole?",
        )
