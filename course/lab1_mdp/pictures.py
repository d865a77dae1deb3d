# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Lab 1 in pictures
#
# Your functions at work. Write `lab.py` first; then run this from top to bottom, in the lab's folder.

# %%
import numpy as np

from course.figures import show
from course.lab1_mdp.lab import every_text, expected_return, state_values
from text_gym import load_task, plot
from text_gym.tasks.enumerable import trajectories

# %% [markdown]
# ## Everything that can be written
#
# The task `enumerable`: three symbols and EOS (∎), at most three tokens, and a reward for every text that
# was drawn once. The policy draws every token with equal probability. The thicker a branch, the likelier.

# %%
task = load_task("enumerable")
episodes = trajectories(task)
rewards = {
    tuple(e.completion_ids.tolist()): r for e, r in zip(episodes, task.reward(episodes).values, strict=True)
}
texts = sorted(every_text(4, task.tokenizer.eos_ids[0], 3))
returns = np.array([rewards[text] for text in texts])
log_probs = np.array([-len(text) * np.log(4) for text in texts])
print(f"{len(texts)} texts; the random policy earns {expected_return(log_probs, returns):.4f}")

# %%
paths = [["abc∎"[token] for token in text] for text in texts]
ax = plot.tree(paths, np.exp(log_probs), returns, title="The 40 texts and the random policy")
show(ax, "tree")

# %% [markdown]
# ## Values, token by token
#
# What the random policy may expect after each token of the best text and of the worst one. A good token
# raises the value; the last step leads to the reward itself.

# %%
values = state_values(texts, log_probs, returns)
chosen = {"best": int(returns.argmax()), "worst": int(returns.argmin())}
lines = {}
for name, i in chosen.items():
    text = texts[i]
    seen = [values[text[:t]] for t in range(len(text))] + [float(returns[i])]
    lines[f"{name}: {''.join(paths[i])}"] = seen + [np.nan] * (4 - len(seen))
ax = plot.curves(
    lines,
    x=np.arange(4),
    x_label="tokens written",
    y_label="value of the state",
    title="What may be expected from here on",
    reach=(0.0, 1.0),
)
show(ax, "values")
