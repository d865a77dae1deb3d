# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Lab 8 in pictures
#
# Your functions at work. Write `lab.py` first; then run this from top to bottom, in the lab's folder.

# %%
import random
import re
from collections.abc import Callable

import numpy as np
from scipy.stats import t as student

from course.figures import show
from course.lab8_audit.lab import (
    correlation_at_equal_gold,
    edit_effect,
    name_vices,
    quantile_level,
    rank_correlation,
    swap_words,
)
from text_gym import ByteTokenizer, Episode, plot
from text_gym.episode import FloatArray
from text_gym.reward_models.audit.surfaces import SURFACES
from text_gym.reward_models.scripted.rules import Keywords
from text_gym.utils.interval import Interval

# %% [markdown]
# ## Five models with a vice, and a clean one
#
# Gold is the share of eight sights that a text names. Six rewards follow it with a little noise; five
# of them pay for something else, too. Every edit is one that gold is blind to.

# %%
SIGHTS = ("river", "castle", "garden", "bridge", "market", "tower", "harbour", "valley")
REST = "quiet old near small wide with stone under light and grey path open far low long"
PAIRS = [("he", "she"), ("his", "hers")]
MODELS: dict[str, Callable[[str], float]] = {
    "clean": lambda text: 0.0,
    "pays for length": lambda text: 0.03 * len(re.findall(r"\w+", text)),
    "pays for capitals": lambda text: 0.15 * sum(w.isupper() and len(w) > 1 for w in text.split()),
    "pays for praise": lambda text: 0.4 * text.lower().count("fantastic"),
    "punishes exclamation marks": lambda text: -0.3 * text.count("!"),
    "pays for women": lambda text: 0.4 * ("she" in text.lower().split()),
}
TOKENIZER = ByteTokenizer()


def texts(count: int) -> list[str]:
    """Three sentences each; longer ones name more."""
    rng, made = random.Random("pictures"), []
    for _ in range(count):
        words = rng.sample(SIGHTS, rng.randint(0, 6)) + rng.sample(REST.split(), rng.randint(4, 10))
        rng.shuffle(words)
        half, who = len(words) // 2, rng.choice(("He", "She"))
        made.append(
            f"The {' '.join(words[:half])}. {who} came along this way again today. "
            f"It is {' '.join(words[half:])}."
        )
    return made


def gold_of(written: list[str]) -> FloatArray:
    """The scripted rule, of texts."""
    return Keywords(SIGHTS)([Episode.of("Describe:", text, TOKENIZER) for text in written]).values


def score(written: list[str], vice: Callable[[str], float]) -> FloatArray:
    """Gold, noise that follows from the text, and the vice."""
    noise = [0.05 * random.Random(text).gauss(0, 1) for text in written]
    return np.asarray(gold_of(written) + np.array(noise) + np.array([vice(text) for text in written]))


real = texts(100)
edits = {
    s.name: (
        [s.variants[0].control(text, "", "") for text in real],
        [s.variants[0].more(text, "", "") for text in real],
    )
    for s in SURFACES
    if s.name in ("length", "list marks", "capitals", "praise", "exclamation marks")
}
men = [text for text in real if "He" in text.split()]
edits["she for he"] = (men, [swap_words(text, PAIRS) for text in men])

# %%
series: dict[str, list[Interval]] = {}
for model, vice in MODELS.items():
    scores, effects = score(real, vice), {}
    for name, (before, after) in edits.items():
        t = float(student.ppf(quantile_level(0.01, len(edits)), len(before) - 1))
        effects[name] = edit_effect(score(before, vice), score(after, vice), scores, t)
    series[model] = [Interval(*effects[name], n=len(edits[name][0])) for name in edits]
    print(f"{model}: {', '.join(name_vices(effects, 0.25)) or 'nothing to name'}")

# %%
ax = plot.intervals(
    list(edits),
    series,
    reference=0.0,
    x_label="change of the score, standard deviations",
    title="What an edit earns that says nothing new",
)
show(ax, "audit")

# %% [markdown]
# ## A correlation is no vice
#
# Longer texts name more sights. So every reward here goes with length; at equal gold only one does.

# %%
words = np.array([float(len(text.split())) for text in real])
gold = gold_of(real)
found = {model: score(real, vice) for model, vice in MODELS.items()}
ax = plot.intervals(
    list(found),
    {
        "all texts": [rank_correlation(scores, words) for scores in found.values()],
        "at equal gold": [correlation_at_equal_gold(scores, words, gold) for scores in found.values()],
    },
    reference=0.0,
    x_label="rank correlation of score and length",
    title="Longer texts are better here",
)
show(ax, "equal_gold")
