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
# # The first hour, in a notebook
#
# The Python twin of [The first hour](https://github.com/OWNER/text-gym/blob/main/docs/first-hour.md):
# train, look at texts token by token, a reward of your own, data of your own, a person's labels, and what
# came of them. It runs from top to bottom on a laptop's processor, with nothing downloaded.

# %%
import tempfile
from pathlib import Path

import numpy as np

from text_gym import Prompt, Task, TextVectorEnv, load_task
from text_gym.agents import PPO, Policy, PPOConfig, evaluate

folder = Path(tempfile.mkdtemp())
task = load_task("products")
task

# %% [markdown]
# A task is prompts, a tokenizer and a reward of its own, *gold*. This one wants a description of a
# product, and brings a small language model that learnt from careless writers. What does it write?
# `evaluate` lets it complete held-out prompts and scores the texts; the numbers in brackets are 95 %
# intervals.

# %%
policy = Policy.from_pretrained(task.policy, device="cpu")
held_out = TextVectorEnv(**task.env_kwargs(prompts=task.held_out[:128]), shuffle=False)
before = evaluate(policy, held_out)
before

# %% [markdown]
# ## Train
#
# [PPO](https://arxiv.org/abs/1707.06347) makes the better texts likelier. `progress=True` draws curves
# while it learns (in a terminal: a bar). KL, in nats, says how far the policy has moved from where it
# began.

# %%
agent = PPO(policy, TextVectorEnv(task=task, num_envs=64, numbering="global"), PPOConfig(iterations=15))
agent.learn(progress=True)

# %%
after = evaluate(policy, held_out, reference=agent.reference)
after

# %% [markdown]
# ## Look at texts
#
# Numbers tell how much, texts tell what. Here is one of them, its tokens coloured by how much likelier
# (blue) or less likely (brown) training made them, and by the advantage that PPO would give them: how
# much better than the critic expected things went on from there. Put the mouse on a token to read its
# numbers.

# %%
from text_gym.agents.algorithms.estimators import gae
from text_gym.plot import coloured_text

batch = agent.collect()  # the next 64 texts, with the critic's value of every token
change = batch.log_probs - agent.reference_log_probs(batch)
advantages, _ = gae(batch.rewards, batch.values, batch.mask, lam=agent.config.lam)
coloured_text(
    batch.episodes[0],
    {"log-probability, change in nats": change[0].tolist(), "advantage": advantages[0].tolist()},
    title=batch.episodes[0].prompt.text.strip(),
)

# %%
batch

# %% [markdown]
# ## A reward of your own
#
# Suppose somebody wants lively texts and counts exclamation marks. A reward is a function of the text.


# %%
def exclaims(completion: str) -> float:
    return min(completion.count("!"), 8) / 4


lively = PPO(
    Policy.from_pretrained(task.policy, device="cpu"),
    TextVectorEnv(task=task, reward=exclaims, num_envs=64, numbering="global"),
    PPOConfig(iterations=15, kl_coef=0.01),
)
lively.learn(progress=True)

# %% [markdown]
# What was optimised went up. Gold, which was only watched, did not: the policy found the shortest way to
# be paid. That is *over-optimisation*, and reading three texts shows it at once.

# %%
evaluate(lively.policy, held_out, reference=lively.reference)

# %% [markdown]
# Rewards are added and scaled like numbers, and show what they are made of. Would the audit have warned
# of this one?

# %%
from text_gym import as_reward_source
from text_gym.reward_models import AuditConfig, audit_reward

mixed = as_reward_source(exclaims) + 2 * task.reward
mixed

# %%
audit_reward(as_reward_source(exclaims), before.episodes, task.reward, AuditConfig(count=100, edited=40))

# %% [markdown]
# ## Your own data
#
# Any list of prompts and texts is a task. These were written by somebody who forgets things. First a
# policy learns to write like that, from nothing, tokenizer included (SFT); then PPO teaches it to say
# everything that stands in the brackets, with the package's F1 score for that as the reward.

# %%
import random

from text_gym import PretrainedTokenizer, split_by_prompt
from text_gym.agents import SFT, SFTConfig
from text_gym.reward_models import SlotCoverage

rng = random.Random(0)
pairs = []
for name in ["Alma", "Bistro Nine", "Cotto", "Dolce", "El Faro", "Fitz", "Green Man", "Harbour", "Inn"]:
    for food in ["Italian", "French", "Indian", "Chinese", "Greek", "Thai"]:
        for area in ["riverside", "city centre"]:
            for _ in range(3):
                said = f"{name} serves {food} food" if rng.random() < 0.7 else f"{name} is a restaurant"
                said += f" in the {area}." if rng.random() < 0.7 else "."
                pairs.append((Prompt(f"name[{name}], food[{food}], area[{area}]\n"), said))

tokenizer = PretrainedTokenizer.train([p.text + text for p, text in pairs], vocab_size=512)
writer = Policy.new(tokenizer, width=64, layers=2, context=96, device="cpu")
SFT(writer, pairs, SFTConfig(epochs=20)).learn(progress=True)
train, rest = split_by_prompt([p for p, _ in pairs], held_out=0.2)
own = Task("places", train, rest, tokenizer, SlotCoverage(), max_tokens=32)
places = TextVectorEnv(
    **own.env_kwargs(prompts=list(dict.fromkeys(p.text for p in own.held_out))), shuffle=False
)
evaluate(writer, places)

# %%
places_agent = PPO(writer, TextVectorEnv(task=own, num_envs=64, numbering="global"), PPOConfig(iterations=15))
places_agent.learn(progress=True)
evaluate(writer, places, reference=places_agent.reference)

# %% [markdown]
# ## Your own labels
#
# Where no function says what is good, people do. The widget asks; click it once and answer with the keys
# 1 to 5, `u` takes back, `s` skips, `?` shows the rest. What it calls saved is in the store, on the disk.

# %%
from text_gym.reward_models import LabelStore, NgramModel, Question, label_widget
from text_gym.reward_models.labels.formats import ratings
from text_gym.reward_models.labels.questions import LabelCriterion

appeal = LabelCriterion("appeal", "Would you read this to the end?")
texts = {(e.prompt.text, e.completion) for e in before.episodes}
questions = [Question.rating(prompt, text, [appeal]) for prompt, text in sorted(texts)[:40]]
store = LabelStore(folder / "labels.db")
label_widget(store, "me", questions)

# %% [markdown]
# So that this notebook runs without you, the questions that are still open are answered here by a person
# who likes short texts. Leave the cell out to go on with your own answers alone.

# %%
while (item := store.claim("short-texts")) is not None:
    words = len(item.question.completions[0].split())
    store.record(item.id, "short-texts", {"appeal": 5 if words < 24 else 3 if words < 30 else 1})
opinions = ratings(store.labels())
questions[0]

# %% [markdown]
# A reward model learns that taste from these marks, and PPO optimises the model.

# %%
taste = NgramModel.fit(opinions, ["appeal"])
mine = PPO(
    Policy.from_pretrained(task.policy, device="cpu"),
    TextVectorEnv(task=task, reward=taste, num_envs=64, numbering="global"),
    PPOConfig(iterations=12),
)
mine.learn(progress=True)

# %% [markdown]
# ## What came of it
#
# Texts became shorter: the policy gives this person what this person likes. Gold went down, since short
# texts leave out what gold asks for; it had no say. Which of the two is right? No report can know; it can
# only show both.

# %%
liked = evaluate(mine.policy, held_out, reference=mine.reference)
for name, report in {"start": before, "PPO on gold": after, "PPO on a person's taste": liked}.items():
    words = np.mean([len(e.completion.split()) for e in report.episodes])
    marks = taste(report.episodes).totals.mean()
    print(f"{name:24} gold {report.reward.mean:.3f}   the model's mark {marks:.2f}   {words:.0f} words")
liked

# %% [markdown]
# The whole cycle, several rounds of it, with a report of one page: `text-gym rlhf`. What the words mean,
# with formulas: the site's *Concepts*. Advantages, GAE and KL on one text: the notebook `look_inside`.
