# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Look inside: one text, token by token
#
# What an algorithm sees of a text: rewards, values, advantages, and the KL to the reference. Everything
# is computed again here from its definition and compared with the package.

# %%
import numpy as np
import torch
from IPython.display import HTML

from text_gym import Shaped, TextVectorEnv, load_task
from text_gym.agents import PPO, Policy, PPOConfig, rollout
from text_gym.agents.algorithms.estimators import estimate_kl, gae
from text_gym.plot import coloured_text, curves, to_svg

task = load_task("products")
policy = Policy.from_pretrained(task.policy, device="cpu")
env = TextVectorEnv(task=task, num_envs=64, numbering="global")
agent = PPO(policy, env, PPOConfig(iterations=8))
agent.learn(progress=True)

# %%
batch = agent.collect()  # the next 64 texts, with the critic's value of every token
row = int(np.argmin(np.where(batch.lengths > 20, batch.scores.totals, np.inf)))  # the worst of the long ones
episode, length = batch.episodes[row], int(batch.lengths[row])
episode

# %% [markdown]
# ## Reward, value, advantage
#
# The task pays the whole text once, at its end. The critic's value of a state is what it expects from
# there on; the advantage of a token says how much better things went than that. *Generalised advantage
# estimation* (GAE) adds up the critic's surprises $\delta_t = r_t + \gamma V_{t+1} - V_t$ with weights
# that fall by $\gamma\lambda$ a token: $A_t = \delta_t + \gamma\lambda A_{t+1}$.

# %%
rewards, values = batch.rewards[row, :length].tolist(), batch.values[row, :length].tolist()
gamma, lam = 1.0, 0.95
by_hand, following = [0.0] * length, 0.0
for t in reversed(range(length)):
    after = values[t + 1] if t + 1 < length else 0.0  # nothing comes after the last token
    following = rewards[t] + gamma * after - values[t] + gamma * lam * following
    by_hand[t] = following

advantages, returns = gae(batch.rewards, batch.values, batch.mask, gamma=gamma, lam=lam)
assert np.allclose(advantages[row, :length], by_hand, atol=1e-5)
coloured_text(episode, {"reward": rewards, "value": values, "advantage": by_hand})

# %% [markdown]
# λ chooses between trust in the critic (0: a token's own surprise) and trust in the end of the text (1:
# what came out minus what was expected).

# %%
lines = {
    f"λ = {lam:g}": gae(batch.rewards, batch.values, batch.mask, lam=lam)[0][row, :length].tolist()
    for lam in (0.0, 0.5, 0.95, 1.0)
}
HTML(to_svg(curves(lines, x_label="token", y_label="advantage", title="One text, four values of λ")))

# %% [markdown]
# ## KL, token by token
#
# How much likelier does the policy make each token than the reference does? $k_1 = \log
# \pi/\pi_{\text{ref}}$, in nats. Its sum over a text is what the penalty β·KL is taken of; its mean over
# many texts is the KL divergence. One text may well be below 0. $k_3 = \pi_{\text{ref}}/\pi - 1 - \log
# \pi_{\text{ref}}/\pi$ has the same mean and is never negative.

# %%
reference = agent.reference_log_probs(batch)
k1 = estimate_kl(batch.log_probs, reference, "k1")
k3 = estimate_kl(batch.log_probs, reference, "k3")
ratio = torch.exp(reference - batch.log_probs)
assert torch.allclose(k3 * batch.mask, (ratio - 1 - torch.log(ratio)) * batch.mask, atol=1e-5)
surprise = -batch.log_probs[row, :length]
coloured_text(
    episode,
    {
        "k1, nats": k1[row, :length].tolist(),
        "k3, nats": k3[row, :length].tolist(),
        "surprise −log π, nats": surprise.tolist(),
    },
    title=f"k1 of this text adds up to {float(k1[row].sum()):.2f} nats, k3 to {float(k3[row].sum()):.2f}",
)

# %%
for name, k in {"k1": k1, "k3": k3}.items():
    of_texts = (k * batch.mask).sum(dim=1)
    print(f"{name}: mean over 64 texts {of_texts.mean():.2f} nats, standard deviation {of_texts.std():.2f}")

# %% [markdown]
# ## A reward for every token
#
# Shaping pays each token for what it changes, here the marks that a text has so far, and leaves the best
# policy what it is (Ng et al. 1999). The table colours texts by what their tokens were paid.


# %%
def capitals(prompt: str, completion: str) -> float:
    return sum(word[:1].isupper() for word in completion.split()) / 10


shaped = TextVectorEnv(
    task=task, reward=Shaped(task.reward, capitals, gamma=1.0), num_envs=4, numbering="global"
)
rollout(policy, shaped, np.arange(4), seed=3)
