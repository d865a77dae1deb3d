# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Lab 6 in pictures
#
# Your functions at work. Write `lab.py` first; then run this from top to bottom, in the lab's folder.

# %%
import numpy as np

from course.figures import show
from course.lab6_reward_hacking.lab import (
    Floats,
    best_of_n_gold,
    best_of_n_kl,
    best_of_n_law,
    fit_gao,
    kl_divergence,
    my_reward,
    peak,
)
from text_gym import plot
from text_gym.tasks.enumerable import enumerable, trajectories

# %% [markdown]
# ## A reward is hacked
#
# A careless policy writes advertisements for a mug: words of all kinds, in short texts. Gold knows what is
# good. The proxy counts how often a fact is mentioned, which looks sensible, and is, for a while. 20,000
# texts are drawn once; your estimate says what best-of-n would give, for any n, and your fit where it peaks.

# %%
FACTS = ["blue", "ceramic", "large"]
HYPE = ["best", "amazing", "ultimate"]
FILLERS = ["a", "mug", "for", "your", "coffee", "and", "tea"]
TEXTS = 20_000
rng = np.random.default_rng(0)
lengths = np.minimum(1 + rng.geometric(0.3, TEXTS), 24)
texts = [" ".join(rng.choice(FACTS + HYPE + FILLERS, length)) for length in lengths]


def gold_of(text: str) -> float:
    """Facts, each once, in few words, without superlatives."""
    words = text.split()
    said = sum(fact in words for fact in FACTS) / len(FACTS)
    repeated = len(words) - len(set(words))
    return said - 0.15 * repeated - 0.2 * sum(words.count(w) for w in HYPE) - 0.02 * max(0, len(words) - 8)


def standard(values: Floats) -> Floats:
    """In standard deviations over the policy's texts."""
    return np.asarray((values - values.mean()) / values.std())


noise = 1e-6 * rng.random(TEXTS)  # no two texts have the same reward
gold = standard(np.array([gold_of(text) for text in texts]))
naive = standard(np.array([sum(w in FACTS for w in text.split()) for text in texts]) + noise)
mine = standard(np.asarray(my_reward(texts, FACTS)) + noise)

sizes = [1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 256, 512, 1000]
kl = np.array([best_of_n_kl(n) for n in sizes])
curves = {
    name: (
        np.array([best_of_n_gold(proxy, proxy, n) for n in sizes]),
        np.array([best_of_n_gold(proxy, gold, n) for n in sizes]),
    )
    for name, proxy in (("naive", naive), ("mine", mine))
}
for name, (_, reached) in curves.items():
    print(f"{name}: gold at 5 nats {np.interp(5.0, kl, reached):+.2f} standard deviations")

# %%
alpha, beta = fit_gao(kl, curves["naive"][1])
fine = np.linspace(0, kl[-1], 200)
fitted = np.sqrt(fine) * (alpha - beta * np.sqrt(fine))
print(f"Gao's law: α {alpha:.2f}, β {beta:.2f}")
if beta > 0 < alpha:
    print(f"peak at {peak(alpha, beta)[0]:.2f} nats, {peak(alpha, beta)[1]:.2f} standard deviations")
ax = plot.reward_and_gold(
    (kl, curves["naive"][0]),
    (kl, curves["naive"][1]),
    fits={"Gao's law, fitted to gold": (fine, fitted)},
    others=[plot.Line(kl, curves["mine"][1], "gold, if your reward chooses", colour=2)],
    names=("proxy: mentions of a fact", "gold, if the proxy chooses"),
    y_label="gain, standard deviations",
    title="Best of n, by two rewards",
)
show(ax, "hacked")

# %% [markdown]
# ## How far best-of-n goes
#
# The bound log n − (n − 1)/n holds for texts of small probability. On the 40 texts of `enumerable` a policy
# soon has nothing better to find: the exact KL stays below, and ends at −log of the best text's probability.

# %%
world = enumerable()
everything = trajectories(world)
start = np.array([4.0 ** -len(text.completion_ids) for text in everything])
returns = np.asarray(world.reward(everything).values)
counts = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
exact = [kl_divergence(best_of_n_law(start, returns, n), start) for n in counts]
ax = plot.curves(
    [
        plot.Line(np.log2(counts), [best_of_n_kl(n) for n in counts], "log n − (n − 1)/n", style="--"),
        plot.Line(np.log2(counts), exact, "exact, 40 texts"),
        plot.Line(
            np.log2([counts[0], counts[-1]]),
            [-np.log(start[returns.argmax()])] * 2,
            "−log π of the best text",
            colour="soft",
            style=":",
            marks=False,
        ),
    ],
    x_label="n (logarithm to base 2)",
    y_label="KL, nats",
    title="How far best-of-n goes",
    reach=(0.0,),
)
show(ax, "distance")

# %% [markdown]
# What did the proxy choose? Read it.

# %%
print("by the naive proxy:", texts[int(naive.argmax())])
print("by your reward:    ", texts[int(mine.argmax())])
print("by gold:           ", texts[int(gold.argmax())])
