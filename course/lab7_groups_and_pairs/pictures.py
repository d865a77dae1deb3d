# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Lab 7 in pictures
#
# Your functions at work. Write `lab.py` first; then run this from top to bottom, in the lab's folder.

# %%
from math import comb

import numpy as np
import torch
from torch import Tensor

from course.figures import show
from course.lab7_groups_and_pairs.lab import (
    best_of_n,
    best_of_n_kl,
    dpo_loss,
    group_advantages,
    grpo_loss,
    leave_one_out_advantages,
)
from text_gym import plot
from text_gym.tasks.enumerable import enumerable, kl_divergence, optimal_policy, trajectories

# %% [markdown]
# ## Which prompts count?
#
# A prompt that is solved with probability p pays 1 or 0. The gradient of its group is ∇p times a weight,
# E[A | solved] − E[A | not solved]. For RLOO it is 1, and for GRPO in groups of two it is, too: of two
# results, 1 or 0, the win rate is the return. The standard deviation of larger groups makes hard and easy
# prompts count more, at last by 1/√(p(1 − p)).

# %%
chances = np.linspace(0.01, 0.99, 99)


def weight(size: int, p: float) -> float:
    """E[A | solved] − E[A | not solved], by the number of the others in the group that are solved."""
    table = torch.zeros(2, size, size, dtype=torch.float64)  # own result, how many others, the group
    for others in range(size):
        table[:, others, 1 : 1 + others] = 1.0
    table[1, :, 0] = 1.0
    own = group_advantages(table.reshape(-1, size), True)[:, 0].reshape(2, size)
    odds = np.array([comb(size - 1, m) * p**m * (1 - p) ** (size - 1 - m) for m in range(size)])
    return float((own[1] - own[0]).numpy() @ odds)


limit = 1 / np.sqrt(chances * (1 - chances))
lines = [
    plot.Line(chances, [weight(size, p) for p in chances], name, style="-", marks=False)
    for size, name in ((2, "GRPO, groups of 2; RLOO"), (8, "GRPO, groups of 8"), (32, "GRPO, groups of 32"))
]
lines += [
    plot.Line(chances, limit, "1/√(p(1 − p))", style=":", marks=False, colour="ink"),
]
ax = plot.curves(
    lines,
    x_label="probability p of solving the prompt",
    y_label="weight of ∇p",
    title="What the standard deviation does",
    reach=(0.0,),
)
ax.set_ylim(0, 8)
show(ax, "weights")

# %% [markdown]
# ## The KL of best-of-n
#
# On the 40 texts of `enumerable`, drawn by a policy with random logits. log n − (n − 1)/n is for texts
# without number; a policy that can write 40 runs out of better ones, and the law ends at the best text.

# %%
task = enumerable()
texts = trajectories(task)
ids = [tuple(text.completion_ids.tolist()) for text in texts]
states = {state: i for i, state in enumerate(sorted({y[:t] for y in ids for t in range(len(y))}))}
mask = torch.tensor([[t < len(y) for t in range(3)] for y in ids])
rows = torch.tensor([[states[y[:t]] if t < len(y) else 0 for t in range(3)] for y in ids])
tokens = torch.tensor([[y[t] if t < len(y) else 0 for t in range(3)] for y in ids])
gold = 4 * torch.from_numpy(task.reward(texts).values)  # log-odds with which a rater prefers texts
start = 0.7 * torch.randn(len(states), 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def log_probs_at(logits: Tensor) -> Tensor:
    """Log-probabilities of all tokens of all texts, `(40, 3)`, 0 on padding."""
    return torch.where(mask, torch.log_softmax(logits, 1)[rows, tokens], 0.0)


reference = log_probs_at(start)
base = reference.sum(1).exp()
counts = [1, 2, 4, 8, 16, 32, 64, 128, 256]
places = np.log2(counts)
ax = plot.curves(
    [
        plot.Line(places, [best_of_n_kl(n) for n in counts], "log n − (n − 1)/n", style="--", marks=False),
        plot.Line(
            places,
            [kl_divergence(best_of_n(base, gold, n).numpy(), base.numpy()) for n in counts],
            "exact, 40 texts",
            style="-",
        ),
        plot.Line(
            places,
            [kl_divergence(best_of_n(base, gold.round(), n).numpy(), base.numpy()) for n in counts],
            "exact, returns rounded to 0 … 4",
            style="-",
        ),
    ],
    x_label="n",
    y_label="KL, nats per text",
    title="An upper bound",
    reach=(0.0,),
)
ax.set_xticks(places, [str(n) for n in counts])
show(ax, "best_of_n")

# %% [markdown]
# ## Gold against KL
#
# A rater of Bradley and Terry compares 600 pairs of the reference's texts, by gold. RLOO, GRPO and best-of-n
# optimise a reward model, a table fitted to these pairs; DPO has the pairs themselves. None of them sees
# gold. All of it three times, with other pairs and other texts. Dashed: the best that can be had *with*
# gold; dotted: the same closed form of the reward models, measured by gold.

# %%
PAIRS, STEPS, GROUPS, SIZE, SEEDS = 600, 200, 64, 4, range(3)


def pairs_of(seed: int) -> tuple[Tensor, Tensor]:
    """Chosen and rejected texts of pairs that the reference wrote."""
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.multinomial(base, 2 * PAIRS, replacement=True, generator=generator).reshape(2, PAIRS)
    first = torch.rand(PAIRS, generator=generator, dtype=torch.float64) < torch.sigmoid(
        gold[pairs[0]] - gold[pairs[1]]
    )
    return torch.where(first, pairs[0], pairs[1]), torch.where(first, pairs[1], pairs[0])


def minimised(loss_of, inputs: Tensor, steps: int, rate: float = 0.05) -> Tensor:  # type: ignore[no-untyped-def]
    """Descend with Adam, the learning rate falling to 0."""
    inputs = inputs.clone().requires_grad_()
    optimizer = torch.optim.Adam([inputs], lr=rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        optimizer.zero_grad()
        loss_of(inputs, step).backward()
        optimizer.step()
    return inputs.detach()


def reward_model(seed: int) -> Tensor:
    """A number for each text, by maximum likelihood with a little ridge."""
    chosen, rejected = pairs_of(seed)

    def loss(table: Tensor, _: int) -> Tensor:
        fit = -torch.nn.functional.logsigmoid(table[chosen] - table[rejected]).mean()
        return fit + 1e-3 * (table**2).mean()

    return minimised(loss, torch.zeros_like(gold), 300, 0.1)


def in_groups(logits: Tensor, seed: int, step: int) -> Tensor:
    """The texts of a step, those of a group beside each other."""
    generator = torch.Generator().manual_seed(1000 * seed + step)
    p = log_probs_at(logits.detach()).sum(1).exp()
    return torch.multinomial(p, GROUPS * SIZE, replacement=True, generator=generator)


def rloo(reward: Tensor, beta: float, seed: int) -> Tensor:
    """The KL is in the reward, a text is a single action."""

    def loss(logits: Tensor, step: int) -> Tensor:
        drawn = in_groups(logits, seed, step)
        said = log_probs_at(logits)[drawn].sum(1)
        paid = reward[drawn] - beta * (said.detach() - reference[drawn].sum(1))
        return -(leave_one_out_advantages(paid.reshape(GROUPS, SIZE)).flatten() * said).mean()

    return log_probs_at(minimised(loss, start, STEPS, 0.1)).sum(1).exp()


def grpo(reward: Tensor, beta: float, seed: int) -> Tensor:
    """As published: divided by the standard deviation, each text by its length, k3 in the loss."""

    def loss(logits: Tensor, step: int) -> Tensor:
        drawn = in_groups(logits, seed, step)
        said = log_probs_at(logits)[drawn]
        advantages = group_advantages(reward[drawn].reshape(GROUPS, SIZE), True).flatten()
        return grpo_loss(said, said.detach(), reference[drawn], advantages, mask[drawn], 0.2, beta)

    return log_probs_at(minimised(loss, start, STEPS, 0.1)).sum(1).exp()


def dpo(_: Tensor, beta: float, seed: int) -> Tensor:
    """All pairs in every step."""
    chosen, rejected = pairs_of(seed)
    whole = reference.sum(1)

    def loss(logits: Tensor, _: int) -> Tensor:
        said = log_probs_at(logits).sum(1)
        return dpo_loss(said[chosen], said[rejected], whole[chosen], whole[rejected], beta)

    return log_probs_at(minimised(loss, start, 600, 0.2)).sum(1).exp()


def best(reward: Tensor, n: float, _: int) -> Tensor:
    """Nothing is trained."""
    return best_of_n(base, reward, int(n))


# %%
METHODS = {
    "best-of-n, n = 2 … 256": (best, (2, 4, 8, 16, 64, 256)),
    "RLOO, β = 4 … 0.25": (rloo, (4.0, 2.0, 1.0, 0.5, 0.25)),
    "GRPO, β = 4 … 0.03": (grpo, (4.0, 2.0, 1.0, 0.5, 0.2, 0.03)),
    "DPO, β = 4 … 0.1": (dpo, (4.0, 2.0, 1.0, 0.5, 0.25, 0.1)),
}
models = [reward_model(seed) for seed in SEEDS]


def closed_form(rewards: list[Tensor], name: str, style: str) -> plot.Line:
    """The optimum for each of the rewards over all β, measured by gold; the mean over rewards."""
    points = []
    for beta in np.geomspace(0.1, 20, 60):
        laws = [optimal_policy(base.numpy(), reward.numpy(), float(beta)) for reward in rewards]
        points.append([(kl_divergence(p, base.numpy()), float(p @ gold.numpy())) for p in laws])
    kl, reached = np.array(points).mean(1).T
    return plot.Line(kl, reached, name, style=style, marks=False, colour="ink")


lines = [
    closed_form([gold], "closed form, gold", "--"),
    closed_form(models, "closed form, reward models", ":"),
]
for name, (method, settings) in METHODS.items():
    policies = [[method(models[seed], x, seed) for seed in SEEDS] for x in settings]
    kl = np.array([[kl_divergence(p.numpy(), base.numpy()) for p in row] for row in policies])
    reached = np.array([[float(p @ gold) for p in row] for row in policies])
    lines.append(
        plot.Line(
            kl.mean(1), reached.mean(1), name, low=reached.min(1), high=reached.max(1), style="-", marks=True
        )
    )
    print(f"{name}: gold {np.round(reached.mean(1), 2)} at {np.round(kl.mean(1), 2)} nats")
print(f"the reference: gold {float(base @ gold):.2f}; the best text: {float(gold.max()):.2f}")

# %%
ax = plot.frontier(lines, y_label="gold, log-odds of a rater", title="Mean and range of 3 seeds")
show(ax, "frontier")
