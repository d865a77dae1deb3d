# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Lab 4 in pictures
#
# Your functions at work. Write `lab.py` first; then run this from top to bottom, in the lab's folder.

# %%
import numpy as np
import torch

from course.figures import show
from course.lab4_reward_models.lab import (
    Floats,
    accuracy,
    bradley_terry_loss,
    calibration_error,
    reliability,
    sigmoid,
    wilson_interval,
)
from text_gym import plot

# %% [markdown]
# ## How many pairs does it take?
#
# Texts have 20 features, and a rater chooses by Bradley and Terry with a reward that is linear in them. A
# linear reward model is fitted to 10 … 3,000 of the choices with your loss, and judged on 2,000 others.
# Raters contradict themselves: even the rater's own reward orders only a part of the choices rightly.

# %%
FEATURES, HELD_OUT = 20, 2000
rng = np.random.default_rng(0)
truth = rng.normal(size=FEATURES) / np.sqrt(FEATURES) * 1.5


def pairs(count: int) -> tuple[Floats, Floats]:
    """Features of chosen and of rejected texts, as the rater chose."""
    first, second = rng.normal(size=(2, count, FEATURES))
    wins = rng.random(count) < sigmoid((first - second) @ truth)
    won = wins[:, None]
    return np.where(won, first, second), np.where(won, second, first)


def fit(chosen: Floats, rejected: Floats) -> Floats:
    """Weights that minimise the loss, by L-BFGS."""
    weights = torch.zeros(FEATURES, dtype=torch.float64, requires_grad=True)
    better, worse = torch.from_numpy(chosen), torch.from_numpy(rejected)
    optimizer = torch.optim.LBFGS([weights], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = bradley_terry_loss(better @ weights, worse @ weights)
        loss.backward()
        return loss

    optimizer.step(closure)
    return np.asarray(weights.detach().numpy())


test = pairs(HELD_OUT)
counts = [10, 30, 100, 300, 1000, 3000]
models = {count: fit(*pairs(count)) for count in counts}
right = [accuracy(test[0] @ w, test[1] @ w) for w in models.values()]
bars = [wilson_interval(round(a * HELD_OUT), HELD_OUT) for a in right]
ceiling = accuracy(test[0] @ truth, test[1] @ truth)

# %%
ax = plot.curves(
    [
        plot.Line(
            np.log10(counts),
            right,
            "reward model, with Wilson's 95 % interval",
            [low for low, _ in bars],
            [high for _, high in bars],
        ),
        plot.Line(
            np.log10([counts[0], counts[-1]]),
            [ceiling] * 2,
            "the rater's own reward",
            colour="soft",
            style="--",
        ),
    ],
    x_label="pairs (logarithm to base 10)",
    y_label="accuracy on held-out pairs",
    title="Accuracy over pairs",
)
show(ax, "accuracy")

# %% [markdown]
# ## Sure of itself
#
# The model of 30 pairs and 20 features orders two pairs of three rightly and is far too sure: its rewards
# are too far apart. With 3,000 pairs it means what it says.

# %%
figure, axes = plot.panels(2, columns=2, size=(4.2, 3.4))
for panel, count in zip(axes, (30, 3000), strict=True):
    margin = (test[0] - test[1]) @ models[count]
    flip = rng.random(HELD_OUT) < 0.5  # whether the chosen text is asked about first
    forecasts = sigmoid(np.where(flip, -margin, margin))
    table = reliability(forecasts, (~flip).astype(float), 10)
    error = calibration_error(*table)
    plot.calibration(
        *table,
        x_label="forecast that the first is preferred",
        y_label="share in which it was",
        title=f"{count} pairs: error {error:.3f}",
        ax=panel,
    )
show(figure, "reliability")
