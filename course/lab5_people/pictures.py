# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Lab 5 in pictures
#
# Your functions at work. Write `lab.py` first; then run this from top to bottom, in the lab's folder. With a
# file `class.db` of `text-gym labels merge` beside it the labels are your class's, else five simulated
# classmates' (seed 0), made here as stores and merged as yours would be.

# %%
import tempfile
from pathlib import Path

import numpy as np

from course.figures import show
from course.lab5_people.lab import (
    Floats,
    agreement,
    coincidences,
    krippendorff_alpha,
    length_bias,
    ordinal_distances,
    texts_and_shifts,
)
from text_gym import plot
from text_gym.reward_models import LabelStore, Question
from text_gym.reward_models.labels.merge import merge_labels
from text_gym.reward_models.labels.questions import LabelCriterion

FACTS = ["blue", "ceramic", "large", "sturdy", "light"]
FILLERS = ["a", "mug", "for", "your", "coffee", "and", "tea", "at", "home", "today", "or", "work"]
CLASSMATES = {  # shift, marks per word, noise
    "ada": (-0.6, 0.0, 0.4),
    "bob": (0.5, 0.0, 0.4),
    "cem": (0.0, 0.0, 0.8),
    "dee": (0.1, 0.0, 0.4),
    "eve": (-0.3, 0.08, 0.4),
}


def advertisement(rng: np.random.Generator) -> str:
    """Words of both kinds, in any order."""
    words = list(rng.choice(FACTS, rng.integers(0, 6), replace=False))
    return " ".join(rng.permutation(words + list(rng.choice(FILLERS, rng.integers(1, 20)))))


def quality_of(text: str) -> float:
    """From 1 to 5 by the facts that are mentioned: what the classmates would say without bias and noise."""
    return 1 + 4 * len(set(text.split()) & set(FACTS)) / len(FACTS)


def classmates(folder: Path, seed: int = 0) -> list[Path]:
    """Let everybody rate the same 40 texts, each in a store of their own."""
    rng = np.random.default_rng(seed)
    asked = [
        Question.rating("Sell a mug.", advertisement(rng), (LabelCriterion("persuasiveness"),))
        for _ in range(40)
    ]
    stores = []
    for name, (shift, per_word, noise) in CLASSMATES.items():
        stores.append(folder / f"{name}.db")
        with LabelStore(stores[-1]) as store:
            for item, question in zip(store.put(asked), asked, strict=True):
                (text,) = question.completions
                mark = quality_of(text) + shift + per_word * (len(text.split()) - 12) + noise * rng.normal()
                store.record(item, name, {"persuasiveness": int(np.clip(round(mark), 1, 5))}, at=0.0)
    return stores


# %%
CLASS = Path("class.db")
ME = ""  # your name or pseudonym in it; whoever pays most for length if left empty
with tempfile.TemporaryDirectory() as folder:
    merged = CLASS
    if not CLASS.exists():
        merged = Path(folder) / "class.db"
        print(merge_labels(classmates(Path(folder)), merged).raters)
    with LabelStore(merged, create=False) as store:
        labels = [label for label in store.labels() if label.kind == "rating"]
criterion = next(iter(labels[-1].values))
raters = sorted({label.rater for label in labels})
texts = list(dict.fromkeys(label.question.completions[0] for label in labels))
marks = np.full((len(raters), len(texts)), np.nan)
for label in labels:
    marks[raters.index(label.rater), texts.index(label.question.completions[0])] = label.values[criterion]
lengths = np.array([len(text.split()) for text in texts], dtype=np.float64)

# %% [markdown]
# ## Does the class agree?
#
# Everybody's α with everybody else, and the class's: nominal, ordinal, interval.

# %%
VALUES = [1.0, 2.0, 3.0, 4.0, 5.0]


def alpha(some: Floats, level: str = "ordinal") -> float:
    """Your α of some raters."""
    table = coincidences(some, VALUES)
    apart = np.subtract.outer(np.array(VALUES), np.array(VALUES))
    distances = {"nominal": (apart != 0) * 1.0, "interval": apart**2, "ordinal": ordinal_distances(table)}
    return krippendorff_alpha(table, distances[level])


print(f"agreement {agreement(marks):.2f}")
ax = plot.agreement(
    {level: alpha(marks, level) for level in ("nominal", "ordinal", "interval")},
    title="The class's agreement",
)
show(ax, "agreement")
pairs = np.array(
    [[np.nan if i == j else alpha(marks[[i, j]]) for j in range(len(raters))] for i in range(len(raters))]
)
show(plot.heat_map(raters, raters, pairs, title="Ordinal α of every two"), "pairs")

# %% [markdown]
# ## Who is strict, and who pays for length?
#
# The quality of a text is what the *others* think of it, once their shifts are taken off. Find yourself. A
# bias is against the others: if one of them pays for length, everybody else seems to pay a little less.

# %%
quality, shifts = texts_and_shifts(marks)
biases = []
for row in range(len(raters)):
    others = texts_and_shifts(np.delete(marks, row, axis=0))[0]
    seen = ~np.isnan(marks[row])
    biases.append(length_bias(marks[row][seen], others[seen], lengths[seen]))
figure, axes = plot.panels(2, columns=2, size=(4.2, 3.2))
plot.intervals(
    raters,
    {"": list(map(float, shifts))},
    reference=0.0,
    x_label="shift, marks",
    title="Strict or generous",
    ax=axes[0],
)
plot.intervals(
    raters,
    {"": [10 * bias for bias in biases]},
    reference=0.0,
    x_label="marks for ten words more",
    title="Paid for length, at equal quality",
    ax=axes[1],
)
show(figure, "bias")

# %% [markdown]
# ## A bias is exploited
#
# A reward model (ridge regression on the words of a text and their number) learns from your marks, or from
# those of whoever pays most for length, and another from the class's. A policy that writes such
# advertisements is improved by best-of-64, before and after: how long are the texts now, and how good?

# %%
FEATURES = FACTS + FILLERS


def features(some: list[str]) -> Floats:
    """A constant, which facts and fillers are in a text, and its words."""
    return np.array([[1.0, *[float(w in t.split()) for w in FEATURES], len(t.split()) / 10] for t in some])


def reward_model(wanted: Floats) -> Floats:
    """Weights of the features; NaN is left out."""
    seen = ~np.isnan(wanted)
    x = features(texts)[seen]
    return np.asarray(np.linalg.solve(x.T @ x + 0.3 * np.eye(x.shape[1]), x.T @ wanted[seen]))


rng = np.random.default_rng(1)
draws = [[advertisement(rng) for _ in range(64)] for _ in range(200)]
most = raters.index(ME) if ME in raters else int(np.argmax(biases))
models = {f"{raters[most]}'s labels": reward_model(marks[most]), "the class's": reward_model(quality)}
chosen = {"before": [group[0] for group in draws]}
for name, weights in models.items():
    chosen[name] = [group[int(np.argmax(features(group) @ weights))] for group in draws]
figure, axes = plot.panels(2, columns=2, size=(4.2, 3.4))
plot.spread(
    {name: [float(len(t.split())) for t in some] for name, some in chosen.items()},
    x_label="words",
    title="Length",
    ax=axes[0],
)
plot.spread(
    {name: [quality_of(t) for t in some] for name, some in chosen.items()},
    x_label="quality, 1 to 5",
    title="Quality",
    ax=axes[1],
)
show(figure, "before_and_after")
for name, some in chosen.items():
    words, good = np.mean([len(t.split()) for t in some]), np.mean([quality_of(t) for t in some])
    print(f"{name}: {words:.1f} words, quality {good:.2f}")
