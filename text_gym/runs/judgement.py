"""Judges a policy on held-out prompts: gold, the optimised reward beside it, KL and length.

Gold is the task's own reward and nothing else; no figure is called that where the task has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from text_gym.agents.sampling.evaluation import Measure, evaluate
from text_gym.agents.sampling.sampler import Sampling, rollout
from text_gym.envs.vector import TextVectorEnv
from text_gym.errors import ConfigError
from text_gym.rewards.source import RewardSource
from text_gym.tasks.task import NoGold, Task

if TYPE_CHECKING:
    from text_gym.agents.policies.policy import Policy
    from text_gym.agents.sampling.evaluation import Report


WATCHED = 64  # held-out prompts that gold is watched on
_LEAST = 5  # iterations between two looks
_SHARE = 5  # training episodes per episode of a look, which keeps its cost below a tenth


@dataclass(frozen=True)
class Judgement:
    """A policy's evaluation on the held-out prompts.

    Args:
        sampled: Its texts, sampled at temperature 1, with gold for their rewards (NaN where there is none).
        proxy: `(n,)` float64, what another reward that is optimised gives them, in the order of the texts;
            None if there is no other.
        summary: The figures, as in `summary.json`.
    """

    sampled: Report
    proxy: Any
    summary: dict[str, Any]

    def scores(self, i: int, task: Task, reward: RewardSource) -> dict[str, float]:
        """Return a text's rewards by name, e.g. `{"gold": 0.62, "length": 1.0}`."""
        own = {"gold": float(self.sampled.rewards[i])} if task.has_gold else {}
        return own if self.proxy is None else {**own, reward.name: float(self.proxy[i])}


def judge_policy(policy: Policy, reference: Policy | None, task: Task, reward: RewardSource) -> Judgement:
    """Judge a policy on a task's held-out prompts, sampled and greedy.

    Args:
        policy: Who writes.
        reference: What KL and perplexity are measured against; None leaves them unknown.
        task: Its reward is gold.
        reward: What is optimised. People are not asked about texts that nothing is learnt from.
    """
    silent = NoGold() if task.reward.interactive else None
    env = TextVectorEnv(**task.env_kwargs(prompts=task.held_out, reward=silent), shuffle=False)
    sampled, greedy = (
        evaluate(policy, env, reference=reference, sampling=Sampling(greedy=g)) for g in (False, True)
    )
    judgement = judge_texts(sampled, task, reward)
    judgement.summary["greedy"] = greedy.summary("gold" if task.has_gold else None)
    return judgement


def judge_texts(sampled: Report, task: Task, reward: RewardSource | None = None) -> Judgement:
    """Judge texts scored by a task's own reward and, if one is given, by another reward too.

    The summary has `gold` and its terms where the task has a reward of its own; the other one stands under
    `reward`, with its `name`, `mean`, `ci95` and `terms`. People are not asked.
    """
    summary = sampled.summary("gold" if task.has_gold else None)
    if reward is None or reward is task.reward or reward.interactive:
        return Judgement(sampled, None, summary)
    scored = reward(sampled.episodes)
    proxy = scored.totals_or_nan
    found = {"name": reward.name, **_plain(Measure.of(proxy))}
    terms = {name: _plain(Measure.of(np.asarray(x, dtype=np.float64))) for name, x in scored.terms.items()}
    return Judgement(sampled, proxy, {**summary, "reward": {**found, "terms": terms}})


def rows_of(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """List a judgement's measures under the names that tables show: gold first, then `reward (its name)`."""
    rows = {k: v for k, v in summary.items() if isinstance(v, Mapping) and "ci95" in v and "name" not in v}
    other = summary.get("reward", {})
    if "name" in other:  # unless a term of gold has that name
        rows[f"reward ({other['name']})"] = other
        rows |= {f"{other['name']}: {name}": measure for name, measure in other.get("terms", {}).items()}
    return {name: measure for name, measure in rows.items() if not math.isnan(measure["mean"])}


class GoldWatch:
    """Measures gold now and then while another reward is optimised, without changing the training.

    The texts are those of the first 64 held-out prompts, with the noise of `judge`: what changes from look to
    look is the policy.

    Args:
        task: Has a reward of its own.
        episodes: Of an iteration of the training; few of them are looked at less often.
        iterations: Of the whole training; the last is always looked at.
        context: Most tokens that the policy can read.
    """

    def __init__(self, task: Task, episodes: int, iterations: int, context: int | None = None) -> None:
        self.prompts = list(task.held_out[:WATCHED])
        self.env = TextVectorEnv(
            **task.env_kwargs(prompts=self.prompts),
            num_envs=len(self.prompts),
            shuffle=False,
            context=context,
        )
        self.every = max(_LEAST, math.ceil(_SHARE * len(self.prompts) / episodes))
        self.iterations = iterations

    def due(self, iteration: int) -> bool:
        """Return True if gold is due after this iteration, counted from 1."""
        return iteration % self.every == 0 or iteration == self.iterations

    def look(self, policy: Policy, reference: Policy) -> dict[str, float]:
        """Measure mean gold, and the mean log-ratio to the reference, which estimates the KL."""
        try:
            remembered: Any = self.env.reward.state_dict()
        except ConfigError:  # out of reach in another process, as a checkpoint will say
            remembered = None
        batch = rollout(policy, self.env, np.arange(len(self.prompts)), seed=0)
        if remembered is not None:  # the optimised reward may contain this one
            self.env.reward.load_state_dict(remembered)
        other = reference.score(batch.tokens, batch.host_starts, batch.host_lengths)
        kl = (batch.log_probs - other).sum(dim=1).double().mean()
        known = batch.scores.totals[~batch.scores.abstained]
        return {"gold": float(known.mean()) if len(known) else math.nan, "gold_kl": float(kl)}

    def first(self, before: Judgement) -> dict[str, float]:
        """Return the first look, before training, from texts already judged."""
        count = len(self.prompts)
        gold = before.sampled.rewards[:count]
        mean = float(np.nanmean(gold)) if np.isfinite(gold).any() else math.nan
        return {"iteration": 0, "gold": mean, "gold_kl": float(before.sampled.episode_kl[:count].mean())}


def _plain(measure: Any) -> dict[str, Any]:
    return {"mean": measure.mean, "ci95": list(measure.ci95)}
