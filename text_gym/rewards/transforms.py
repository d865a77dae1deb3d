"""Transforms of one reward: clip, standardise, penalise, control length, pick a term.

Where an episode's total changes, its per-token rewards stay as they are and the last token is paid the rest.
None of them looks at the text, `LengthControl` aside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from text_gym.episode import Episode, FloatArray
from text_gym.errors import ConfigError, UnknownNameError

from .source import Composite, Source, Wrapper, as_reward_source
from .values import OnBadReward, Rewards, finite, known, nested, unique

LengthUnit = Literal["tokens", "words", "characters"]


class Clip(Wrapper):
    """Limits an episode's total to `[low, high]`."""

    def __init__(self, source: Source, low: float = -np.inf, high: float = np.inf) -> None:
        super().__init__(source)
        if not low <= high:
            raise ConfigError(f"Clip needs low <= high, not low={low} and high={high}")
        self.low, self.high = float(low), float(high)

    def evaluate(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """Clip the totals."""
        rewards = self.inner(episodes, on_bad_reward)
        return with_totals(rewards, np.clip(rewards.totals, self.low, self.high))

    def label(self) -> str:
        """The clip with its bounds."""
        return f"{self.name}: Clip to [{self.low:g}, {self.high:g}]"


class Standardize(Wrapper):
    """Pays `(reward - mean) / std` with constants measured once on reference samples.

    Normalising a reward so before RL keeps the KL coefficient's meaning (Ziegler et al. 2019, section 2.2).

    Args:
        source: The source.
        mean: Mean total on the reference samples.
        std: Their standard deviation (population), > 0.
    """

    def __init__(self, source: Source, mean: float, std: float) -> None:
        super().__init__(source)
        self.mean, self.std = finite("mean", mean), finite("std", std)
        if self.std <= 0:
            raise ConfigError(f"Standardize needs std > 0, not {std}")

    @classmethod
    def fit(cls, source: Source, episodes: Sequence[Episode]) -> Standardize:
        """Measure mean and std on episodes, such as samples of the starting policy.

        Raises:
            ConfigError: All of them (or all that the source judges) score the same.
        """
        source = as_reward_source(source)
        rewards = source(episodes)
        totals = rewards.totals[~rewards.abstained]
        if len(totals) < 2 or np.ptp(totals) == 0:
            raise ConfigError(
                f"cannot standardise {source.name!r}: {len(totals)} reference samples, all of one reward; "
                "pass more varied ones, or mean and std yourself"
            )
        return cls(source, float(totals.mean()), float(totals.std()))

    def evaluate(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """Standardise the totals; per-token rewards are divided by std."""
        rewards = self.inner(episodes, on_bad_reward)
        return _standardized(rewards, self.mean, self.std)

    def label(self) -> str:
        """The transform with its constants."""
        return f"{self.name}: (reward - {self.mean:g}) / {self.std:g}"


class RunningStandardize(Wrapper):
    """Pays `(reward - mean) / std` with the mean and std of every total seen so far, this batch included.

    Non-stationary: the same text gets another reward later, so it is not deterministic, cannot be cached and
    must not re-score transcripts; prefer `Standardize` where reference samples can be had.
    Abstentions are not counted; while all totals are equal, std counts as 1.

    Attributes:
        count: Totals seen.
        mean: Their mean.
        std: Their standard deviation (population).
    """

    batch_invariant = False

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.deterministic = False
        self.causal = False  # an environment would show every prefix to it
        self.count, self.mean, self._squares = 0, 0.0, 0.0

    @property
    def std(self) -> float:
        """The standard deviation of the totals seen."""
        return float(np.sqrt(self._squares / self.count)) if self.count else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return count, mean and sum of squares, and the source's memory."""
        own = {"count": self.count, "mean": self.mean, "squares": self._squares}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        rest = dict(state)
        try:
            self.count, self.mean = int(rest.pop("count")), float(rest.pop("mean"))
            self._squares = float(rest.pop("squares"))
        except KeyError as error:
            raise ConfigError(f"reward {self.name!r} was given the memory of another source") from error
        super().load_state_dict(rest)

    def evaluate(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """Update the running statistics with the batch, then standardise it."""
        rewards = self.inner(episodes, on_bad_reward)
        totals = rewards.totals[~rewards.abstained]
        if len(totals):
            # Chan et al. 1979: statistics of two sets from the statistics of each.
            n, delta = len(totals), float(totals.mean()) - self.mean
            self._squares += float(((totals - totals.mean()) ** 2).sum())
            self._squares += delta**2 * self.count * n / (self.count + n)
            self.mean += delta * n / (self.count + n)
            self.count += n
        return _standardized(rewards, self.mean, self.std or 1.0)


class Penalty(Wrapper):
    """Pays `score - threshold`, times `slope` where that is negative.

    A score at the threshold is worth 0. `slope > 1` makes failing cost more than succeeding pays; `fixed`
    makes every failure cost the same instead. Terms: `penalised` (0 or 1).

    Args:
        source: The scores.
        threshold: The score that is neither rewarded nor punished.
        slope: Factor below the threshold, >= 0.
        fixed: A failure's reward is `-fixed`, whatever its score; None uses the slope.
    """

    def __init__(
        self, source: Source, threshold: float, *, slope: float = 1.0, fixed: float | None = None
    ) -> None:
        super().__init__(source)
        self.threshold, self.slope = finite("threshold", threshold), finite("slope", slope)
        self.fixed = None if fixed is None else finite("fixed", fixed)
        if self.slope < 0 or (self.fixed or 0.0) < 0:
            raise ConfigError(f"Penalty needs slope and fixed >= 0, not {slope} and {fixed}")

    def evaluate(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """Map the totals."""
        rewards = self.inner(episodes, on_bad_reward)
        margin = rewards.totals - self.threshold
        below = margin < 0
        penalty = self.slope * margin if self.fixed is None else np.full(len(margin), -self.fixed)
        terms = {**rewards.terms, "penalised": known(rewards, below)}
        return with_totals(replace(rewards, terms=terms), np.where(below, penalty, margin))

    def label(self) -> str:
        """The transform with its threshold."""
        cost = f"{self.slope:g} × (score - {self.threshold:g})" if self.fixed is None else f"-{self.fixed:g}"
        return f"{self.name}: score - {self.threshold:g}, below 0: {cost}"


class LengthControl(Wrapper):
    """Pays `reward - slope · d`, where `d` is the distance of the length from `[low, high]`.

    Terms: `length` and `length_penalty`. A length in tokens counts the agent's own tokens, EOS included.

    Args:
        source: The source.
        low: Shortest length that costs nothing.
        high: Longest length that costs nothing.
        slope: Cost of each unit outside, >= 0.
        unit: `"tokens"`, `"words"` (between white space) or `"characters"`.
    """

    def __init__(
        self,
        source: Source,
        *,
        low: float = 0.0,
        high: float = np.inf,
        slope: float = 0.01,
        unit: LengthUnit = "tokens",
    ) -> None:
        super().__init__(source)
        if not 0 <= low <= high or slope < 0 or unit not in ("tokens", "words", "characters"):
            raise ConfigError(
                "LengthControl needs 0 <= low <= high, slope >= 0 and unit tokens, words or characters; "
                f"got low={low}, high={high}, slope={slope}, unit={unit!r}"
            )
        self.low, self.high, self.slope, self.unit = float(low), float(high), finite("slope", slope), unit

    def evaluate(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """Subtract the penalty on the last token."""
        rewards = self.inner(episodes, on_bad_reward)
        length = lengths(episodes, self.unit)
        penalty = self.slope * (np.maximum(self.low - length, 0) + np.maximum(length - self.high, 0))
        terms = {**rewards.terms, "length": length, "length_penalty": penalty}
        return replace(rewards, values=rewards.values - penalty, terms=terms)

    def label(self) -> str:
        """The transform with its limits."""
        return f"{self.name}: reward - {self.slope:g} per {self.unit} outside [{self.low:g}, {self.high:g}]"


class Term(Wrapper):
    """Pays one of a source's named terms, such as `Term(SlotCoverage(), "perfect")`.

    A term that is NaN (unknown) abstains. Per-token rewards of the source are not paid.

    Raises:
        UnknownNameError: The source's rewards have no such term (when called).
    """

    def __init__(self, source: Source, term: str) -> None:
        super().__init__(source)
        self.name, self.term = term, term
        self.causal = False

    def evaluate(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """Pay the term's values."""
        rewards = self.inner(episodes, on_bad_reward)
        if self.term not in rewards.terms:
            raise UnknownNameError(f"term of reward {self.source.name!r}", self.term, rewards.terms)
        values = np.asarray(rewards.terms[self.term], dtype=np.float64)
        abstained = rewards.abstained | np.isnan(values)
        return replace(rewards, values=values, per_token=None, abstained=abstained)


def with_totals(rewards: Rewards, totals: FloatArray) -> Rewards:
    """Keep the per-token rewards and set `values` so that the totals become these."""
    paid = rewards.totals - rewards.values
    return replace(rewards, values=totals - paid)


def lengths(episodes: Sequence[Episode], unit: LengthUnit) -> FloatArray:
    """Return the lengths of the completions, `(n,)` float64; tokens are the agent's own, EOS included."""
    if unit == "tokens":
        masks = (e.agent_mask for e in episodes)
        counts = [
            len(e.completion_ids) if m is None else int(m.sum()) for e, m in zip(episodes, masks, strict=True)
        ]
    else:
        counts = [len(e.completion.split() if unit == "words" else e.completion) for e in episodes]
    return np.array(counts, dtype=np.float64)


def _standardized(rewards: Rewards, mean: float, std: float) -> Rewards:
    per_token = rewards.per_token and tuple(t / std for t in rewards.per_token)
    return replace(rewards, values=(rewards.values - mean) / std, per_token=per_token)


class Gate(Composite):
    """Pays `source` where `condition >= threshold`, else `floor`: A only if B.

    Where the condition abstains, so does the gate; where the gate is shut, the source's opinion (and its
    abstention) does not matter. Per-token rewards of a shut episode are withheld, so a gate is not causal.
    Terms: both totals and their own terms, as in a sum, and `open` (0 or 1).

    Args:
        source: What is paid.
        condition: What must hold.
        threshold: Least total of the condition that opens the gate.
        floor: Reward of a shut episode.
    """

    def __init__(
        self,
        source: Source,
        condition: Source,
        *,
        threshold: float = 1.0,
        floor: float = 0.0,
        name: str = "gate",
    ) -> None:
        paid, asked = as_reward_source(source), as_reward_source(condition)
        names = unique([paid.name, asked.name])
        super().__init__(dict(zip(names, (paid, asked), strict=True)), name)
        self.causal = False
        self.threshold = finite("threshold", threshold)
        self.floor = finite("floor", floor)

    def evaluate(self, episodes: Sequence[Episode], on_bad_reward: OnBadReward) -> Rewards:
        """Score both sources on every episode, so that the terms are complete."""
        (paid_name, paid), (asked_name, asked) = (
            (n, s(episodes, on_bad_reward)) for n, s in self.parts.items()
        )
        is_open = asked.totals >= self.threshold
        values = np.where(is_open, paid.values, self.floor)
        per_token = paid.per_token and tuple(t * o for t, o in zip(paid.per_token, is_open, strict=True))
        abstained = asked.abstained | (is_open & paid.abstained)
        terms = nested(paid_name, paid) | nested(asked_name, asked)
        terms["open"] = np.where(asked.abstained, np.nan, is_open)
        return Rewards(values, per_token, terms, abstained)

    def label(self) -> str:
        """The gate with its condition in words."""
        paid, asked = self.parts
        return f"{self.name}: {paid} if {asked} >= {self.threshold:g}, else {self.floor:g}"
