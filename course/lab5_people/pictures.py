# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Lab 5 in pictures
#
# Your functions at work. Write `lab.py` first; then run this from top to bottom, in the lab's folder. With
# a file `class.db` of `text-gym labels merge` beside it the labels are your class's, else those of six
# simulated classmates, which came with the lab. The second half trains two policies, for about a minute.

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
from text_gym import FunctionReward, TextVectorEnv, load_task, plot
from text_gym.agents import RLOO, Policy, RLOOConfig, evaluate
from text_gym.reward_models import LabelStore
from text_gym.reward_models.labels.formats import import_labels

# %%
CLASS = Path("class.db")
ME = ""  # your name or pseudonym in it; whoever pays most for length if left empty
with tempfile.TemporaryDirectory() as folder:
    place = CLASS if CLASS.exists() else Path(folder) / "class.db"
    with LabelStore(place) as store:
        if not CLASS.exists():
            import_labels(store, "classmates.jsonl")
        labels = [label for label in store.labels() if label.kind == "rating"]
criterion = next(iter(labels[-1].values))
raters = sorted({label.rater for label in labels})
asked = list(dict.fromkeys((label.question.prompt, label.question.completions[0]) for label in labels))
marks = np.full((len(raters), len(asked)), np.nan)
for label in labels:
    place_of_text = asked.index((label.question.prompt, label.question.completions[0]))
    marks[raters.index(label.rater), place_of_text] = label.values[criterion]
lengths = np.array([len(text.split()) for _, text in asked], dtype=np.float64)

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
# A reward model learns from your marks alone, or from those of whoever pays most for length, and another from
# the class's: ridge regression on how many of the product's facts a text mentions, its words, and its
# exclamation marks. The shipped policy of the task `products` then learns from each of them (RLOO, without a
# KL penalty), and every five iterations gold, which nobody paid, reads what it writes.

# %%
ITERATIONS, EVERY, TEXTS = 30, 5, 96
task = load_task("products")
FEATURES = ["constant", "facts", "ten words", "exclamation marks"]


def features(prompt: str, text: str) -> Floats:
    """A constant, the share of the product's facts that are mentioned, tens of words, exclamation marks."""
    facts = prompt.strip("# \n").split(" | ")
    said = sum(fact in text for fact in facts) / len(facts)
    return np.array([1.0, said, len(text.split()) / 10, text.count("!")])


def reward_model(wanted: Floats) -> Floats:
    """Weights of the features, in standard deviations over the texts that were rated; NaN is left out."""
    x = np.stack([features(*text) for text in asked])
    seen = ~np.isnan(wanted)
    ridge = 0.3 * np.diag([0.0, 1.0, 1.0, 1.0])
    weights = np.linalg.solve(x[seen].T @ x[seen] + ridge, x[seen].T @ wanted[seen])
    return np.asarray(weights / (x @ weights).std())


def train(weights: Floats) -> tuple[dict[str, list[float]], str]:
    """Let a policy learn from a reward model: what becomes of its texts, and one of the last ones."""

    def reward(prompt: str, completion: str) -> float:
        return float(features(prompt, completion) @ weights)

    assert task.policy is not None
    policy = Policy.from_pretrained(task.policy, task.tokenizer, device="cpu")
    env = TextVectorEnv(
        **task.env_kwargs(reward=FunctionReward(reward)),
        num_envs=64,
        numbering="global",
        context=policy.context,
    )
    held_out = TextVectorEnv(**task.env_kwargs(prompts=task.held_out[:TEXTS]), shuffle=False)
    found: dict[str, list[float]] = {"own reward": [], "gold": [], "words": [], "exclamation marks": []}

    def look() -> str:
        report = evaluate(policy, held_out, seed=1)
        texts = [(e.prompt.text, e.completion) for e in report.episodes]
        found["own reward"].append(float(np.mean([reward(*text) for text in texts])))
        found["gold"].append(report.reward.mean)
        found["words"].append(float(np.mean([len(text.split()) for _, text in texts])))
        found["exclamation marks"].append(float(np.mean([text.count("!") for _, text in texts])))
        return texts[0][1]

    written = look()
    config = RLOOConfig(iterations=ITERATIONS, learning_rate=1e-3, epochs=1, kl_coef=0.0, seed=0)
    agent = RLOO(policy, env, config)
    for _ in range(ITERATIONS // EVERY):
        agent.learn(EVERY)
        written = look()
    return found, written


# %%
most = raters.index(ME) if ME in raters else int(np.argmax(biases))
models = {f"{raters[most]}'s labels": reward_model(marks[most]), "the class's": reward_model(quality)}
curves: dict[str, dict[str, list[float]]] = {}
for name, weights in models.items():
    print(name, {f: round(float(w), 2) for f, w in zip(FEATURES, weights, strict=True)})
    curves[name], written = train(weights)
    print("  in the end:", written)
figure, axes = plot.panels(4, columns=2, size=(4.2, 3.2))
TITLES = {"own reward": "The reward that is paid", "gold": "Gold, which is not paid"}
for ax, what in zip(axes, ("own reward", "gold", "words", "exclamation marks"), strict=True):
    own = what == "own reward"
    plot.curves(
        {name: np.array(found[what]) - own * found[what][0] for name, found in curves.items()},
        x=np.arange(0, ITERATIONS + 1, EVERY),
        x_label="iterations",
        y_label="gain, standard deviations" if own else "gold" if what == "gold" else f"{what} of a text",
        title=TITLES.get(what, what.capitalize()),
        ax=ax,
    )
show(figure, "exploited")
for name, found in curves.items():
    print(f"{name}:", ", ".join(f"{what} {y[0]:.2f} → {y[-1]:.2f}" for what, y in found.items()))
