"""Evaluates a policy on given prompts, with intervals, KL and samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from text_gym.agents.environments import AgentEnv, as_text_vector_env
from text_gym.agents.policies.policy import Policy
from text_gym.envs.episode_batch import EpisodeBatch
from text_gym.episode import Episode, FloatArray, Prompt
from text_gym.pages.notebook import card, episodes_table, table
from text_gym.utils.interval import mean_interval

from .generators import Generator
from .rollout import Rollout
from .sampler import Sampling, rollout

_RESAMPLES = 2000


@dataclass(frozen=True)
class Measure:
    """A mean over episodes and its bootstrap interval."""

    mean: float
    ci95: tuple[float, float]

    @classmethod
    def of(cls, x: FloatArray, seed: int = 0) -> Measure:
        """Percentile bootstrap over episodes, 2,000 resamples; NaN (no opinion) is left out."""
        found = mean_interval(x, seed, _RESAMPLES)
        return cls(found.value, (found.low, found.high))


@dataclass(frozen=True, repr=False)
class Report:
    """The result of an evaluation.

    Args:
        reward: The reward of the environment. Whether that is gold, the task's own, is for the caller to say.
        terms: Its named terms.
        kl: To the reference policy, nats per episode (k1: may be slightly negative by chance); NaN if none
            was given.
        perplexity: Of the texts under the reference policy, per token; NaN if none was given.
        length: Completion tokens.
        terminated: Share of episodes that ended by themselves.
        episodes: The episodes, in the order of the prompts.
        rewards: `(n,)` float64, their rewards; NaN where the reward source declined to judge.
        episode_kl: `(n,)` float64, the KL of each; NaN where it is not known.
    """

    reward: Measure
    terms: dict[str, Measure]
    kl: Measure
    perplexity: float
    length: float
    terminated: float
    episodes: list[Episode]
    rewards: FloatArray
    episode_kl: FloatArray

    def __repr__(self) -> str:
        low, high = self.reward.ci95
        kl = "" if np.isnan(self.kl.mean) else f", KL {self.kl.mean:.3g} nats"
        reward = f"reward {self.reward.mean:.3f} [{low:.3f}, {high:.3f}]"
        return f"Report({len(self.episodes):,} episodes, {reward}{kl})"

    def _repr_html_(self) -> str:
        measures = {"reward": self.reward, **self.terms, "KL, nats per episode": self.kl}
        rows = [
            [name, f"{m.mean:.3f}", f"[{m.ci95[0]:.3f}, {m.ci95[1]:.3f}]".replace("-", "−")]
            for name, m in measures.items()
            if not np.isnan(m.mean)
        ]
        facts: dict[str, object] = {"episodes": len(self.episodes), "tokens a text": self.length}
        facts |= {"ended by themselves": self.terminated}
        facts |= {} if np.isnan(self.perplexity) else {"perplexity": self.perplexity}
        columns = {"reward": self.rewards, "KL": self.episode_kl}
        known = {name: values.tolist() for name, values in columns.items() if not np.isnan(values).all()}
        texts = episodes_table(self.episodes, known)
        return card("Report", facts, table(["", "mean", "95 % interval"], rows), texts)

    def summary(self, reward: str | None = "reward") -> dict[str, Any]:
        """Return plain data: measures as `{"mean", "ci95"}`, with the terms beside the reward.

        Args:
            reward: What to call the reward, e.g. `"gold"` where it is the task's own; None leaves it out, and
                its terms too.
        """
        measures = {} if reward is None else {reward: self.reward, **self.terms}
        return {
            **{k: {"mean": m.mean, "ci95": list(m.ci95)} for k, m in measures.items()},
            "kl_nats": self.kl.mean,
            "perplexity": self.perplexity,
            "length_tokens": self.length,
            "terminated": self.terminated,
        }


def evaluate(
    policy: Policy,
    env: AgentEnv,
    prompts: Sequence[Prompt] | None = None,
    *,
    reference: Policy | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
    episodes_per_prompt: int = 1,
    generator: Generator | None = None,
) -> Report:
    """Let a policy complete every prompt and score the texts.

    Args:
        policy: Who writes.
        env: Gives tokenizer, reward, token limit and stop strings, and its prompts if none are given. Texts
            are scored as they stand, cut or not, whatever its `limit`. Anything that agents take.
        prompts: What to complete, once each and in order.
        reference: For KL and perplexity; if None they are not known, and NaN.
        sampling: How tokens are drawn; temperature 1 if None. KL and perplexity are at temperature 1.
        seed: Decides the noise.
        episodes_per_prompt: Texts per prompt.
        generator: Who writes with the policy's weights; None is the policy itself.
    """
    env = as_text_vector_env(env)
    prompts = list(env.prompts if prompts is None else prompts)
    total = len(prompts) * episodes_per_prompt
    rows = min(total, 128)
    options = env.batch.options.for_measuring(episodes_per_prompt, policy.context)
    playing = EpisodeBatch(prompts, env.tokenizer, env.reward, env.max_tokens, rows, options)
    episodes: list[Episode] = []
    batches: list[dict[str, FloatArray]] = []
    for first in range(0, total, rows):
        index = np.arange(first, first + rows) % total  # the last batch wraps around, and the surplus is cut
        batch = rollout(policy, playing, index, seed=seed, sampling=sampling, generator=generator)
        episodes += batch.episodes
        batches.append(_columns(batch, policy, reference))
    missing = np.full(rows, np.nan)  # a source need not give every term in every batch
    names = dict.fromkeys(name for b in batches for name in b)
    values = {name: np.concatenate([b.get(name, missing) for b in batches])[:total] for name in names}
    episodes = episodes[:total]
    return Report(
        reward=Measure.of(values["reward"]),
        terms={k.removeprefix("term/"): Measure.of(v) for k, v in values.items() if k.startswith("term/")},
        kl=Measure.of(values["kl"]),
        perplexity=float(np.exp(values["nll"].sum() / values["length"].sum())),
        length=float(values["length"].mean()),
        terminated=sum(e.whole for e in episodes) / total,
        episodes=episodes,
        rewards=values["reward"],
        episode_kl=values["kl"],
    )


def _columns(batch: Rollout, policy: Policy, reference: Policy | None) -> dict[str, FloatArray]:
    """Measure reward, KL, length, terms and the reference's negative log-likelihood, `(B,)` each."""
    kl = nll = np.full(len(batch.episodes), np.nan)
    if reference is not None:
        texts = (batch.tokens, batch.host_starts, batch.host_lengths)
        own = policy.score(*texts, action_masks=batch.action_masks)
        other = reference.score(*texts, action_masks=batch.action_masks)
        kl = (own - other).sum(dim=1).double().cpu().numpy()
        nll = -other.sum(dim=1).double().cpu().numpy()
    return {
        "reward": batch.scores.totals_or_nan,
        "kl": kl,
        "nll": nll,
        "length": batch.lengths.double().cpu().numpy(),
        **{f"term/{k}": np.asarray(v, dtype=np.float64) for k, v in batch.scores.terms.items()},
    }
