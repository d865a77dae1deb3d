"""Diagnostics of a run: the objective, reward − β·KL, as its batches estimate it, and advice in words.

A policy is being ruined where the objective falls by more than noise, whatever its loss does. Here that is
measured, and signs of trouble in a batch are explained once; nothing is stopped: `Agent.learn` stops,
`Checkpoints.take_best` goes back.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

import numpy as np

from text_gym.agents.sampling.rollout import Rollout
from text_gym.envs.vector import TextVectorEnv
from text_gym.episode import FloatArray, IntArray
from text_gym.errors import excerpt
from text_gym.utils.display import harmless

WINDOW = 5  # batches in the moving average
DECLINE_PATIENCE = 5  # iterations in a row that the average must be below the start
# The start is measured once and compared often. Of runs that stay as good as it is (64 episodes a batch),
# 0.3 % trip by chance within 40 iterations and 0.7 % within 500; with 2 standard errors it is 4 % and 9 %.
ERRORS = 3.0
SIGN_PATIENCE = 3  # iterations in a row that a sign of trouble must last


class ObjectiveEstimate(NamedTuple):
    """A mean and its standard error, in reward units."""

    mean: float
    se: float

    def exceeds(self, other: ObjectiveEstimate, errors: float) -> bool:
        """Return True if this mean is larger by more than so many standard errors of the difference.

        >>> start = ObjectiveEstimate(0.0, 0.4)
        >>> ObjectiveEstimate(1.0, 0.3).exceeds(start, errors=2)  # the difference has 0.5
        False
        >>> ObjectiveEstimate(1.1, 0.3).exceeds(start, errors=2)
        True
        """
        return self.mean - other.mean > errors * math.hypot(self.se, other.se)

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.se:.3f}"


@dataclass(frozen=True)
class BatchMeans:
    """The mean reward and mean KL of one or several batches, with their covariance.

    They are kept apart, so that batches can be compared under one β, whatever it was when they were played.

    Args:
        reward: Mean total reward of an episode.
        kl: Mean KL to the reference policy, nats per episode.
        reward_var: Variance of the mean reward (the square of its standard error).
        kl_var: Variance of the mean KL.
        covariance: Of the two means.
    """

    reward: float
    kl: float
    reward_var: float
    kl_var: float
    covariance: float

    @classmethod
    def of(cls, rewards: FloatArray, kl: FloatArray, groups: IntArray) -> BatchMeans:
        """Measure a batch; episodes of a group share a prompt, so a group counts as one observation.

        Args:
            rewards: `(n,)`, of each episode, `n` > 1.
            kl: `(n,)`, nats.
            groups: `(n,)`, number of each episode's group; a single group counts as if there were none.
        """
        both = np.stack([rewards, kl])  # (2, n)
        means = both.mean(axis=1)
        names, group = np.unique(groups, return_inverse=True)
        if len(names) == 1:
            names = group = np.arange(len(rewards))
        sums = np.stack([np.bincount(group, x, len(names)) for x in both - means[:, None]])  # (2, G)
        products = sums @ sums.T * len(names) / ((len(names) - 1) * len(rewards) ** 2)
        return cls(*(float(x) for x in (*means, products[0, 0], products[1, 1], products[0, 1])))

    @classmethod
    def average(cls, batches: list[BatchMeans]) -> BatchMeans:
        """Average independent batches with equal weights."""
        rows, n = np.array([astuple(batch) for batch in batches]), len(batches)
        return cls(*(rows[:, :2].mean(axis=0)).tolist(), *(rows[:, 2:].sum(axis=0) / n**2).tolist())

    def objective(self, coefficient: float) -> ObjectiveEstimate:
        """Estimate reward − β·KL.

        Args:
            coefficient: β, reward units per nat.
        """
        variance = self.reward_var - 2 * coefficient * self.covariance + coefficient**2 * self.kl_var
        return ObjectiveEstimate(self.reward - coefficient * self.kl, math.sqrt(max(0.0, variance)))


class Objective:
    """Follows reward − β·KL from batch to batch and tells when it has fallen below where it began.

    The first batch is played by the policy that a run starts from, so its mean is the start's. Noise alone
    does not count: the mean of the last 5 batches has to stay below that by more than 3 standard errors of
    the difference, and by more than a small tolerance (a tenth of the standard deviation of the first batch's
    rewards, and what half a nat costs), for 5 iterations in a row. Batches with fewer than two scored
    episodes are passed over.

    Attributes:
        began: Iterations that were done when the first batch was played.
        coefficient: β when the last batch was played.
        below: Iterations in a row that the average has been below the start.
    """

    def __init__(self) -> None:
        self.began = 0
        self.coefficient = 0.0
        self.below = 0
        self._spread = 0.0
        self._start: BatchMeans | None = None
        self._recent: list[BatchMeans] = []

    def add(
        self, batch: Rollout, kl: FloatArray, coefficient: float, iteration: int, group_size: int = 1
    ) -> dict[str, float]:
        """Add a batch and return its metrics for the logs, which are empty if it was skipped.

        Args:
            batch: `B` episodes.
            kl: `(B,)`, of each episode the sum of log π − log π_ref over its tokens (k1), nats.
            coefficient: β when they were played.
            iteration: Iterations done before.
            group_size: Episodes of a prompt, one after another.
        """
        scored = ~batch.scores.abstained
        rewards = batch.scores.totals[scored]
        if len(rewards) < 2:
            return {}
        groups = _groups(batch, group_size)[scored]
        found = BatchMeans.of(rewards, np.asarray(kl, dtype=np.float64)[scored], groups)
        if self._start is None:
            self._start, self.began, self._spread = found, iteration, float(rewards.std())
        self.coefficient = coefficient
        self._recent = [*self._recent, found][-WINDOW:]
        start, average = self._known()
        tolerance = 0.1 * self._spread + 0.5 * coefficient
        low = start.exceeds(average, ERRORS) and start.mean - average.mean > tolerance
        self.below = self.below + 1 if low else 0
        now = found.objective(coefficient)
        return {"objective": now.mean, "objective_se": now.se, "objective_average": average.mean}

    def start(self, coefficient: float | None = None) -> ObjectiveEstimate | None:
        """The objective of the policy that the run starts from; None before its first batch.

        Args:
            coefficient: β; as it was with the last batch if None.
        """
        beta = self.coefficient if coefficient is None else coefficient
        return None if self._start is None else self._start.objective(beta)

    def average(self, coefficient: float | None = None) -> ObjectiveEstimate | None:
        """The mean of the last 5 batches; None before the first.

        Args:
            coefficient: β; as it was with the last batch if None.
        """
        beta = self.coefficient if coefficient is None else coefficient
        return BatchMeans.average(self._recent).objective(beta) if self._recent else None

    @property
    def declined(self) -> bool:
        """True if it has been below the start for 5 iterations in a row."""
        return self.below >= DECLINE_PATIENCE

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain JSON data."""
        return {
            "began": self.began,
            "coefficient": self.coefficient,
            "below": self.below,
            "spread": self._spread,
            "start": None if self._start is None else list(astuple(self._start)),
            "recent": [list(astuple(batch)) for batch in self._recent],
        }

    @classmethod
    def of(cls, state: dict[str, Any] | None) -> Objective:
        """Restore an objective from what `state_dict` returned, or make a new one from None."""
        made = cls()
        if state is not None:
            made.began, made.coefficient, made.below = state["began"], state["coefficient"], state["below"]
            made._spread = state["spread"]
            made._start = None if state["start"] is None else BatchMeans(*state["start"])
            made._recent = [BatchMeans(*batch) for batch in state["recent"]]
        return made

    def sentence(self, iteration: int, kl: float, cut: float) -> str:
        """Say what fell, from what to what, when, and what the texts look like by then.

        Args:
            iteration: Iterations done.
            kl: Of the last batch, nats per episode.
            cut: Share of its texts that were cut at the token limit.
        """
        start, average = self._known()
        return (
            f"The objective (reward − β·KL) fell from {start} to {average} (mean of {len(self._recent)} "
            f"batches) by iteration {iteration}: KL {kl:.1f} nats, {100 * cut:.0f} % of texts cut at "
            "the limit"
        )

    def _known(self) -> tuple[ObjectiveEstimate, ObjectiveEstimate]:
        start, average = self.start(), self.average()
        assert start is not None
        assert average is not None
        return start, average


def _groups(batch: Rollout, size: int) -> IntArray:
    """Return each episode's group number, `(B,)`: neighbours that share a prompt where there are groups."""
    prompts = [e.prompt for e in batch.episodes]
    new = [size == 1 or i == 0 or prompt is not prompts[i - 1] for i, prompt in enumerate(prompts)]
    return np.cumsum(new)


class Advisor:
    """Looks at every batch for signs that a run goes wrong, and explains each of them once.

    A sign must last for 3 iterations. What it says is advice: a task may well have one right answer.

    Attributes:
        lasted: Name of a sign -> iterations in a row that it was seen; more than 3 means it was explained.
    """

    def __init__(self) -> None:
        self.lasted: dict[str, int] = {}

    def look(self, batch: Rollout, metrics: Mapping[str, float], kl_coef: float) -> list[str]:
        """Return the advice after an iteration, usually none.

        Args:
            batch: What was played.
            metrics: Of the iteration.
            kl_coef: β, the KL coefficient.
        """
        advice = []
        for name, message in self._signs(batch, metrics, kl_coef):
            if self.lasted.get(name, 0) > SIGN_PATIENCE:
                continue
            self.lasted[name] = self.lasted.get(name, 0) + 1 if message else 0
            if self.lasted[name] == SIGN_PATIENCE:
                self.lasted[name] += 1
                advice.append(message)
        return advice

    def _signs(
        self, batch: Rollout, metrics: Mapping[str, float], kl_coef: float
    ) -> Iterable[tuple[str, str]]:
        yield "kl", _kl_blow_up(metrics, kl_coef)
        yield "collapse", _collapse(batch)
        yield "rewards", _equal_rewards(batch)
        yield "eos", _never_ends(batch)


def _kl_blow_up(metrics: Mapping[str, float], kl_coef: float) -> str:
    kl = metrics.get("kl_per_token", 0.0)
    if not (kl > 1.0 and kl_coef > 0):
        return ""
    return (
        f"KL blow-up: each token is {kl:.1f} nats from the reference ({metrics['kl']:.0f} an episode), so "
        "the texts hardly resemble the reference's, and a reward that rises now is often exploited rather "
        f"than earned. Read some samples; raise kl_coef (now {kl_coef:g}), set kl_target, or lower "
        "learning_rate."
    )


def _collapse(batch: Rollout) -> str:
    texts = Counter(episode.completion for episode in batch.episodes)
    text, times = texts.most_common(1)[0]
    prompts = {episode.prompt.text for episode in batch.episodes}
    if len(prompts) < 2 or len(batch.episodes) < 8 or times < 0.9 * len(batch.episodes):
        return ""
    return (
        f"Collapse: {times} of {len(batch.episodes)} episodes, of {len(prompts)} different prompts, have one "
        f"text, {excerpt(text)}. The policy no longer explores, and may have found an answer that the reward "
        "likes whatever the prompt. Raise kl_coef or entropy_coef, lower learning_rate, or have the reward "
        "look at the prompt."
    )


def _equal_rewards(batch: Rollout) -> str:
    totals = batch.scores.totals[batch.scored.numpy()]
    if len(totals) < 2 or np.ptp(totals) > 0:
        return ""
    return (
        f"All rewards are equal: each of the {len(totals)} episodes got {totals[0]:g}, so none is better "
        "than another and there is nothing to learn from. Unless the task is solved, it is too hard to meet "
        "success by chance: start from a better policy (sft), take easier prompts, or reward partial success."
    )


def _never_ends(batch: Rollout) -> str:
    tokenizer = batch.episodes[0].tokenizer
    if not tokenizer.eos_ids or any(e.finish_reason != "length" for e in batch.episodes):
        return ""
    return (
        f"No episode ends: all {len(batch.episodes)} were cut at the token limit, none wrote EOS "
        f"(id {', '.join(map(str, tokenizer.eos_ids))}). Rewards judge torn texts (under limit='truncate', "
        "nothing is learnt), and lengths carry no information. Start from a policy that was trained with EOS "
        "at the end of its texts (sft does that), raise max_tokens, or add a penalty for being cut."
    )


def why_unscored(env: TextVectorEnv) -> str:
    """Say which reward scored none of an environment's episodes, and its last reason."""
    reward = env.batch.reward
    said = harmless(reward.last_failure or "it abstained and gave no reason", limit=400)
    if env.batch.truncated.all():
        said = "the token limit cut all of them, and limit='truncate' pays for whole texts only"
        talk = env.batch.conversation
        if talk is not None and talk.dropped.any():
            failed = int(talk.dropped.sum())
            why = harmless(talk.last_failure, limit=400)
            said = (
                f"a limit cut {env.num_envs - failed} of them, and in {failed} the respondent failed: {why}"
            )
    return f"reward {harmless(reward.name, limit=60)!r} scored none of {env.num_envs} episodes: {said}"


def never_scored(env: TextVectorEnv, batches: int) -> str:
    """Say why an agent gives up after so many batches in a row without scores."""
    return (
        f"{why_unscored(env)}. It is batch {batches} in a row without scores, and nothing was learnt from "
        "them. Fix the reward (is its service up, is there budget left?) and go on, or raise max_unscored "
        f"({batches})"
    )
