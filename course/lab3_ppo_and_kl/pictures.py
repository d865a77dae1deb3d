# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Lab 3 in pictures
#
# Your functions at work. Write `lab.py` first; then run this from top to bottom, in the lab's folder.

# %%
import numpy as np
import torch

from course.figures import show
from course.lab3_ppo_and_kl.lab import (
    clipped_loss,
    gae,
    kl_estimates,
    kl_rewards,
    optimal_policy,
    whiten,
)
from course.worlds import world
from text_gym import plot
from text_gym.tasks.enumerable import kl_divergence, total_variation

# %% [markdown]
# ## PPO made of your functions
#
# A policy of a table of logits on the 40 texts of `enumerable`; the reference is where it starts. In every
# iteration 512 texts are drawn, the KL is taken off their rewards, a critic (a table, too) gives values,
# and three steps are taken on your clipped loss. The learning rate falls to 0, so that the noise of
# sampling dies out.

# %%
ITERATIONS, TEXTS, EPOCHS = 150, 512, 3
start = world(0)
mask, returns = start.mask, start.returns
reference = start.log_probs.detach()
ends = mask.sum(1) - 1
table_of = start.log_probs  # differentiable by start.logits


def log_probs_at(logits: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of all tokens of all texts, for other logits than the world began with."""
    return torch.where(mask, torch.log_softmax(logits, 1)[rows, tokens], 0.0)


def places() -> tuple[torch.Tensor, torch.Tensor]:
    """The state and the token of every place in every text, found by asking for gradients."""
    states, actions = torch.zeros(mask.shape, dtype=torch.int64), torch.zeros(mask.shape, dtype=torch.int64)
    for i, t in mask.nonzero().tolist():
        (slope,) = torch.autograd.grad(table_of[i, t], start.logits, retain_graph=True)
        states[i, t] = slope.abs().sum(1).argmax()
        actions[i, t] = slope[states[i, t]].argmax()  # 1 − p at the token, −p elsewhere
    return states, actions


rows, tokens = places()
assert torch.allclose(log_probs_at(start.logits.detach()), reference)


def learn(beta: float, seed: int = 0) -> tuple[torch.Tensor, list[float]]:
    """Run PPO; the probabilities of the texts at its end, and the KL after every iteration."""
    generator = torch.Generator().manual_seed(seed)
    logits = start.logits.detach().clone().requires_grad_()
    critic = torch.zeros(len(logits), dtype=torch.float64)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    seen = []
    for iteration in range(ITERATIONS):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - iteration / ITERATIONS)
        now = log_probs_at(logits.detach())
        drawn = torch.multinomial(now.sum(1).exp(), TEXTS, replacement=True, generator=generator)
        old, inside = now[drawn], mask[drawn]
        paid = torch.zeros_like(old)
        paid[torch.arange(TEXTS), ends[drawn]] = returns[drawn]
        shaped = kl_rewards(paid, old, reference[drawn], inside, beta)
        values = critic[rows[drawn]]
        advantages = gae(shaped, values, inside, 1.0, 1.0)
        for state in range(len(critic)):  # the critic says what was earned on average
            here = (rows[drawn] == state) & inside
            if here.any():
                critic[state] += 0.3 * (advantages[here]).mean()
        weights = whiten(advantages, inside)
        for _ in range(EPOCHS):
            loss = clipped_loss(log_probs_at(logits)[drawn], old, weights, inside, 0.2)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        policy = log_probs_at(logits.detach()).sum(1).exp()
        seen.append(kl_divergence(policy.numpy(), reference.sum(1).exp().numpy()))
    return policy, seen


# %%
BETAS = (1.0, 0.3, 0.1, 0.05)
base = reference.sum(1).exp()
found = {beta: learn(beta) for beta in BETAS}
for beta, (policy, _) in found.items():
    apart = total_variation(policy.numpy(), optimal_policy(base, returns, beta).numpy())
    print(f"β = {beta:<5} total variation to π_ref exp(R/β): {apart:.4f}")

# %%
sweep = np.geomspace(0.02, 5.0, 60)
best = [optimal_policy(base, returns, float(beta)) for beta in sweep]
frontier = plot.Line(
    [kl_divergence(p.numpy(), base.numpy()) for p in best],
    [float(p @ returns) for p in best],
    "closed form, π_ref exp(R/β)",
    style="-",
    marks=False,
)
ppo = plot.Line(
    [kl_divergence(p.numpy(), base.numpy()) for p, _ in found.values()],
    [float(p @ returns) for p, _ in found.values()],
    "your PPO, β = 1, 0.3, 0.1, 0.05",
    style="none",
    marks=True,
)
ax = plot.frontier([frontier, ppo], y_label="expected return", title="Nobody is above the frontier")
show(ax, "frontier")

# %%
ax = plot.curves(
    {f"β = {beta}": seen for beta, (_, seen) in found.items()},
    x_label="iteration",
    y_label="KL to the reference, nats per text",
    title="How far the policy goes",
    reach=(0.0,),
)
show(ax, "kl")

# %% [markdown]
# ## Three estimators
#
# 300 estimates of the KL of the policy at β = 0.1 from its reference, each from 64 texts. k1 and k3 are
# right on average, k2 is not. k3 is never negative, and near the reference it has the least spread; here it
# has a heavy tail, since texts that the policy has all but given up have a huge r = π_ref/π when one of
# them is drawn.

# %%
policy = found[0.1][0]
exact = kl_divergence(policy.numpy(), base.numpy())
drawn = torch.multinomial(
    policy, 300 * 64, replacement=True, generator=torch.Generator().manual_seed(1)
).reshape(300, 64)
estimates = kl_estimates(policy.log()[drawn], base.log()[drawn])
ax = plot.spread(
    {name: k.mean(1).numpy() for name, k in zip(("k1", "k2", "k3"), estimates, strict=True)},
    references={"exact": exact},
    x_label="estimate from 64 texts, nats per text",
    title="Estimators of the KL",
)
show(ax, "estimators")
