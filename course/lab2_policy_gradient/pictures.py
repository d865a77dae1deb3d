# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Lab 2 in pictures
#
# Your functions at work. Write `lab.py` first; then run this from top to bottom, in the lab's folder.

# %%
import numpy as np
import torch

from course.figures import show
from course.lab2_policy_gradient.lab import best_baseline, gradient_variance, leave_one_out, reinforce_loss
from text_gym import TextVectorEnv, load_task, plot
from text_gym.agents import Policy, rollout
from text_gym.tasks.enumerable import enumerable

# %% [markdown]
# ## Learning to write backwards
#
# A small network, the task `reverse` ("abca" is to be answered by "acba" and EOS; a right symbol pays 1/5),
# 64 texts a step, and nothing but your loss. Three seeds each, with and without your leave-one-out
# baseline. To see what a baseline is for, every return is raised by 2, which changes nothing about what is
# best.

# %%
task = load_task("reverse")
STEPS, TEXTS, SEEDS, RAISED = 60, 64, range(3), 2.0


def learn(seed: int, baseline: bool) -> list[float]:
    """Train a network; the mean return of each batch."""
    env = TextVectorEnv(task=task, num_envs=TEXTS)
    policy = Policy.new(task.tokenizer, layers=1, width=32, heads=2, context=16, seed=seed, device="cpu")
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    seen = []
    for step in range(STEPS):
        texts = rollout(policy, env, np.arange(TEXTS) + step * TEXTS, seed=seed)
        returns = texts.rewards.sum(1)
        seen.append(float(returns.mean()))
        raised = returns + RAISED
        weights = raised - leave_one_out(raised) if baseline else raised
        log_probs = policy.evaluate(texts.tokens, texts.starts, texts.lengths).log_probs
        loss = reinforce_loss(log_probs, texts.mask, weights[:, None].expand_as(log_probs))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
    return seen


with_baseline = np.array([learn(seed, baseline=True) for seed in SEEDS])
without = np.array([learn(seed, baseline=False) for seed in SEEDS])

# %%
ax = plot.curves(
    {"leave-one-out baseline": with_baseline.mean(0), "no baseline": without.mean(0)},
    intervals={
        "leave-one-out baseline": (with_baseline.min(0), with_baseline.max(0)),
        "no baseline": (without.min(0), without.max(0)),
    },
    x_label="step",
    y_label="mean return of the batch",
    title="Reverse, mean and range of 3 seeds",
    reach=(0.0, 1.0),
)
show(ax, "learning")

# %% [markdown]
# ## The variance is a parabola
#
# The policy that draws every token with equal probability, on the 40 texts of `enumerable`. A bandit's
# scores are enough to see it: the weights are the logits of the 40 texts, and ∇log π(y) is the unit vector
# of y less all probabilities.

# %%
world = enumerable()
lengths = [1] + [2] * 3 + [3] * 36
probabilities = torch.tensor([4.0**-length for length in lengths], dtype=torch.float64)
returns = torch.from_numpy(np.array(list(world.reward.table.values())))  # type: ignore[attr-defined]
scores = torch.eye(40, dtype=torch.float64) - probabilities

baselines = np.linspace(-1.0, 2.0, 61)
variances = [float(gradient_variance(probabilities, scores, returns, b)) for b in baselines]
best = float(best_baseline(probabilities, scores, returns))
mean = float(probabilities @ returns)
lowest = [float(gradient_variance(probabilities, scores, returns, b)) for b in (best, mean, 0.0)]
print(f"best baseline {best:.3f}: variance {lowest[0]:.4f}; mean return {mean:.3f}: {lowest[1]:.4f}")
print(f"no baseline: {lowest[2]:.4f}")

# %%
ax = plot.curves(
    [
        plot.Line(baselines, variances, "variance of the gradient of one text", style="-", marks=False),
        plot.Line([best], [lowest[0]], f"best baseline, {best:.2f}", style="none", marks=True),
        plot.Line([mean], [lowest[1]], f"mean return, {mean:.2f}", style="none", marks=True),
    ],
    x_label="baseline b",
    y_label="variance, summed over the weights",
    title="What a baseline buys",
    reach=(0.0,),
)
show(ax, "variance")
