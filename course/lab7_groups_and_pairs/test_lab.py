"""Public tests of lab 7: groups and pairs against sums over everything that can be written."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.optimize import root
from torch import Tensor

from course.checks import close, gradient
from course.worlds import World, world
from text_gym.tasks.enumerable import kl_divergence, optimal_policy

RUBBISH = 50.0


def tied(seed: int, symbols: str = "abc", max_tokens: int = 3) -> World:
    """A world in which many texts have the same return."""
    w = world(seed, symbols, max_tokens)
    return w._replace(returns=(4 * w.returns).round() / 4)


# group_advantages, leave_one_out_advantages

EQUAL = "a group of equal returns says nothing: its advantages are 0, not 0/0 or rounding errors blown up"


def test_texts_are_compared_with_their_own_group(lab: Any, seed: int, groups: int = 3, size: int = 4) -> None:
    generator = torch.Generator().manual_seed(seed)
    returns = torch.randn(groups, size, generator=generator, dtype=torch.float64)
    returns += 3 * torch.arange(groups)[:, None]  # prompts are not equally hard
    rows = returns.numpy()
    mean = rows.mean(1, keepdims=True)
    spread = rows.std(1, keepdims=True)
    others = (rows.sum(1, keepdims=True) - rows) / (size - 1)
    batch = rows - rows.mean()
    for std in (True, False):
        scale = spread if std else 1.0
        close(
            lab.group_advantages(returns, std),
            (rows - mean) / scale,
            f"your group advantages with std={std}",
            mistakes={
                "the standard deviation is over the batch; it is over each group": (rows - mean) / rows.std(),
                "mean and standard deviation are over the batch; compare a text with its own prompt's": (
                    batch / rows.std()
                ),
                "mean of the batch, spread of the group; compare a text with its own prompt's mean": batch
                / (np.sqrt((batch**2).mean(1, keepdims=True)) if std else 1.0),
                "the mean is over the batch; compare a text with its own prompt's": batch / scale,
                "the standard deviation has the divisor n − 1; here it is the root of the mean square": (
                    rows - mean
                )
                / rows.std(1, ddof=1, keepdims=True),
                "you divide by the variance; divide by the standard deviation": (rows - mean) / spread**2,
                "you add ε to the standard deviation and change every advantage; treat equal groups apart": (
                    rows - mean
                )
                / (spread + 1e-4),
                "you do not take the mean of the group off": rows / scale,
                "you take off the mean of the others; that is RLOO": (rows - others) / scale,
                "your std does the opposite of what it says": (rows - mean) / (1.0 if std else spread),
            },
            hint="(R_i − mean of the group) / standard deviation of the group",
        )


def test_a_group_of_equal_returns_says_nothing(lab: Any, seed: int) -> None:
    returns = torch.tensor([[0.7, 0.7, 0.7], [0.0, 0.0, 0.0], [0.0, 3.0, 0.0]], dtype=torch.float64)
    one = math.sqrt(0.5)
    close(
        lab.group_advantages(returns, True),
        [[0.0] * 3, [0.0] * 3, [-one, 2 * one, -one]],
        "your advantages of two groups of equal returns, and of one that is not",
        mistakes={
            "the standard deviation has the divisor n − 1": [
                [0.0] * 3,
                [0.0] * 3,
                [-math.sqrt(1 / 3), 2 * math.sqrt(1 / 3), -math.sqrt(1 / 3)],
            ]
        },
        hint=EQUAL,
    )


def all_groups(w: World, size: int) -> tuple[Tensor, Tensor]:
    """Every group of `size` independent texts, `(groups, size)`, and its probability."""
    groups = torch.cartesian_prod(*[torch.arange(len(w.returns))] * size).reshape(-1, size)
    return groups, w.probabilities[groups].prod(1)


def expected_step(w: World, size: int, advantages: Any) -> Tensor:
    """The expectation of Σ_i A_i ∇log π(y_i) / k over all groups of `k` texts."""
    groups, chance = all_groups(w, size)
    weights = torch.zeros_like(w.returns)
    found = torch.as_tensor(advantages(w.returns[groups])) * chance[:, None] / size
    weights.index_add_(0, groups.flatten(), found.flatten())
    return weights @ w.scores


def test_with_two_texts_grpo_climbs_the_win_rate(
    lab: Any, seed: int, symbols: str = "abc", max_tokens: int = 2
) -> None:
    """Divided by the standard deviation, a pair is a duel: the gradient is that of the win rate, twice."""
    w = tied(seed, symbols, max_tokens)
    wins = (torch.sign(w.returns[:, None] - w.returns) + 1) / 2  # ties count one half
    right = 2 * w.slope_of(w.text_log_probs.exp() @ wins @ w.probabilities)  # the rival stands still
    plain = w.slope_of((w.text_log_probs.exp() * w.returns).sum())
    close(
        expected_step(w, 2, lambda returns: lab.group_advantages(returns, True)),
        right,
        "the expected gradient of GRPO with groups of two",
        mistakes={
            "the standard deviation has the divisor n − 1, which makes it 1/√2 of the right one": right
            / math.sqrt(2),
            "it is that of the return; divided by the standard deviation it is that of the win rate": plain,
            "it is half that of the return: you do not divide by the standard deviation": plain / 2,
        },
        hint="it must be twice the gradient of the win rate against the policy as it was; " + EQUAL,
    )


def test_rloo_has_the_gradient_of_the_return(lab: Any, seed: int, size: int = 2) -> None:
    w = world(seed, "ab", 2) if size < 3 else world(seed, "a", 2)
    right = w.policy_gradient
    close(
        expected_step(w, size, lab.leave_one_out_advantages),
        right,
        f"the expected gradient of RLOO with groups of {size}",
        mistakes={
            "it is (k − 1)/k of the right one: your baseline includes the text itself": right
            * (size - 1)
            / size,
            "it points downhill: an advantage is the return less the baseline": -right,
        },
        hint="leave the text itself out of its baseline, and the expectation is that of the return, exactly",
    )


def test_rloo_leaves_a_text_out_of_its_own_baseline(
    lab: Any, seed: int, groups: int = 3, size: int = 4
) -> None:
    generator = torch.Generator().manual_seed(seed)
    returns = torch.randn(groups, size, generator=generator, dtype=torch.float64)
    rows = returns.numpy()
    others = np.stack([np.delete(rows, i, axis=1).mean(1) for i in range(size)], axis=1)
    batch = (rows.sum() - rows) / (rows.size - 1)
    close(
        lab.leave_one_out_advantages(returns),
        rows - others,
        "your leave-one-out advantages",
        mistakes={
            "the baseline includes the text itself": rows - rows.mean(1, keepdims=True),
            "the baseline is the mean of all others of the batch; it is that of the others of the group": rows
            - batch,
            "you return the baseline; the advantage is the return less it": others,
            "it has the wrong sign: the advantage is the return less the baseline": others - rows,
            "you divide by k; there are k − 1 others": rows - others * (size - 1) / size,
        },
    )


# grpo_loss


def tables(seed: int, texts: int, width: int) -> tuple[Tensor, ...]:
    """Log-probabilities now, then and under the reference, advantages and a mask; rubbish on the padding."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, width, (texts,), generator=generator)
    lengths[0], lengths[-1] = width, 1
    mask = torch.arange(width) < lengths[:, None]
    now, then, reference = -2 * torch.rand(3, texts, width, generator=generator, dtype=torch.float64)
    then = now + 0.6 * (torch.rand(texts, width, generator=generator, dtype=torch.float64) - 0.5)
    advantages = torch.randn(texts, generator=generator, dtype=torch.float64)
    now, then = torch.where(mask, now, -RUBBISH), torch.where(mask, then, -2 * RUBBISH)
    return now, then, torch.where(mask, reference, -RUBBISH / 2), advantages, mask


def published(
    now: Tensor, then: Tensor, reference: Tensor, advantages: Tensor, lengths: Any, clip: float, beta: float,
    *, by: str = "text", worst: Any = torch.minimum, k3: str = "right",
) -> Tensor:  # fmt: skip
    """Equation 3 of the DeepSeekMath paper, text by text and token by token; or a mistake in it."""
    total, tokens = torch.zeros((), dtype=torch.float64), sum(lengths)
    for i, length in enumerate(lengths):
        own = torch.zeros((), dtype=torch.float64)
        for t in range(length):
            ratio = torch.exp(now[i, t] - then[i, t])
            bounded = torch.clamp(ratio, 1 - clip, 1 + clip)
            r = torch.exp(reference[i, t] - now[i, t])
            if k3 == "upside down":
                r = 1 / r
            price = -torch.log(r) if k3 == "k1" else r - 1 - torch.log(r)
            own = own + worst(ratio * advantages[i], bounded * advantages[i]) - beta * price
        total = total + own / {"text": length * len(now), "token": tokens, "sum": len(now)}[by]
    return -total


def test_the_loss_is_that_of_the_paper(lab: Any, seed: int, texts: int = 4, width: int = 5) -> None:
    now, then, reference, advantages, mask = tables(seed, texts, width)
    lengths = mask.sum(1).tolist()
    clip, beta = 0.1, 0.3
    now.requires_grad_()

    def answer(**other: Any) -> Tensor:
        own: dict[str, Any] = {
            "now": now,
            "then": then,
            "reference": reference,
            "advantages": advantages,
        } | other
        return published(**({"lengths": lengths, "clip": clip, "beta": beta} | own))

    found = lab.grpo_loss(now, then, reference, advantages, mask, clip, beta)
    padded = answer(lengths=[width] * texts)
    close(
        found,
        answer(),
        "your loss",
        mistakes={
            "it has the wrong sign: optimizers go downhill": -answer(),
            "it is the mean per token of the batch; GRPO takes that of each text, then over texts": answer(
                by="token"
            ),
            "it is the sum over the tokens of each text; GRPO as published divides by its length": answer(
                by="sum"
            ),
            "it reads padding; use the mask": padded,
            "you take the maximum; the minimum is the pessimistic one": answer(worst=torch.maximum),
            "you do not clip the ratio": answer(clip=1e9),
            "you clip always: without the minimum, what went wrong is not called back": answer(
                worst=lambda plain, bounded: bounded
            ),
            "you pay for the KL: its price is taken off what is gained": answer(beta=-beta),
            "you leave the KL out": answer(beta=0.0),
            "you forget β": answer(beta=1.0),
            "k3 has its ratio upside down: in r − 1 − log r it is r = π_ref/π": answer(k3="upside down"),
            "you take k1 for k3": answer(k3="k1"),
            "your KL is to the policy that played; it is to the reference": answer(reference=then),
            "the ratio is upside down: it is π/π_old": answer(
                now=now, then=2 * now - then, reference=reference
            ),
        },
        hint="−(1/B) Σ_i 1/T_i Σ_t [min(ρ A, clip(ρ) A) − β k3]",
    )
    close(
        gradient(found, now, "your loss"),
        gradient(answer(), now, "the right loss"),
        "the gradient of your loss by the log-probabilities",
        mistakes={
            "the KL has no gradient: differentiate k3, too": gradient(answer(beta=0.0), now, "without a KL")
        },
        hint="the ratio and k3 are differentiated, advantages, old and reference policy are not",
    )


def test_the_loss_as_published_climbs_the_return_per_token(
    lab: Any, seed: int, symbols: str = "abc", max_tokens: int = 3
) -> None:
    """Each text by its own length: the expected gradient is not that of the return."""
    w = world(seed, symbols, max_tokens)
    count, lengths = len(w.returns), w.mask.sum(1)
    now = torch.where(w.mask, w.log_probs, -9.0).detach().requires_grad_()
    weights = count * w.probabilities * w.returns
    loss = lab.grpo_loss(now, now.detach(), now.detach(), weights, w.mask, 0.2, 0.1)
    by_tokens = gradient(loss, now, "your loss")
    (found,) = torch.autograd.grad(w.log_probs, w.logits, by_tokens, retain_graph=True)
    right = -w.slope_of((w.text_log_probs.exp() * w.returns / lengths).sum())
    close(
        found.flatten(),
        right,
        "the expected gradient of your loss",
        mistakes={
            "it is that of the return: you sum over tokens; GRPO as published divides by their number": (
                -w.policy_gradient
            ),
            "it has the wrong sign: optimizers go downhill": -right,
            "it is the mean per token of the batch; GRPO takes the mean of each text, then over texts": (
                -w.policy_gradient * count / lengths.sum()
            ),
        },
        hint="it must be minus the gradient of the expected return per token of a text",
    )


# win_rates, best_of_n, best_of_n_kl


def test_win_rates_by_every_duel(lab: Any, seed: int, symbols: str = "abc", max_tokens: int = 3) -> None:
    w = tied(seed, symbols, max_tokens)
    p, r = w.probabilities, w.returns
    sign = torch.sign(r[:, None] - r)
    close(
        lab.win_rates(p, r),
        (1 + sign @ p) / 2,
        "your win rates",
        mistakes={
            "a tie counts one half, not nothing": (sign > 0).double() @ p,
            "a tie counts one half, not as a win": (sign >= 0).double() @ p,
            "it is how often the text loses": (1 - sign @ p) / 2,
            "you forgot the probabilities: all rivals count alike": ((1 + sign) / 2).mean(1),
        },
    )


def test_best_of_n_by_every_draw(
    lab: Any, seed: int, n: int = 2, symbols: str = "abc", max_tokens: int = 3
) -> None:
    """All n texts, listed; the first of the best is kept."""
    w = tied(seed, symbols, max_tokens)
    p, r = w.probabilities, w.returns
    draws, chance = all_groups(w, n)
    kept = draws[torch.arange(len(draws)), r[draws].argmax(1)]
    right = torch.bincount(kept, chance, len(p))
    worst = torch.bincount(draws[torch.arange(len(draws)), r[draws].argmin(1)], chance, len(p))
    up_to, below = (r <= r[:, None]).double() @ p, (r < r[:, None]).double() @ p
    level = up_to**n - below**n
    share = (r == r[:, None]).double().sum(1)
    close(
        lab.best_of_n(p, r, n),
        right,
        f"your law of the best of {n}",
        mistakes={
            "it is the worst of n": worst,
            "it is the chance that all n are at most as good; take off that all are worse": up_to**n,
            "F(r)^n alone is the chance that none is better; take off F(r−)^n, that all are worse": up_to**n
            * p
            / (up_to - below),
            "n p F^(n−1) is for returns without ties and texts without mass: take differences of F^n": n
            * p
            * up_to ** (n - 1),
            "texts of equal return each get the probability of all of them; it is shared": level,
            "texts of equal return share it in proportion to their probabilities, not evenly": level / share,
            "it is for one more text than n": p * (up_to ** (n + 1) - below ** (n + 1)) / (up_to - below),
            "you ignore the probabilities: texts are drawn from the policy, not evenly": _even(r, n),
        },
        hint="P(best has return ≤ r) = F(r)^n",
    )


def _even(r: Tensor, n: int) -> Tensor:
    up_to, below = (r <= r[:, None]).double().mean(1), (r < r[:, None]).double().mean(1)
    return (up_to**n - below**n) / (r == r[:, None]).double().sum(1)


def test_the_kl_of_best_of_n(lab: Any, seed: int, counts: tuple[int, ...] = (1, 2, 4)) -> None:
    """∫ f log f over u in [0, 1] with f = n u^(n−1), by the midpoints of a million strips."""
    u = (np.arange(1_000_000) + 0.5) / 1_000_000
    for n in counts:
        log_density = math.log(n) + (n - 1) * np.log(u)
        close(
            lab.best_of_n_kl(n),
            float(np.mean(np.exp(log_density) * log_density)),
            f"your KL of the best of {n}",
            mistakes={
                "log n is too much: (n − 1)/n is taken off": math.log(n),
                "(n − 1)/n is taken off, not n − 1": math.log(n) - (n - 1),
                "it is in nats: the natural logarithm": math.log2(n) - (n - 1) / n,
                "a KL is not below 0: it is log n − (n − 1)/n": (n - 1) / n - math.log(n),
                "1/n is not what is taken off: it is (n − 1)/n": math.log(n) - 1 / n,
            },
            hint="the quantile of the best of n has density n u^(n−1) on [0, 1]; integrate f log f",
            rtol=1e-5,
            atol=1e-6,
        )


def test_the_formula_is_an_upper_bound(
    lab: Any, seed: int, symbols: str = "abc", max_tokens: int = 3
) -> None:
    """With many texts of small probability it is reached; with few texts or ties, the KL is less."""
    many = torch.full((1000,), 1e-3, dtype=torch.float64)
    law = np.asarray(lab.best_of_n(many, torch.arange(1000.0).double(), 4))
    close(
        kl_divergence(law, many.numpy()),
        float(lab.best_of_n_kl(4)),
        "the KL of your law of the best of 4, of a thousand texts",
        hint="it must be close to log n − (n − 1)/n",
        atol=5e-3,
    )
    w = tied(seed, symbols, max_tokens)
    base = w.probabilities.numpy()
    for n in (2, 8, 64):
        law = np.asarray(lab.best_of_n(w.probabilities, w.returns, n))
        beyond = max(0.0, kl_divergence(law, base) - float(lab.best_of_n_kl(n)))
        close(
            beyond, 0.0, f"nats by which the best of {n} is beyond your formula", hint="it is an upper bound"
        )


# implicit_rewards, dpo_loss


def texts(seed: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of `count` texts under two policies, and their rewards."""
    generator = torch.Generator().manual_seed(seed)
    one, other, rewards = torch.randn(3, count, generator=generator, dtype=torch.float64)
    return torch.log_softmax(one, 0), torch.log_softmax(other, 0), rewards


def test_a_policy_is_the_optimum_of_its_implicit_reward(lab: Any, seed: int, count: int = 12) -> None:
    """The closed form is made of rewards, and the rewards are found again in it, up to a constant."""
    _, reference, rewards = texts(seed, count)
    for beta in (0.3, 2.0):
        best = torch.from_numpy(optimal_policy(reference.exp().numpy(), rewards.numpy(), beta)).log()

        def off(x: Any) -> Tensor:
            numbers = torch.as_tensor(x)
            return numbers - numbers[0]

        close(
            off(lab.implicit_rewards(best, reference, beta)),
            off(rewards),
            f"your implicit rewards with β = {beta}, less that of the first text",
            mistakes={
                "the reference is missing: β log π/π_ref": off(beta * best),
                "β is on the wrong side: a difference of log-probabilities times β is a reward": off(
                    (best - reference) / beta
                ),
                "β is missing": off(best - reference),
                "the ratio is upside down: it is π/π_ref": off(-rewards),
                "it is the ratio; take its logarithm": off(beta * (best - reference).exp()),
            },
        )


def test_the_dpo_loss_of_a_batch(lab: Any, seed: int, pairs: int = 5, beta: float = 0.4) -> None:
    generator = torch.Generator().manual_seed(seed)
    both = -10 * torch.rand(2, pairs, generator=generator, dtype=torch.float64)
    ref_chosen, ref_rejected = -10 * torch.rand(2, pairs, generator=generator, dtype=torch.float64)
    chosen, rejected = both.requires_grad_()
    found = lab.dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta)
    margins = ((chosen - ref_chosen) - (rejected - ref_rejected)).detach().numpy()

    def mean(x: Any) -> float:
        return float(np.mean(np.log1p(np.exp(-x))))

    plain = (chosen - rejected).detach().numpy()
    close(
        found,
        mean(beta * margins),
        "your DPO loss",
        mistakes={
            "the order of the pair is wrong: it rewards the rejected text": mean(-beta * margins),
            "the reference is missing": mean(beta * plain),
            "the reference of the chosen texts is missing": mean(beta * (margins + ref_chosen.numpy())),
            "the reference of the rejected texts is missing": mean(beta * (margins - ref_rejected.numpy())),
            "the reference is added; it is taken off": mean(beta * (2 * plain - margins)),
            "β is on the wrong side: the margin is multiplied by it": mean(margins / beta),
            "β is missing": mean(margins),
            "it is the logarithm of the mean of the probabilities; take the mean of the logarithms": float(
                -np.log(np.mean(1 / (1 + np.exp(-beta * margins))))
            ),
            "it lacks the logarithm: it is −log σ(margin)": float(
                -np.mean(1 / (1 + np.exp(-beta * margins)))
            ),
            "it has the wrong sign: optimizers go downhill": -mean(beta * margins),
            "it is the sum; take the mean over pairs": pairs * mean(beta * margins),
        },
        hint="−mean log σ(β [log π/π_ref of the chosen − log π/π_ref of the rejected])",
    )
    slope = -beta / (1 + np.exp(beta * margins)) / pairs
    still = np.zeros(pairs)
    close(
        gradient(found, both, "your DPO loss"),
        [slope, -slope],
        "the gradient of your DPO loss by the log-probabilities of chosen (row 0) and rejected texts (row 1)",
        mistakes={
            "both texts of a pair are differentiated; the rejected one stands still": [slope, still],
            "both texts of a pair are differentiated; the chosen one stands still": [still, -slope],
        },
        hint="−β σ(−margin)/B for the chosen, the opposite for the rejected; the reference stands still",
    )


def test_the_dpo_loss_of_a_hopeless_pair_is_finite(lab: Any, seed: int) -> None:
    """Long texts differ by thousands of nats."""
    numbers = [torch.tensor([x], dtype=torch.float64) for x in (-5000.0, -1000.0, -1000.0, -1000.0)]
    close(
        lab.dpo_loss(*numbers, 0.5),
        2000.0,
        "your DPO loss of a pair whose margin is −2000",
        mistakes={"it overflows: use logsigmoid, not the logarithm of a sigmoid": math.inf},
        hint="−log σ(x) is −x for very negative x; use logsigmoid",
    )


def test_dpo_ends_at_the_optimum_of_rlhf(lab: Any, seed: int, count: int = 6, beta: float = 0.7) -> None:
    """Of all pairs, by a rater of Bradley and Terry; the gradient is your loss's, and its root is sought."""
    _, reference, rewards = texts(seed, count)
    i, j = (~torch.eye(count, dtype=torch.bool)).nonzero().T
    weights = (reference[i] + reference[j]).exp() * torch.sigmoid(rewards[i] - rewards[j]) * len(i)

    def slope(logits: Any) -> Any:
        logits = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
        log_probs = torch.log_softmax(logits, 0)
        both = torch.stack([log_probs[i], log_probs[j]])
        pairs = both.detach().requires_grad_()
        loss = lab.dpo_loss(pairs[0], pairs[1], reference[i], reference[j], beta)
        total = (both * weights * gradient(loss, pairs, "your DPO loss")).sum()
        return gradient(total, logits, "the expected loss").numpy() + logits.detach().numpy().mean()

    found = torch.softmax(torch.from_numpy(root(slope, reference.numpy(), tol=1e-10).x), 0)

    def tilted(log_base: Tensor, by: float) -> Tensor:
        return torch.softmax(log_base + rewards * by, 0)

    close(
        found,
        tilted(reference, 1 / beta),
        "the policy at which the expected gradient of your DPO loss is 0",
        mistakes={
            "the order of the pair is wrong: it is π_ref exp(−r/β)": tilted(reference, -1 / beta),
            "the reference is missing: it is exp(r/β) alone": tilted(torch.zeros(count), 1 / beta),
            "β is on the wrong side: it is π_ref exp(r β)": tilted(reference, beta),
            "β is missing: it is π_ref exp(r)": tilted(reference, 1.0),
        },
        hint="it must be π_ref exp(r/β), normalised",
        rtol=1e-5,
    )
