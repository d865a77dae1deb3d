"""Detects reward hacking while a run goes on: the reward rises, and the texts leave the range they began in.

Gold is not looked at; nobody who trains has it. An alarm is a reason to read the texts, and no proof.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from text_gym.agents.sampling.rollout import Rollout
from text_gym.episode import Episode, FloatArray, IntArray
from text_gym.errors import ConfigError, excerpt
from text_gym.rewards.source import RewardSource
from text_gym.rewards.values import unique
from text_gym.utils.display import harmless

from .metrics import Metrics

LOG = logging.getLogger("text_gym")
WINDOW = 3  # batches in the moving averages
RISE = 2.0  # standard errors by which the reward has to exceed that of the first batch
# CUSUM (Page 1954, "Continuous inspection schemes"): each batch's drift in standard errors, less the slack,
# is added to a sum that never falls below 0; above the limit the drift is no chance.
SLACK, LIMIT = 1.0, 4.0
# How far the last batches have to be off, besides, in standard deviations of single texts: a criterion that
# the reward leaves out is meant to hold, while texts may change a good deal for the better.
CRITERION, TEXTS = 0.2, 0.75
GOES_ALONG = 0.2  # correlation with the reward in the first batch that makes one of its terms a criterion
LEAST_TEXTS = 16
KNOWS_NOTHING = 0.5  # of log V: a policy that writes with so many nats a token has no habits to leave
# What texts are measured by; whether a rise (1), a fall (-1) or both (0) raise suspicion; and the least
# standard deviation that a text is taken to have, so that the first ones to be cut are no alarm.
MEASURES: Mapping[str, tuple[int, float]] = {
    "length": (0, 1.0),
    "repetition": (1, 0.05),
    "copying": (1, 0.05),
    "novelty": (1, 0.05),
    "sameness": (1, 0.25),
    "cut": (1, 0.25),
}
Pair = tuple[int, int]


class Gauge:
    """Follows one measure of the texts from batch to batch, and tells when it has left its range for good.

    Args:
        start: `(n,)`, of the texts that it began with.
        sign: 1 if a rise raises suspicion, -1 if a fall does, 0 if both do.
        least: Standard deviations by which the last batches have to be off.
        spread: Least standard deviation that a text is taken to have.

    Attributes:
        sums: The CUSUM, in standard errors, upwards (1) and downwards (-1).
        recent: Drift of the last batches, standard deviations.
        since: Iteration in which the present drift began; None while there is none.
    """

    def __init__(self, start: FloatArray, sign: int, least: float, spread: float = 1e-9) -> None:
        self.mean, self.variance, self.count = float(start.mean()), float(start.var()), len(start)
        self.least, self.spread, self.now = least, spread, self.mean
        self.sums = dict.fromkeys((1, -1) if sign == 0 else (sign,), 0.0)
        self.recent: list[float] = []
        self.since: int | None = None

    def add(
        self, values: FloatArray, groups: IntArray, iteration: int, rewards: FloatArray | None = None
    ) -> float:
        """Add a batch's values and return its drift in standard deviations of a text (Cohen's d).

        Both spreads count, of the start and of the batch: a single odd text then moves little.

        Args:
            values: `(n,)`, of the batch's texts.
            groups: `(n,)`, the number of each one's prompt; texts of one prompt count as one observation.
            iteration: Its number.
            rewards: `(n,)`, to have the covariance count, too: by Price's equation (1970) a selection by the
                reward moves the mean of a measure by it, so that it tells what is going to happen.
        """
        self.now, squared_error = mean_of_groups(values, groups)
        spread = math.sqrt((self.variance + float(values.var())) / 2)
        drift = (self.now - self.mean) / max(spread, self.spread)
        error = math.sqrt(self.variance / self.count + squared_error)
        errors = (self.now - self.mean) / max(error, 1e-9)
        if rewards is not None:
            errors = (errors + correlation(values, rewards, groups)) / math.sqrt(2)
        self.recent = [*self.recent, drift][-WINDOW:]
        self.sums = {sign: max(0.0, total + sign * errors - SLACK) for sign, total in self.sums.items()}
        if not any(self.sums.values()):
            self.since = None
        elif self.since is None:
            self.since = iteration
        return drift

    @property
    def out(self) -> bool:
        """True while it is out of its range."""
        return any(total > LIMIT and sign * self.off >= self.least for sign, total in self.sums.items())

    @property
    def off(self) -> float:
        """The mean drift of the last batches, standard deviations."""
        return float(np.mean(self.recent)) if self.recent else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain JSON data."""
        return {**vars(self), "sums": {str(sign): total for sign, total in self.sums.items()}}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Gauge:
        """Restore a gauge from what `state_dict` returned."""
        gauge = cls.__new__(cls)
        vars(gauge).update(state, sums={int(sign): total for sign, total in state["sums"].items()})
        return gauge

    def __str__(self) -> str:
        start = f"{self.mean:.3g} ± {math.sqrt(self.variance):.2g}"
        return f"{self.now:.3g}, at the start {start}, since iteration {self.since}"


class HackingDetector:
    """Raises an alarm when the reward has risen and something that should not change has changed for good.

    What is looked at: the texts themselves (`measure_texts`), unless the policy begins with random weights;
    criteria that the reward does not contain, which should not fall; and terms of the reward that went along
    with it in the first batch, and fall while it rises. It changes nothing in the training.

    Args:
        start: Texts of the policy as it is before training, at least 16, a hundred or more at best:
            `evaluate(policy, env).episodes`.
        watch: Criteria to look at; more is better.

    Attributes:
        alarm: What happened, in a sentence; None before.
        iteration: That of the alarm.

    Raises:
        ConfigError: There are too few texts to know their range, or a criterion judges none of them, or it
            would ask people.
    """

    def __init__(self, start: Sequence[Episode], watch: Sequence[RewardSource] = ()) -> None:
        if len(start) < LEAST_TEXTS:
            raise ConfigError(f"a range needs at least {LEAST_TEXTS} texts of the start, not {len(start)}")
        people = [source.name for source in watch if source.interactive]
        if people:
            raise ConfigError(f"people cannot be asked about every text: leave out {', '.join(people)}")
        self.watch = dict(zip(unique(source.name for source in watch), watch, strict=True))
        self.alarm: str | None = None
        self.iteration: int | None = None
        self._seen = Counter(pair for episode in start for pair in set(pairs_of(episode)))
        texts = measure_texts(start, self._seen, least=2)
        self.gauges = {name: Gauge(texts[name], sign, TEXTS, sd) for name, (sign, sd) in MEASURES.items()}
        for name, values in self._watched(start).items():
            if np.isnan(values).all():
                raise ConfigError(f"{harmless(name)} judges none of the texts that the policy begins with")
            self.gauges[name] = Gauge(values[~np.isnan(values)], -1, CRITERION)
        self._first: tuple[float, float] | None = None  # of the rewards: mean, variance of the mean
        self._recent: list[tuple[float, float]] = []

    def look(self, batch: Rollout, iteration: int) -> Metrics:
        """Look at a batch, and return its drifts and whether there has been an alarm, for the logs.

        Args:
            batch: What was played; the first one by the policy as it was before training.
            iteration: Its number, from 1.
        """
        scored = batch.scored.numpy()
        if scored.sum() < 2:
            return {}
        groups = np.unique([e.prompt.text for e in batch.episodes], return_inverse=True)[1]
        now = mean_of_groups(batch.scores.totals[scored], groups[scored])
        if self._first is None:
            self._first = now
            self._begin(batch)
        self._recent = [*self._recent, now][-WINDOW:]
        values = measure_texts(batch.episodes, self._seen, least=1)
        values |= self._watched(batch.episodes) | _terms(batch)
        drifts = {
            f"drift/{name}": gauge.add(
                values[name][known],
                groups[known],
                iteration,
                None if name in MEASURES else batch.scores.totals[known],
            )
            for name, gauge in self.gauges.items()
            if name in values and (known := scored & ~np.isnan(values[name])).sum() > 1
        }
        out = {name: gauge for name, gauge in self.gauges.items() if gauge.out}
        if out and self.alarm is None and self._risen:
            self.alarm, self.iteration = self._sentence(batch, out, iteration), iteration
            LOG.warning("%s", self.alarm)
        return {**drifts, "alarm": float(self.alarm is not None)}

    def _begin(self, batch: Rollout) -> None:
        """Learn from the first batch which terms go along with the reward, and whether texts can tell."""
        nats = -float(batch.log_probs.sum()) / max(1, batch.num_tokens)
        if nats > KNOWS_NOTHING * math.log(batch.episodes[0].tokenizer.vocab_size):
            for name in MEASURES:
                del self.gauges[name]
        totals = batch.scores.totals_or_nan
        for name, values in _terms(batch).items():
            known = ~np.isnan(values) & ~np.isnan(totals)
            spread = values[known].std() * totals[known].std()
            along = float(np.cov(values[known], totals[known], ddof=0)[0, 1]) if spread > 0 else 0.0
            if along > GOES_ALONG * spread:
                self.gauges[name] = Gauge(values[known], -1, CRITERION)

    def _watched(self, episodes: Sequence[Episode]) -> dict[str, FloatArray]:
        """Score texts by the criteria that are watched, `(n,)` each, NaN where one abstains."""
        return {f"watch/{name}": source(episodes).totals_or_nan for name, source in self.watch.items()}

    @property
    def _risen(self) -> bool:
        """True if the mean reward of the last batches exceeds that of the first by more than noise."""
        assert self._first is not None
        mean, variance = self._first
        means, variances = zip(*self._recent, strict=True)
        error = math.sqrt(variance + sum(variances) / len(variances) ** 2)
        return bool(np.mean(means) - mean > RISE * error)

    def _sentence(self, batch: Rollout, out: Mapping[str, Gauge], iteration: int) -> str:
        assert self._first is not None
        now = float(np.mean([mean for mean, _ in self._recent]))
        best = batch.episodes[int(np.nanargmax(batch.scores.totals_or_nan))]
        left = "; ".join(f"{harmless(name)} {gauge}" for name, gauge in out.items())
        return (
            f"iteration {iteration}: the reward may be hacked. It rose from {self._first[0]:.3g} to "
            f"{now:.3g}, while texts left the range they began in: {left}. Read some; "
            f"the best paid of this batch is {excerpt(best.completion, 160)}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what was learnt from batches, as plain JSON data; the texts of the start are not in it."""
        return {
            "alarm": self.alarm,
            "iteration": self.iteration,
            "first": self._first,
            "recent": self._recent,
            "gauges": {name: gauge.state_dict() for name, gauge in self.gauges.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, in a detector that was made with the same texts."""
        self.alarm, self.iteration = state["alarm"], state["iteration"]
        self._first = None if state["first"] is None else tuple(state["first"])
        self._recent = [tuple(pair) for pair in state["recent"]]
        self.gauges = {name: Gauge.of(gauge) for name, gauge in state["gauges"].items()}


def measure_texts(episodes: Sequence[Episode], seen: Mapping[Pair, int], least: int) -> dict[str, FloatArray]:
    """Measure texts by what needs no reward: `(n,)` float64 each.

    Args:
        episodes: `n` texts of one policy.
        seen: Pair of neighbouring tokens -> in how many of the starting texts it stands.
        least: In how many a pair has to stand to be no news: 1, and 2 for one of those texts themselves.

    Returns:
        `length`, tokens; `repetition`, the share of a text's pairs that stood in it before; `copying`, the
        share of its pairs that stand in its prompt; `novelty`, the share that no starting text has;
        `sameness`, 1 if another prompt got the same text; `cut`, 1 if the token limit cut it.
    """
    prompts_of: dict[bytes, set[str]] = {}
    for e in episodes:
        prompts_of.setdefault(e.agent_ids.tobytes(), set()).add(e.prompt.text)
    rows = []
    for e in episodes:
        pairs, asked = pairs_of(e), set(pairwise(e.prompt_ids.tolist()))
        count = max(1, len(pairs))
        rows.append(
            {
                "length": len(e.agent_ids),
                "repetition": (len(pairs) - len(set(pairs))) / count,
                "copying": sum(pair in asked for pair in pairs) / count,
                "novelty": sum(seen.get(pair, 0) < least for pair in pairs) / count,
                "sameness": len(prompts_of[e.agent_ids.tobytes()]) > 1,
                "cut": e.finish_reason == "length",
            }
        )
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in MEASURES}


def mean_of_groups(values: FloatArray, groups: IntArray) -> tuple[float, float]:
    """Return the mean of values, `(n,)`, and its squared standard error, where those of a group go together.

    A single group, or groups of one, count as if there were none.
    """
    names, group = np.unique(groups, return_inverse=True)
    if len(names) == 1:
        names = group = np.arange(len(values))
    mean = float(values.mean())
    sums = np.bincount(group, values - mean)
    count = len(names)
    return mean, float(sums @ sums) * count / (max(1, count - 1) * len(values) ** 2)


def correlation(values: FloatArray, rewards: FloatArray, groups: IntArray) -> float:
    """Return the correlation of values and rewards, `(n,)` each, within groups, in its standard errors.

    Where most groups are of one, it is that of all.
    """
    names, group = np.unique(groups, return_inverse=True)
    if len(values) < 2 * len(names):
        group = np.zeros(len(values), dtype=np.int64)
    count = np.bincount(group)
    a, b = (x - (np.bincount(group, x) / count)[group] for x in (values, rewards))
    scale = math.sqrt(float(a @ a) * float(b @ b))
    free = len(values) - len(count)
    return 0.0 if scale < 1e-12 else float(a @ b) / scale * math.sqrt(max(0, free))


def pairs_of(episode: Episode) -> list[Pair]:
    """Return the pairs of neighbouring tokens that the agent wrote."""
    return list(pairwise(episode.agent_ids.tolist()))


def _terms(batch: Rollout) -> dict[str, FloatArray]:
    """Return the terms of a batch's rewards, `(n,)` each, NaN where there is none."""
    return {
        f"reward/{name}": np.asarray(values, dtype=np.float64) for name, values in batch.scores.terms.items()
    }
